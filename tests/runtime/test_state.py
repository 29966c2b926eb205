"""The state of a rank: the same model at every degree, each rank with its own part of it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from moec.compiler.emit.bundle import manifest
from moec.compiler.pipeline import compile_spec
from moec.dsl.parameters import model_parameters
from moec.runtime.abi.bundle import STATE_PARTS
from moec.runtime.draw import normal
from moec.runtime.state import TrainState, make_state, parameter_prefix
from small_models import small_spec

CPU = torch.device("cpu")
DEGREES = [
    {},
    {"shard": 3},
    {"shard": 2, "replicate": 2, "expert": 2},
    {"shard": 2, "replicate": 4, "expert": 4, "expert_shard": 2},
    {"shard": 1, "replicate": 8, "expert": 8},
]


def states(degrees: dict[str, int], variant: str = "gated") -> list[TrainState]:
    """Of all ranks, drawn."""
    described = manifest(compile_spec(small_spec(variant, **degrees)))  # type: ignore[arg-type]
    found = [make_state(described, rank, CPU) for rank in range(described.world)]
    for state in found:
        state.draw(seed=7, std=0.1)
    return found


def assembled(ranks: list[TrainState]) -> dict[str, Tensor]:
    """Whole parameters by name, from everybody's shards; replicas are equal."""
    whole: dict[str, Tensor] = {}
    for state in ranks:
        for name, shard in state.parameters.items():
            for piece in state.pieces(name):
                flat = whole.setdefault(piece.name, torch.full(piece.shape, torch.nan)).view(-1)
                mine = shard[piece.offset : piece.offset + piece.count]
                there = flat[piece.start : piece.start + piece.count]
                assert bool(there.isnan().all()) or torch.equal(there, mine)
                there.copy_(mine)
    return whole


@pytest.mark.parametrize("degrees", DEGREES, ids=str)
@pytest.mark.parametrize("variant", ["gated", "uneven experts"])
def test_the_model_is_the_same_at_every_degree(degrees: dict[str, int], variant: str) -> None:
    """Every element of every parameter, by its rule: matrices drawn, norms one, biases zero."""
    whole = assembled(states(degrees, variant))
    expected = {}
    for region, parameter in model_parameters(small_spec(variant).model):
        for name in parameter.names(region):
            size = torch.Size(parameter.shape).numel()
            expected[name] = {
                "normal": normal(7, name, 0, size, 0.1, torch.float32),
                "ones": torch.ones(size),
                "zeros": torch.zeros(size),
            }[parameter.init].view(parameter.shape)
    assert whole.keys() == expected.keys()
    assert all(torch.equal(whole[name], expected[name]) for name in expected)
    assert {"layers.0.attention.q_bias", "embed", "logits", "norm"} - whole.keys() == (
        set() if variant == "gated" else {"layers.0.attention.q_bias"}
    )


def test_what_no_parameter_needs_stays_zero() -> None:
    """Padding of shards, and experts that are there to make the ranks even."""
    for state in states({"shard": 3, "expert": 3}, "uneven experts"):
        for name, shard in state.parameters.items():
            held = torch.zeros(len(shard), dtype=torch.bool)
            for piece in state.pieces(name):
                held[piece.offset : piece.offset + piece.count] = True
            assert shard[~held].abs().sum() == 0


def test_another_seed_is_another_model() -> None:
    (state,) = states({})
    before = {name: shard.clone() for name, shard in state.parameters.items()}
    state.draw(seed=8, std=0.1)
    assert not torch.equal(before["embed/matrices"], state.parameters["embed/matrices"])


def test_the_step_takes_all_shards_part_by_part() -> None:
    """In the order of the labels of its inputs, each shard itself and no copy."""
    compiled = compile_spec(small_spec())
    state = make_state(manifest(compiled), 0, CPU)
    labels = [f"{name}.{part}" for part in STATE_PARTS for name in state.buffers]
    assert list(compiled.programs["step"].input_labels[-len(labels) :]) == labels
    for label, shard in zip(labels, state.arguments(), strict=True):
        name, _, part = label.rpartition(".")
        assert shard is state.parts[part][name]
    assert state.gradients is state.parts["gradient"]


def test_names_of_states() -> None:
    assert parameter_prefix("layers.3/matrices") == "layers.3"
    assert parameter_prefix("embed/matrices") == ""
    assert parameter_prefix("head/vectors") == ""


def test_every_parameter_is_in_one_state() -> None:
    (state,) = states({})
    held = Counter(piece.name for name in state.buffers for piece in state.pieces(name))
    names = [n for region, p in model_parameters(small_spec("gated").model) for n in p.names(region)]
    assert held == Counter(names)
