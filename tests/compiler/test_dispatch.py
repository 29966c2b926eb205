"""Ways of tokens to experts: all-gather and shuffles change where rows are, never what comes of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from moe_variants import MOE_VARIANTS
from moec import dsl, models
from moec.cli.verifying import TOLERANCE, draw_batch, draw_weights, run_ranks, verify
from moec.compiler import exchange_ops, model_ops
from moec.compiler.dump import dump_region
from moec.compiler.graph import PartitionedRegion, layout, set_layout
from moec.compiler.layout import Batch, Gathered, Shuffled
from moec.compiler.passes.place import place
from moec.compiler.passes.propagate import propagate
from moec.compiler.passes.route_tokens import route_tokens
from moec.compiler.pipeline import Compiled, CompileOptions, compile_spec, partition
from moec.compiler.reference import reference_step
from moec.compiler.small import small_spec as small_of
from moec.compiler.verify.regions import verify_partitioned, verify_placed
from moec.dsl.spec import Dispatch, ParallelSpec, Spec
from moec.runtime.abi.mesh import Mesh
from moec.runtime.transport import loopback
from small_models import relative, small_spec

from .faults import caught, first
from .stages import EIGHT_RANKS, ONE_RANK, reference

GOLDENS = Path(__file__).parent / "goldens"
OTHERS = {
    "all_gather": Dispatch("all_gather"),
    "all_to_all shuffled": Dispatch("all_to_all", shuffle=True),
    "all_gather shuffled": Dispatch("all_gather", shuffle=True),
}
"""All but the plain all-to-all."""

ROUTED = [
    "mixtral", "shared", "z", "dense layers", "no experts", "uneven experts", "micro-batches", "shortcut",
    "hash", "jitter", "correction", *MOE_VARIANTS,
]  # fmt: skip
"""Variants that differ in their experts, or in what goes to them."""

others = pytest.mark.parametrize("dispatch", OTHERS.values(), ids=OTHERS)
FOUR_RANKS = {"expert": 2, "shard": 2, "replicate": 2, "expert_shard": 2}
LAYOUTS = (FOUR_RANKS, {"expert": 4, "shard": 4}, {"expert": 3, "shard": 3}, {"expert": 2, "replicate": 2})


def routed(spec: Spec, dispatch: Dispatch, mesh: Mesh = EIGHT_RANKS) -> PartitionedRegion:
    """A layer with its collectives."""
    return partition(reference(spec).kinds["layer_0"], mesh, dispatch)


def compiled(spec: Spec, dispatch: Dispatch) -> Compiled:
    spec = replace(spec, parallel=replace(spec.parallel, dispatch=dispatch))
    return compile_spec(spec, CompileOptions(dtype="fp64", update=False))


def failing(program: Compiled) -> set[str]:
    """What the ranks have otherwise than one rank, with nothing but the reference graphs."""
    told = loopback.run_ranks(program.plan.mesh.world, lambda transport: verify(program, transport))
    assert len(told[0]) > 3
    return {d.name for d in told[0] if not d.relative <= TOLERANCE}


# --- the same meaning ---


def _rotated(names: list[str]) -> list[Any]:
    """Every name with every dispatch; for half of the names one of them, in turn, is not slow."""
    pairs = itertools.product(enumerate(names), enumerate(OTHERS.items()))
    return [
        pytest.param(
            name,
            dispatch,
            id=f"{name}-{label}",
            marks=() if at % (2 * len(OTHERS)) == turn else pytest.mark.slow,
        )
        for (at, name), (turn, (label, dispatch)) in pairs
    ]


@pytest.mark.parametrize(("name", "dispatch"), _rotated(list(models.names())))
def test_shipped_models(name: str, dispatch: Dispatch) -> None:
    """Every loss, load and gradient on four ranks, to 1e-10 in float64; each model by all ways when slow."""
    spec = dsl.load(name, (), models.read)
    spec = replace(spec, parallel=ParallelSpec(**FOUR_RANKS))  # type: ignore[arg-type]
    assert failing(compiled(small_of(spec, 4), dispatch)) == set()


@pytest.mark.parametrize(("variant", "dispatch"), _rotated(ROUTED))
def test_variants(variant: str, dispatch: Dispatch) -> None:
    """Each in turn on another layout: five sequences on three or four ranks, four experts on three."""
    degrees = LAYOUTS[ROUTED.index(variant) % len(LAYOUTS)]
    assert failing(compiled(small_spec(variant, **degrees), dispatch)) == set()  # type: ignore[arg-type]


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from(["z", "identity and capacity", "padded capacity", "weighed input", "latent", "jitter"]),
    st.sampled_from([(2, 2, 2), (2, 1, 2), (1, 3, 3), (4, 2, 8), (1, 4, 2), (2, 3, 6)]),
    st.sampled_from([*OTHERS.values()]),
    st.integers(1, 3),
    st.integers(2, 9),
    st.sampled_from(["none", "full"]),
)
def test_any_layout(
    variant: str,
    degrees: tuple[int, int, int],
    dispatch: Dispatch,
    each: int,
    experts: int,
    recompute: str,
) -> None:
    """Ranks without a sequence, ranks without an expert, experts without a token, fewer tokens than ranks."""
    shard, replicate, expert = degrees
    spec = small_spec(
        variant, expert, shard, replicate, experts=str(experts), sequences=str(2 * each),
        micro_batches="2", recompute=recompute,
    )  # fmt: skip
    assert failing(compiled(spec, dispatch)) == set()


@others
@pytest.mark.parametrize("experts", ["4", "6"])
def test_tokens_of_a_rank_that_its_group_does_not_divide(dispatch: Dispatch, experts: str) -> None:
    """Six tokens on each of four ranks."""
    spec = small_spec("z", expert=4, shard=2, replicate=2, sequences="4", experts=experts)
    assert failing(compiled(spec, dispatch)) == set()


def test_losses_and_gradients_of_all_dispatches() -> None:
    """One batch, one start: four programs and one device, compared with each other element by element."""
    spec = small_spec("z", **FOUR_RANKS)  # type: ignore[arg-type]
    weights, (tokens, targets) = draw_weights(spec, 5), draw_batch(spec, 5)
    expected = reference_step(spec.model, weights, tokens, targets, 1, spec.train.seed)
    for dispatch in (Dispatch(), *OTHERS.values()):
        program = compiled(spec, dispatch)
        (found, *_) = loopback.run_ranks(
            4, lambda transport, p=program: run_ranks(p, transport, weights, tokens, targets)
        )
        for name, loss in expected.losses.items():
            assert found.losses[name] == pytest.approx(loss, rel=1e-12), (dispatch, name)
        for name, gradient in expected.gradients.items():
            assert relative(found.gradients[name], gradient) < 1e-11, (dispatch, name)


# --- the graphs ---


@others
def test_a_layer(dispatch: Dispatch, golden: Callable[[str, Path], None]) -> None:
    """After the choice of a way, and with its collectives."""
    region = place(reference(small_spec("per layer")).kinds["layer_0"], EIGHT_RANKS)
    propagate(region)
    region = route_tokens(region, EIGHT_RANKS, dispatch)
    propagate(region)
    texts = {"route_tokens": dump_region(region)}
    texts["lower_redistribution"] = dump_region(routed(small_spec("per layer"), dispatch))
    name = f"dispatch_{dispatch.by}{'_shuffled' * dispatch.shuffle}.txt"
    golden("\n".join(f"=== {name}\n{text}\n" for name, text in texts.items()), GOLDENS / name)


def operations(region: PartitionedRegion) -> Counter[str]:
    return Counter(getattr(n.target, "__name__", "") for n in region.nodes() if n.op == "call_function")


@pytest.mark.parametrize(("variant", "dispatch"), _rotated(ROUTED))
def test_collectives_of_a_layer(variant: str, dispatch: Dispatch) -> None:
    """All-gather: tokens, choices and weights once, one sum back. A shuffle: the same and the sum.

    Where weights multiply what goes in, there are others for what comes out.
    """
    region = reference(small_spec(variant)).kinds["layer_0"]
    moes = operations(region)["group_by_expert"]  # type: ignore[arg-type]
    weighs = 2 if variant == "weighed input" else 1
    found = operations(routed(small_spec(variant), dispatch))
    gathered = dispatch.by == "all_gather"
    assert found["gather_rows"] == (2 + weighs) * moes * gathered
    assert found["scatter_sums"] == moes * gathered
    assert found["exchange_counts"] == moes * (not gathered)
    assert found["all_to_all"] == 2 * moes * (not gathered)
    assert found["shuffle"] == (2 + weighs) * moes * dispatch.shuffle
    assert found["unshuffle"] == moes * dispatch.shuffle
    assert found["shuffle_order"] == min(moes, 1) * dispatch.shuffle


@others
def test_one_rank_has_no_way_to_go(dispatch: Dispatch) -> None:
    region = reference(small_spec()).kinds["layer_0"]
    assert operations(partition(region, ONE_RANK, dispatch)) == operations(region)  # type: ignore[arg-type]


def test_routers_decide_where_tokens_are() -> None:
    """Scores, choices and statistics are of a rank's own tokens, whatever becomes of them."""
    region = routed(small_spec("z"), OTHERS["all_gather shuffled"])
    mixed = {
        exchange_ops.gather_rows, exchange_ops.own_expert, exchange_ops.own_order, exchange_ops.shuffle,
        exchange_ops.combine_own,
    }  # fmt: skip
    for node in region.nodes():
        if node.op == "call_function" and isinstance(layout(node), Gathered | Shuffled):
            assert node.target in mixed | {exchange_ops.scatter_sums} or node.name.startswith("getitem")


# --- shuffles ---


def test_a_shuffle_evens_out_what_is_sent() -> None:
    """Every rank's tokens choose the experts of one rank: without a shuffle all it has goes there."""
    spec = small_spec("one choice", expert=4, shard=4, sequences="64", layers="1")
    plain, shuffled = (_sent(spec, Dispatch(shuffle=on)) for on in (False, True))
    assert plain == [[0] * rank + [96] + [0] * (3 - rank) for rank in range(4)]
    assert all(sum(counts) == 96 and 14 <= min(counts) <= max(counts) <= 34 for counts in shuffled)
    arrived = [sum(column) for column in zip(*shuffled, strict=True)]
    assert arrived == [96] * 4  # as many as before: that is for the router to say


def _sent(spec: Spec, dispatch: Dispatch) -> list[list[int]]:
    """Rows that each rank sends to each, on its way to experts, when rank i prefers expert i.

    The token ids of a rank's sequences are all one, and a router's row looks at one dim of their embedding.
    """
    program = compiled(spec, dispatch)
    weights = {name: torch.zeros_like(w) for name, w in draw_weights(spec, 1).items()}
    for token in range(4):
        weights["embed"][token, token] = 1.0
        weights["layers.0.experts.router"][token, token] = 9.0
    weights["layers.0.experts.norm"] += 1.0
    tokens = torch.arange(4).repeat_interleave(16).view(64, 1).repeat(1, spec.train.sequence)
    sent: dict[int, list[int]] = {}

    def run(transport: Any) -> None:
        counting = _Counting(transport, sent)
        run_ranks(program, counting, weights, tokens, tokens)  # type: ignore[arg-type]

    loopback.run_ranks(4, run)
    return [sent[rank] for rank in range(4)]


class _Counting:
    """A transport that notes the first exchange whose counts have been exchanged, which is of rows."""

    def __init__(self, transport: Any, sent: dict[int, list[int]]) -> None:
        self._transport, self._sent = transport, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def groups(self, axes: Any) -> Any:
        groups = self._transport.groups(axes)
        return groups | {"expert": _CountingGroup(groups["expert"], self._transport.rank, self._sent)}


class _CountingGroup:
    def __init__(self, group: Any, rank: int, sent: dict[int, list[int]]) -> None:
        self._group, self._rank, self._sent, self._counted = group, rank, sent, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def all_to_all(self, x: torch.Tensor, send: list[int], receive: list[int]) -> Any:
        if self._counted:
            self._sent.setdefault(self._rank, list(send))
        self._counted = self._counted or x.dim() == 1
        return self._group.all_to_all(x, send, receive)


# --- faults are found ---


def lost_shuffle_back(graph: fx.Graph) -> str:
    back = first(graph, exchange_ops.unshuffle)
    back.replace_all_uses_with(back.args[0])  # type: ignore[arg-type]
    graph.erase_node(back)
    return "gives no layout"


def rows_of_other_tokens(graph: fx.Graph) -> str:
    dispatched = first(graph, model_ops.dispatch)
    dispatched.update_arg(0, dispatched.args[0].args[0])  # type: ignore[union-attr]
    return "argument 0, %rms_norm_1, is not shuffled(expert)"


@pytest.mark.parametrize("fault", [lost_shuffle_back, rows_of_other_tokens], ids=lambda f: f.__name__)
def test_faults_in_a_shuffle(fault: Callable[[fx.Graph], str]) -> None:
    region = routed(small_spec("per layer"), OTHERS["all_to_all shuffled"])
    message = fault(region.graph)
    caught(lambda: verify_partitioned(region, EIGHT_RANKS), message)


def lost_sum(graph: fx.Graph) -> str:
    sums = first(graph, exchange_ops.scatter_sums)
    sums.target, sums.args = model_ops.scaled, (sums.args[0], 1.0)
    return "says batch, but gives summand of gathered(expert)"


def weights_of_one_rank(graph: fx.Graph) -> str:
    combined = first(graph, exchange_ops.combine_own)
    combined.update_arg(1, combined.args[1].args[0])  # type: ignore[union-attr]
    return "is not gathered(expert)"


@pytest.mark.parametrize("fault", [lost_sum, weights_of_one_rank], ids=lambda f: f.__name__)
def test_faults_in_a_gather(fault: Callable[[fx.Graph], str]) -> None:
    region = routed(small_spec("per layer"), OTHERS["all_gather"])
    message = fault(region.graph)
    caught(lambda: verify_partitioned(region, EIGHT_RANKS), message)


def test_a_wrong_layout_is_found() -> None:
    region = place(reference(small_spec()).kinds["layer_0"], EIGHT_RANKS)
    propagate(region)
    region = route_tokens(region, EIGHT_RANKS, OTHERS["all_gather"])
    propagate(region)
    set_layout(first(region.graph, exchange_ops.combine_own), Batch())
    caught(lambda: verify_placed(region, EIGHT_RANKS), "says batch, but gives summand of gathered(expert)")
