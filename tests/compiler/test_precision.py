"""bf16: what is computed in which format, where casts are, and that the numbers are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moec.cli.verifying import Ranks, run_ranks
from moec.compiler.dump import dump_plan
from moec.compiler.pipeline import Compiled, CompileOptions, compile_spec
from moec.compiler.reference import Reference, reference_step
from moec.dsl.spec import Dispatch, MemorySpec, Offload, PrecisionSpec, Spec
from moec.runtime.abi.program import Instruction, Ref, listing
from moec.runtime.transport import loopback
from small_models import batch_of, small_spec, weights_of

GOLDENS = Path(__file__).parent / "goldens"
BF16 = PrecisionSpec(compute="bf16")
NARROWEST = PrecisionSpec(compute="bf16", reduce="bf16", router="bf16", optimizer="bf16")

LAYOUTS: dict[str, dict[str, int]] = {
    "1": {},
    "2": {"shard": 2, "expert": 2},
    "4": {"shard": 2, "replicate": 2, "expert": 2, "expert_shard": 2},
}


def spec_of(variant: str, precision: PrecisionSpec = BF16, **degrees: int) -> Spec:
    spec = small_spec(variant, sequences="6", micro_batches="2", **degrees)  # type: ignore[arg-type]
    return replace(spec, precision=precision)


def compiled(variant: str, precision: PrecisionSpec = BF16, **degrees: int) -> Compiled:
    return compile_spec(spec_of(variant, precision, **degrees), CompileOptions(update=False))


def ranks_of(made: Compiled, seed: int) -> Ranks:
    tokens, targets = batch_of(made.spec, seed)
    weights = weights_of(made.spec)
    world = made.plan.mesh.world
    return loopback.run_ranks(world, lambda transport: run_ranks(made, transport, weights, tokens, targets))[
        0
    ]


# --- numbers ---

ROUNDING = 2.0**-8
"""Relative, of one number in bfloat16."""

TOLERANCE = 16 * ROUNDING
"""Of all gradients as one vector, relative to its length: some hundred roundings on the way."""

VARIANTS = ("ends", "gpt-oss", "DeepSeek-V3", "latent attention")
MORE_VARIANTS = ("mixtral", "gated", "layer norm", "sinks in a window", "identity and capacity", "jitter")
"""Parameters of every sort, and every cast: biases, sinks, tied tables, routers with and without bias."""


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of two sets of gradients, each one vector, relative to the length of the second."""
    difference = sum((found[name].double() - g).square().sum().item() for name, g in expected.items())
    return float((difference / sum(g.double().square().sum().item() for g in expected.values())) ** 0.5)


def exact(spec: Spec, seed: int) -> Reference:
    """What the reference graphs give in float64, by plain autograd."""
    train = spec.train
    return reference_step(
        spec.model, weights_of(spec), *batch_of(spec, seed), train.micro_batches, train.seed
    )


def where_choices_agree(made: Compiled) -> tuple[Ranks, Reference]:
    """One step, and its reference, of the first batch in which no rounding has changed a token's expert.

    Where two experts have nearly the same score, one rounding decides, and gradients are others.
    """
    for seed in range(20):
        ranks, reference = ranks_of(made, seed), exact(made.spec, seed)
        if ranks.loads == [count for load in reference.loads.values() for count in load.tolist()]:
            return ranks, reference
    raise AssertionError("in every one of 20 batches, tokens go to other experts than in float64")


def check(ranks: Ranks, reference: Reference, tolerance: float = TOLERANCE) -> None:
    assert ROUNDING / 8 < distance(ranks.gradients, reference.gradients) < tolerance
    for name, loss in reference.losses.items():
        assert ranks.losses[name] == pytest.approx(loss, rel=2 * ROUNDING), name


@pytest.mark.parametrize(
    "variant", [*VARIANTS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_VARIANTS)]
)
def test_losses_and_gradients_are_those_of_float64_but_for_rounding(variant: str) -> None:
    """Expert parallelism with sharding and replicas, against reference graphs in float64."""
    check(*where_choices_agree(compiled(variant, **LAYOUTS["4"])))


@pytest.mark.parametrize("layout", ["1", "2"])
def test_every_layout_agrees_but_for_rounding(layout: str) -> None:
    check(*where_choices_agree(compiled("shared", **LAYOUTS[layout])))


def test_every_other_number_in_bf16_too() -> None:
    """Reduced in bfloat16, with a router in bfloat16."""
    check(*where_choices_agree(compiled("mixtral", NARROWEST, **LAYOUTS["4"])), 2 * TOLERANCE)


@pytest.mark.parametrize(
    "memory",
    [
        MemorySpec(recompute="layer"),
        MemorySpec(offload=Offload(1, least_bytes=1)),
        MemorySpec(gathered="keep"),
    ],
    ids=str,
)
def test_what_is_kept_for_backward_changes_no_bit_in_bf16(memory: MemorySpec) -> None:
    """A cast made again gives what it gave."""
    spec = spec_of("shared", **LAYOUTS["2"])
    plain, saving = (
        ranks_of(compile_spec(replace(spec, memory=m), CompileOptions(update=False)), 0)
        for m in (spec.memory, memory)
    )
    assert plain.losses == saving.losses
    assert plain.gradients.keys() == saving.gradients.keys()
    assert all(torch.equal(g, saving.gradients[name]) for name, g in plain.gradients.items())


@pytest.mark.parametrize("change", ["loss in chunks", "all_gather", "shuffle"])
def test_other_ways_of_a_step_take_bf16(change: str) -> None:
    """Chunks of logits, the other dispatcher, shuffled tokens: each close to float64."""
    spec = spec_of("gpt-oss", **LAYOUTS["2"])
    changed = {
        "loss in chunks": replace(spec, memory=MemorySpec(loss_chunk=4)),
        "all_gather": replace(spec, parallel=replace(spec.parallel, dispatch=Dispatch("all_gather"))),
        "shuffle": replace(spec, parallel=replace(spec.parallel, dispatch=Dispatch(shuffle=True))),
    }[change]
    check(*where_choices_agree(compile_spec(changed, CompileOptions(update=False))))


# --- formats ---


def instructions(made: Compiled, *suffixes: str) -> Iterator[Instruction]:
    for name, program in made.programs.items():
        if name.endswith(suffixes):
            yield from program.instructions


def dtypes(made: Compiled, op: str) -> set[str]:
    """The dtypes of results of an operation, over all regions."""
    found = instructions(made, ".forward", ".backward")
    return {i.type.split(" ")[0] for i in found if i.op == op}


def test_what_is_computed_in_which_format() -> None:
    made = compiled("DeepSeek-V3", **LAYOUTS["2"])
    for op in ("expert_mm", "expert_mm_weight_grad", "dispatch", "combine", "rope"):
        assert dtypes(made, f"moec.{op}") == {"bfloat16"}, op
    for op in (
        "_log_softmax",
        "_log_softmax_backward_data",
        "nll_loss_forward",
        "sigmoid",
        "embedding_dense_backward",
    ):
        assert dtypes(made, f"aten.{op}.default") <= {"float32", ""}, op
    assert dtypes(made, "moec.wait") == {"bfloat16", "int64"}, (
        "rows travel in the format they are computed in"
    )


@pytest.mark.parametrize("precision", [BF16, NARROWEST], ids=["fp32 router", "bf16 router"])
def test_products_are_in_bf16_but_for_the_routers(precision: PrecisionSpec) -> None:
    """Forward has one product with the router's matrix a layer; scores are float32 in both cases."""
    made = compiled("mixtral", precision)
    forward = [i for i in instructions(made, "layer_0.forward") if i.op == "aten.mm.default"]
    wide = [i for i in forward if i.type.startswith("float32")]
    assert len(forward) == 5
    assert len(wide) == (1 if precision is BF16 else 0)
    assert dtypes(made, "aten._softmax.default") == {"float32"}
    names = {buffer.name: buffer.dtype for buffer in made.plan.buffers["layer_0"]}
    expected = {"vectors": "float32", "matrices": "bfloat16", "expert_matrices": "bfloat16"}
    assert names == (expected | {"router_matrices": "float32"} if precision is BF16 else expected)


def test_a_shard_is_cast_once_a_step_and_gathered_in_half_the_bytes() -> None:
    """However many micro-batches and layers there are; what is float32 in a region is not cast at all."""
    made = compiled("mixtral", **LAYOUTS["2"])
    casts = [i for i in made.programs["step"].instructions if i.op == "aten._to_copy.default"]
    states = {label.removesuffix(".parameter"): name for label, name in _parameters(made)}
    narrow = {state for state, buffer in made.step.buffers.items() if buffer.dtype == "bfloat16"}
    assert narrow == {
        "embed/matrices", "head/matrices",
        *(f"layers.{i}/{name}" for i in range(2) for name in ("matrices", "expert_matrices")),
    }  # fmt: skip
    assert [i.arguments for i in casts] == [
        (Ref(states[state]),) for state in made.step.buffers if state in narrow
    ]
    assert all(dict(i.keywords) == {"dtype": torch.bfloat16} for i in casts)
    calls = [i for i in made.programs["step"].instructions if i.op == "moec.call"]
    assert len(calls) == made.plan.micro_batches == 2
    taken = [set(call.arguments[1]) for call in calls]  # type: ignore[arg-type]
    for state, name in states.items():
        assert all((Ref(name) in t) == (state not in narrow) for t in taken)
    assert all({Ref(i.name) for i in casts} <= t for t in taken)


def _parameters(made: Compiled) -> list[tuple[str, str]]:
    program = made.programs["step"]
    pairs = zip(program.input_labels, program.inputs, strict=True)
    return [(label, name) for label, name in pairs if label.endswith(".parameter")]


@pytest.mark.parametrize(
    ("precision", "before", "after"), [(BF16, 6, 0), (NARROWEST, 0, 6)], ids=["fp32", "bf16"]
)
def test_gradients_are_cast_before_they_are_reduced(
    precision: PrecisionSpec, before: int, after: int
) -> None:
    """To the format of reductions, and from it to that of shards: six buffers of two layers and two ends."""
    made = compiled("mixtral", precision, shard=2)
    program = made.programs["micro_batch"]
    by_name = {i.name: i for i in program.instructions}
    cast = Counter[str]()
    for start in program.instructions:
        if start.op == "moec.reduce_scatter_start":
            assert isinstance(start.arguments[0], Ref)
            source = by_name[start.arguments[0].name]
            cast["before"] += source.op == "aten._to_copy.default" and source.keywords == (
                ("dtype", torch.float32),
            )
    for add in program.instructions:
        if add.op == "moec.accumulate_":
            assert isinstance(add.arguments[1], Ref)
            source = by_name[add.arguments[1].name]
            cast["after"] += source.op == "aten._to_copy.default" and source.keywords == (
                ("dtype", torch.float32),
            )
    assert cast["before"] == before
    assert cast["after"] >= after


def test_a_plan_and_a_step_as_people_read_them(golden: Callable[[str, Path], None]) -> None:
    made = compile_spec(spec_of("mixtral", NARROWEST, **LAYOUTS["4"]))
    step = listing(made.programs["step"])
    golden(f"{dump_plan(made.plan)}\n\n{step}\n", GOLDENS / "step_bf16.txt")


def test_what_is_kept_of_a_router_is_its_input_in_bf16() -> None:
    """A cast to more bits is made again: what it says is in its operand."""
    made = compiled("mixtral")
    forward = made.programs["layer_0.forward"]
    casts = {
        i.name
        for i in forward.instructions
        if i.op == "aten._to_copy.default" and i.type.startswith("float32")
    }
    saved = {output.name for output in forward.outputs if isinstance(output, Ref)}
    assert casts
    assert not casts & saved
