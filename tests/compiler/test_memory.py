"""The choice of what is made again, and the copies to host memory in the graph of a micro-batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import fx

from memory_runs import compiled_with, run_step
from moec.compiler.differentiate.policy import KEEP_ALL, KEEP_NONE, Policy
from moec.compiler.differentiate.trace import Joint
from moec.compiler.errors import CompileError, InternalCompilerError
from moec.compiler.graph import component
from moec.compiler.memory.choose import Option, choose, measure, options
from moec.compiler.memory.kept import footprint
from moec.compiler.memory.predict import predict
from moec.compiler.memory.report import memory_text
from moec.compiler.memory.sizes import Sizes, sizes_by_kind
from moec.compiler.memory.work import OPERATIONS_PER_SENT_BYTE, work
from moec.compiler.pipeline import Compiled, CompileOptions, compile_spec, partition, trace
from moec.compiler.schedule.offload import calls
from moec.compiler.small import small_spec as small
from moec.compiler.verify.schedule import verify_micro_batch
from moec.dsl.spec import Dispatch, Documents, RecomputeAuto
from moec.runtime.abi import machine_ops
from small_models import small_spec

from .stages import EIGHT_RANKS, partitioned, reference

GOLDENS = Path(__file__).parent / "goldens"
TWO_KINDS = {"layers": "4", "ffn": "match layer { 0 => dense, _ => experts }"}
COUNTS = {"embed": 1, "layer_0": 1, "layer_1": 3, "head": 1}


@cache
def joints() -> dict[str, Joint]:
    spec = small_spec("shared", **TWO_KINDS)
    return {kind: trace(partitioned(spec, EIGHT_RANKS, kind)) for kind in COUNTS}


@cache
def sizes() -> dict[str, Sizes]:
    spec = small_spec("shared", **TWO_KINDS)
    return sizes_by_kind(reference(spec), spec.model, EIGHT_RANKS)


def chosen(budget: int) -> tuple[int, int]:
    """Bytes and work of what `auto` chooses for a budget."""
    spec = small_spec("shared", **TWO_KINDS)
    policies = choose(RecomputeAuto(budget), joints(), spec.model, reference(spec).chain, sizes())
    found = {kind: measure(joints()[kind], policy, sizes()[kind]) for kind, policy in policies.items()}
    return total(found)


def total(found: dict[str, Option]) -> tuple[int, int]:
    return (
        sum(COUNTS[kind] * option.kept_bytes for kind, option in found.items()),
        sum(COUNTS[kind] * option.work for kind, option in found.items()),
    )


def test_traced_values_know_their_component() -> None:
    """Collectives and backward included: what is on the way to experts and back is of `experts`."""
    names = {component(node) for node in joints()["layer_1"].graph.nodes}
    assert names >= {
        "attention",
        "attention.norm",
        "experts",
        "experts.norm",
        "experts.router",
        "experts.expert",
    }
    exchanges = {component(n) for n in joints()["layer_1"].graph.nodes if "all_to_all" in str(n.target)}
    assert exchanges == {"experts"}
    products = {component(n) for n in joints()["layer_1"].graph.nodes if "expert_mm" in str(n.target)}
    assert products == {"experts.expert"}


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8])
def test_auto_takes_the_least_work_of_all_combinations_that_fit(share: float) -> None:
    """Against all combinations of the options of all kinds, one by one."""
    every = [options(joint, sizes()[kind]) for kind, joint in joints().items()]
    combined = [total(dict(zip(joints(), some, strict=True))) for some in itertools.product(*every)]
    least, most = min(combined)[0], max(combined)[0]
    budget = int(least + share * (most - least))
    kept, done = chosen(budget)
    assert kept <= budget
    assert done == min(done for size, done in combined if size <= budget)


def test_options_span_from_everything_kept_to_nothing() -> None:
    for kind, joint in joints().items():
        found = options(joint, sizes()[kind])
        assert found[0].kept_bytes == measure(joint, KEEP_NONE, sizes()[kind]).kept_bytes
        assert found[-1].work == 0
        assert found[-1].kept_bytes == measure(joint, KEEP_ALL, sizes()[kind]).kept_bytes
        pairs = itertools.pairwise(found)
        assert all(a.kept_bytes < b.kept_bytes and a.work > b.work for a, b in pairs)


def test_a_budget_that_nothing_fits_is_refused_with_numbers() -> None:
    least = sum(COUNTS[k] * measure(j, KEEP_NONE, sizes()[k]).kept_bytes for k, j in joints().items())
    assert chosen(least)[0] == least
    with pytest.raises(
        CompileError, match=f"at least {least:,} bytes .*3 x layer_1 .*the budget of {least - 1:,}"
    ):
        chosen(least - 1)


def test_a_number_of_rows_is_not_asked_for_twice() -> None:
    """Where components are made again; only `layer` asks again."""

    def asked(memory: str) -> int:
        backward = compiled_with(memory, expert=2, shard=2).programs["layer_0.backward"]
        return sum(i.op == "aten._local_scalar_dense.default" for i in backward.instructions)

    assert (asked("recompute = experts"), asked("recompute = layer")) == (0, 1)


@pytest.mark.parametrize("dispatch", [Dispatch(), Dispatch("all_gather"), Dispatch("all_gather", True)])
def test_experts_made_again_move_their_rows_again_and_products_alone_do_not(dispatch: Dispatch) -> None:
    def moves(memory: str) -> int:
        backward = compiled_with(memory, expert=2, shard=2, dispatch=dispatch).programs["layer_0.backward"]
        moving = ("moec.all_to_all_start", "moec.shard_gather_start", "moec.reduce_scatter_start")
        return sum(i.op in moving for i in backward.instructions)

    kept = moves("recompute = none")
    assert moves("recompute = [experts.expert]") == kept
    assert moves("recompute = experts") > kept


@pytest.mark.parametrize("dispatch", [Dispatch(), Dispatch("all_gather"), Dispatch("all_gather", True)])
def test_all_that_a_layer_sends_again_counts(dispatch: Dispatch) -> None:
    """Every byte that a collective gives; that one takes in, where it gives sums of what all took in."""
    region = partition(reference(small_spec("shared")).kinds["layer_0"], EIGHT_RANKS, dispatch)
    joint = trace(region)
    moec = torch.ops.moec
    moving = (moec.all_to_all.default, moec.shard_gather.default, moec.reduce_scatter.default)
    nodes = [node for node in joint.graph.nodes if node.target in moving]
    assert nodes
    known = Sizes({"experts": 7}).of(joint.graph)
    for node in nodes:
        counted = node.args[0] if node.target is moec.reduce_scatter.default else node
        assert work(node, known) == OPERATIONS_PER_SENT_BYTE * known.bytes(counted) > 0


def test_attention_within_documents_is_as_much_work_as_without() -> None:
    def found(documents: Documents) -> list[int]:
        spec = small_spec("window")
        spec = replace(spec, train=replace(spec.train, documents=documents))
        graph = compile_spec(spec, CompileOptions(update=False)).joints["layer_0"].graph
        return [work(n, Sizes()) for n in graph.nodes if str(n.target).endswith("attention.default")]

    assert found("separate") == found("joined") == [5 * 4 * 6 * 6 * 8]


@pytest.mark.parametrize(
    "memory", ["recompute = none", "recompute = experts", "recompute = layer", "recompute = attention"]
)
def test_what_is_chosen_by_is_what_a_region_keeps(memory: str) -> None:
    """`measure` before the split says what `footprint` reads off the split."""
    compiled = compiled_with(memory, expert=2, shard=2)
    found = sizes_by_kind(compiled.reference, compiled.spec.model, compiled.plan.mesh)
    for kind, region in compiled.differentiated.items():
        joint = trace(compiled.partitioned[kind])
        expected = measure(joint, compiled.policies[kind], found[kind]).kept_bytes
        assert footprint(region, found[kind]).kept_bytes == expected


# --- offload ---


@cache
def offloaded(horizon: int) -> Compiled:
    memory = f"offload = activations(horizon: {horizon}, least: 100B)"
    return compiled_with(memory, changes={"layers": "5"}, expert=2, shard=2)


@pytest.mark.parametrize("horizon", [1, 3])
def test_copies_come_back_a_horizon_ahead(horizon: int) -> None:
    graph = offloaded(horizon).micro_batch.graph
    backward = calls(graph, "backward")[::-1]
    place = {node: i for i, node in enumerate(graph.nodes)}
    loads = [node for node in graph.nodes if node.target is machine_ops.load_start]
    assert loads
    for load in loads:
        (wait,) = load.users
        (call,) = wait.users
        ahead = backward[backward.index(call) + horizon]
        assert place[load] < place[ahead] < place[call]
        later = backward[backward.index(call) + horizon + 1 :]
        assert all(place[one] < place[load] for one in later)


def test_what_is_small_and_what_is_a_number_stays() -> None:
    compiled = offloaded(1)
    graph, kept = compiled.micro_batch.graph, compiled.footprints["layer_0"].results
    moved = {n.args[0].args[1] for n in graph.nodes if n.target is machine_ops.offload_start}  # type: ignore[union-attr]
    assert all(kept[i].bytes >= 100 for i in moved)  # type: ignore[index]
    small = {i for i, value in enumerate(kept) if value.bytes < 100}
    assert any(kept[i].type == "number" for i in small)


def test_a_horizon_longer_than_the_chain_moves_nothing() -> None:
    compiled = compiled_with("offload = activations(horizon: 100, least: 0B)")
    assert all(n.target is not machine_ops.offload_start for n in compiled.micro_batch.graph.nodes)


def test_a_longer_horizon_holds_more() -> None:
    peaks = [
        predict(c.micro_batch, c.reference.chain, c.footprints).saved_bytes for c in map(offloaded, (1, 2, 3))
    ]
    assert peaks == sorted(set(peaks))


def _use_after_it_left(graph: fx.Graph) -> str:
    start = next(n for n in graph.nodes if n.target is machine_ops.offload_start)
    with graph.inserting_after(start):
        graph.call_function(machine_ops.sum_of_squares, (start.args[0],))
    return "uses afterwards"


def _load_what_never_left(graph: fx.Graph) -> str:
    load = next(n for n in graph.nodes if n.target is machine_ops.load_start)
    load.args = (load.args[0].args[0].args[0],)  # type: ignore[union-attr]
    return "not in host memory"


def _never_come_back(graph: fx.Graph) -> str:
    load = next(n for n in graph.nodes if n.target is machine_ops.load_start)
    (wait,) = load.users
    wait.replace_all_uses_with(load.args[0])  # type: ignore[arg-type]
    return "not loaded for one backward"


@pytest.mark.parametrize("break_it", [_use_after_it_left, _load_what_never_left, _never_come_back])
def test_the_verifier_finds(break_it) -> None:  # type: ignore[no-untyped-def]
    compiled = compiled_with("offload = activations(horizon: 1, least: 100B)", changes={"layers": "5"})
    problem = break_it(compiled.micro_batch.graph)
    with pytest.raises(InternalCompilerError, match=problem):
        verify_micro_batch(compiled.micro_batch)


def test_memory_as_text(golden: Callable[[str, Path], None]) -> None:
    """What `moec show --stage memory` prints."""
    memory = "recompute = auto(70KB), offload = activations(horizon: 1, least: 0B), loss_chunk = 5 tokens"
    compiled = compiled_with(memory, "shared", TWO_KINDS, expert=2, shard=2)
    golden(memory_text(compiled) + "\n", GOLDENS / "memory.txt")


@pytest.mark.parametrize(
    "memory",
    ["recompute = auto(100GiB), loss_chunk = 4K tokens", "offload = activations, gathered = keep"],
)
def test_a_small_model_does_what_the_large_one_does(memory: str) -> None:
    """Where `moec verify` looks: values are made again, the loss is of chunks, something is offloaded."""
    spec = small(compiled_with(memory, changes={"layers": "5"}).spec, 2)
    compiled = compile_spec(spec)
    ops = {i.op for program in compiled.programs.values() for i in program.instructions}
    if spec.memory.offload is not None:
        assert "moec.offload_start" in ops
    else:
        assert "moec.token_losses" in ops
        assert measure(compiled.joints["layer_0"], compiled.policies["layer_0"], Sizes()).work > 0


@pytest.mark.parametrize("memory", ["recompute = none", "recompute = layer", "loss_chunk = 4 tokens"])
def test_what_regions_compute_is_held_as_predicted(memory: str) -> None:
    """To the byte, instruction by instruction; what kernels hold while they run is not counted."""
    compiled = compiled_with(memory, "shared")
    (outcome,) = run_step(compiled)
    assert outcome.held.computed == {
        f"{kind}.{half}": size
        for kind, found in compiled.footprints.items()
        for half, size in found.computed_bytes.items()
    }


def test_a_policy_names_what_it_makes_again() -> None:
    assert [str(p) for p in (KEEP_ALL, KEEP_NONE, Policy(("attention", "")))] == [
        "none",
        "layer",
        "attention, the rest",
    ]
