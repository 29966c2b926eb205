"""That every element of every parameter was initialised once is seen, and what was not is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.compiler.emit.bundle import manifest
from moec.compiler.pipeline import compile_spec
from moec.runtime.abi.buffers import Piece
from moec.runtime.abi.bundle import Manifest
from moec.runtime.initialise import check_initialised
from moec.runtime.state import TrainState, make_state
from moec.runtime.transport import loopback
from moec.runtime.written import InitialisationError
from small_models import small_spec

CPU = torch.device("cpu")
DEGREES: list[dict[str, int]] = [
    {}, {"shard": 3}, {"shard": 2, "replicate": 2, "expert": 2},
    {"shard": 2, "replicate": 4, "expert": 4, "expert_shard": 2}, {"replicate": 3, "expert": 3},
]  # fmt: skip


def described(degrees: dict[str, int], variant: str = "correction") -> Manifest:
    return manifest(compile_spec(small_spec(variant, experts="5", **degrees)))  # type: ignore[arg-type]


class Broken(TrainState):
    """A state whose pieces a fault has changed."""

    fault: Any = None

    def pieces(self, name: str) -> Iterator[Piece]:
        """As `fault` has them."""
        yield from self.fault(name, list(super().pieces(name)))


def initialised(found: Manifest, fault: Any = None, at: int = 0) -> None:
    """Draw on all ranks, of which one has a fault, and compare."""

    def run(transport: Any) -> None:
        state = make_state(found, transport.rank, CPU)
        if fault is not None and transport.rank == at:
            state.__class__ = Broken
            state.fault = fault  # type: ignore[attr-defined]
        state.draw(0, 0.02)
        check_initialised(state, transport)
        assert state.written.ranges == {}

    loopback.run_ranks(found.world, run)


def refused(found: Manifest, fault: Any, at: int = 0) -> str:
    with pytest.raises(InitialisationError) as error:
        initialised(found, fault, at)
    assert error.value.exit_code == 70
    return str(error.value)


@pytest.mark.parametrize("degrees", DEGREES, ids=str)
@pytest.mark.parametrize("variant", ["correction", "gated", "tied"])
def test_what_is_drawn_is_whole(degrees: dict[str, int], variant: str) -> None:
    """Experts that do not divide, biases that all ranks hold, a table that two regions share."""
    initialised(described(degrees, variant))


def of_state(state: str, change: Any) -> Any:
    return lambda name, pieces: change(pieces) if name == state else pieces


@pytest.mark.parametrize("degrees", DEGREES, ids=str)
def test_a_missing_piece_is_named(degrees: dict[str, int]) -> None:
    """On one of several copies, too, though another has it."""
    found = described(degrees)
    at = found.world - 1
    lost = [*make_state(found, at, CPU).pieces("layers.1/matrices")][-1]
    message = refused(found, of_state("layers.1/matrices", lambda pieces: pieces[:-1]), at)
    end = lost.start + lost.count
    assert message == f"{lost.name}: elements {lost.start} to {end} were initialised by no rank"


@pytest.mark.parametrize("degrees", DEGREES[1:], ids=str)
def test_a_piece_of_another_rank_is_named(degrees: dict[str, int]) -> None:
    """A rank that takes itself for its neighbour draws what that one draws, and not its own."""
    found = described(degrees)
    other = make_state(found, 1, CPU)
    message = refused(found, lambda name, _: list(other.pieces(name)), 0)
    assert "by no rank" in message or "twice, by ranks 0 and 1" in message


def test_a_doubled_piece_is_named() -> None:
    """In one shard, where it lies over another."""
    found = described({"shard": 2})
    first = next(make_state(found, 1, CPU).pieces("layers.0/matrices"))
    message = refused(found, of_state("layers.0/matrices", lambda pieces: [*pieces, pieces[0]]), 1)
    assert message == f"rank 1 wrote {first.name} over {first.name} in its shard of layers.0/matrices"


def test_a_shifted_piece_is_named() -> None:
    """Ranges that overlap over ranks, each of which has its shard full."""
    found = described({"shard": 2})
    change = of_state("embed/matrices", lambda pieces: [replace(p, start=p.start - 3) for p in pieces])
    assert refused(found, change, 1) == "embed: elements 229 to 232 were initialised twice, by ranks 0 and 1"


def test_a_piece_past_the_end_is_named() -> None:
    found = described({})
    (piece,) = make_state(found, 0, CPU).pieces("embed/matrices")

    def run(transport: Any) -> None:
        state = make_state(found, 0, CPU)
        state.draw(0, 0.02)
        state.written.ranges["embed/matrices"].clear()
        state.written.add("embed/matrices", replace(piece, offset=1), 0, piece.count)
        check_initialised(state, transport)

    with pytest.raises(InitialisationError, match=r"rank 0 wrote embed past the end of its shard of embed/"):
        loopback.run_ranks(1, run)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_no_fault_is_missed(data: st.DataObject) -> None:
    """Any piece of any rank left out, or cut short at either end."""
    found = _manifest()
    at = data.draw(st.integers(0, found.world - 1))
    pieces = [(name, p) for name in found.states() for p in make_state(found, at, CPU).pieces(name)]
    state, lost = data.draw(st.sampled_from(pieces))
    kept = data.draw(st.integers(0, lost.count - 1))
    from_end = data.draw(st.booleans())
    moved = lost.count - kept if from_end else 0
    changed = replace(lost, start=lost.start + moved, offset=lost.offset + moved, count=kept)
    fault = of_state(state, lambda given: [changed if p == lost else p for p in given])
    assert lost.name in refused(found, fault, at)


_KNOWN: list[Manifest] = []


def _manifest() -> Manifest:
    """Compiled once."""
    if not _KNOWN:
        _KNOWN.append(described(DEGREES[2]))
    return _KNOWN[0]
