"""`moec verify`: the ranks of a plan agree with the reference, and a fault in the plan's programs is seen."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.families.family import UNSHIPPED
from moec import dsl, models
from moec.cli.verifying import (
    TOLERANCE,
    Deviation,
    Ranks,
    _report,
    compare,
    draw_batch,
    draw_weights,
    run_ranks,
    verify,
)
from moec.compiler.pipeline import Compiled, CompileOptions, compile_spec
from moec.compiler.reference import Reference, reference_step
from moec.compiler.small import small_spec as small_of
from moec.dsl.parameters import model_parameters
from moec.dsl.spec import ParallelSpec, Spec
from moec.runtime.abi.program import Instruction, Ref
from moec.runtime.transport import loopback
from small_models import VARIANTS, batch_of, relative, small_spec, weights_of

FOUR_RANKS = {"expert": 2, "shard": 2, "replicate": 2, "expert_shard": 2}
THREE_RANKS = {"expert": 3, "shard": 3}


def gradients_only(spec: Spec) -> Compiled:
    return compile_spec(spec, CompileOptions(dtype="fp64", update=False))


def verified(compiled: Compiled) -> list[Deviation]:
    """Of all ranks, who all learn the same."""
    told = loopback.run_ranks(compiled.plan.mesh.world, lambda transport: verify(compiled, transport))
    assert all(found == told[0] for found in told)
    return told[0]


def failing(compiled: Compiled) -> set[str]:
    return {d.name for d in verified(compiled) if not d.relative <= TOLERANCE}


# --- what holds ---


@pytest.mark.parametrize("name", [*models.names(), *map(str, UNSHIPPED.glob("*.moe"))])
def test_models_on_four_ranks(name: str) -> None:
    """Every loss, every expert's load and every gradient, to 1e-10 in float64."""
    spec = dsl.load(name, (), models.read)
    spec = replace(spec, parallel=ParallelSpec(**FOUR_RANKS))  # type: ignore[arg-type]
    compiled = gradients_only(small_of(spec, 4))
    found = verified(compiled)
    assert max(d.relative for d in found) <= 1e-10
    parameters = [d for d in found if d.name.startswith("gradient of ")]
    trained = {n for region, p in model_parameters(compiled.spec.model) if p.trained for n in p.names(region)}
    assert {d.name.removeprefix("gradient of ") for d in parameters} == trained
    assert {"loss", "expert load"} <= {d.name for d in found}


LAYOUTS = ((FOUR_RANKS, "none", "4"), (THREE_RANKS, "full", "3"))


@pytest.mark.parametrize(
    ("variant", "degrees", "recompute"),
    [
        pytest.param(
            variant, *layout[:2], id=f"{layout[2]}-{variant}", marks=() if turn else pytest.mark.slow
        )
        for number, variant in enumerate(VARIANTS)
        for layout, turn in zip(LAYOUTS, (number % 2, 1 - number % 2), strict=True)
    ],
)
def test_variants(variant: str, degrees: dict[str, int], recompute: str) -> None:
    """Five sequences on three or four ranks, and four experts on three: nothing is even.

    Every variant on one of the layouts in turn, and among the slow tests on the other.
    """
    spec = small_spec(variant, recompute=recompute, **degrees)  # type: ignore[arg-type]
    assert failing(gradients_only(spec)) == set()


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, int]:
    """Any legal degrees of up to eight ranks."""
    shard = draw(st.integers(1, 8))
    world = shard * draw(st.integers(1, 8 // shard))
    expert = draw(st.sampled_from([d for d in range(1, world + 1) if world % d == 0]))
    rest = world // expert
    expert_shard = draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
    return {"shard": shard, "replicate": world // shard, "expert": expert, "expert_shard": expert_shard}


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(["z", "identity and capacity", "weighed input", "latent"]),
    layouts(),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(2, 9),
    st.sampled_from(["none", "full"]),
)
def test_any_layout(
    variant: str, degrees: dict[str, int], micro_batches: int, each: int, experts: int, recompute: str
) -> None:
    """Ranks without a sequence, ranks without an expert, experts without a token; rows that are not sent."""
    batch = {"micro_batches": str(micro_batches), "sequences": str(micro_batches * each)}
    spec = small_spec(variant, **degrees, **batch, experts=str(experts), recompute=recompute)  # type: ignore[arg-type]
    assert failing(gradients_only(spec)) == set()


def test_the_reference_is_one_batch_however_it_is_cut() -> None:
    """Of its losses, those that are means over tokens; balance is taken for each micro-batch."""
    spec = small_spec("z alone", sequences="6")
    weights, (tokens, targets) = weights_of(spec), batch_of(spec)
    whole, cut = (reference_step(spec.model, weights, tokens, targets, n) for n in (1, 3))
    for name in whole.losses:
        assert cut.losses[name] == pytest.approx(whole.losses[name], rel=1e-12)
    for name, gradient in whole.gradients.items():
        assert relative(cut.gradients[name], gradient) < 1e-12
    assert all(torch.equal(whole.loads[name], cut.loads[name]) for name in whole.loads)


def test_draws_hide_nothing() -> None:
    """No parameter is constant, and some targets bear no loss."""
    spec = small_spec("gated")
    assert all(bool((weight != weight.flatten()[0]).any()) for weight in draw_weights(spec, 1).values())
    _, targets = draw_batch(spec, 1)
    assert 0 < (targets == -100).sum() < targets.numel()


# --- what compare flags ---


@cache
def reference() -> tuple[Ranks, Reference]:
    """What ranks computed that computed everything right."""
    spec = small_spec("z")
    found = reference_step(spec.model, weights_of(spec), *batch_of(spec), 1)
    loads = torch.cat(list(found.loads.values())).tolist()
    return Ranks(dict(found.losses), loads, {n: g.clone() for n, g in found.gradients.items()}), found


def flagged(ranks: Ranks) -> dict[str, float]:
    return {d.name: d.relative for d in compare(ranks, reference()[1]) if not d.relative <= TOLERANCE}


def test_what_is_right_is_not_flagged() -> None:
    assert flagged(reference()[0]) == {}


@pytest.mark.parametrize("value", [1e-3, math.nan, math.inf, -math.inf])
def test_a_wrong_element_of_a_gradient_is_flagged(value: float) -> None:
    """By its size relative to the largest element, or as infinitely wrong."""
    right = reference()[0]
    wrong = {name: gradient.clone() for name, gradient in right.gradients.items()}
    wrong["layers.1.attention.o"][3, 2] += value
    found = flagged(replace(right, gradients=wrong))
    scale = right.gradients["layers.1.attention.o"].abs().max().item()
    expected = value / scale if math.isfinite(value) else math.inf
    assert found == {"gradient of layers.1.attention.o": pytest.approx(expected, rel=1e-9)}


def test_a_gradient_that_no_rank_owns_is_flagged() -> None:
    right = reference()[0]
    missing = {**right.gradients, "norm": torch.full_like(right.gradients["norm"], torch.nan)}
    assert flagged(replace(right, gradients=missing)) == {"gradient of norm": math.inf}


def test_a_gradient_where_there_should_be_none_is_flagged() -> None:
    right, found = reference()
    none = {**found.gradients, "norm": torch.zeros_like(found.gradients["norm"])}
    deviations = {d.name: d.relative for d in compare(right, replace(found, gradients=none))}
    assert deviations["gradient of norm"] > 1.0


@pytest.mark.parametrize("loss", ["loss", "aux_loss", "z_loss"])
@pytest.mark.parametrize("change", [1e-9, math.nan, math.inf])
def test_a_wrong_loss_is_flagged(loss: str, change: float) -> None:
    right = reference()[0]
    wrong = replace(right, losses={**right.losses, loss: right.losses[loss] * (1 + change)})
    assert flagged(wrong).keys() == {loss}


def test_a_wrong_load_is_flagged() -> None:
    right = reference()[0]
    assert flagged(replace(right, loads=[right.loads[0] + 1, *right.loads[1:]])) == {"expert load": 1.0}


def test_the_report_is_json_whatever_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    _report(None, [Deviation("loss", math.inf), Deviation("norm", 0.5)], False, True)  # type: ignore[arg-type]
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["ok"] is False
    assert told["deviations"] == [{"name": "loss", "relative": None}, {"name": "norm", "relative": 0.5}]


# --- faults in programs ---


Edit = Callable[[Instruction], Instruction]


def edited(compiled: Compiled, program: str, edit: Edit) -> Compiled:
    """With every instruction of a program put through `edit`; something has to change."""
    old = compiled.programs[program]
    new = replace(old, instructions=tuple(map(edit, old.instructions)))
    assert new != old
    return replace(compiled, programs={**compiled.programs, program: new})


def on(op: str, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Edit:
    """Change the arguments of the first instruction of some kind."""
    count = itertools.count()

    def edit(instruction: Instruction) -> Instruction:
        if instruction.op != op or next(count):
            return instruction
        return replace(instruction, arguments=change(instruction.arguments))

    return edit


def test_a_gradient_scattered_over_another_axis_is_seen() -> None:
    """Both axes have two ranks, so nothing hangs: it is only wrong."""
    compiled = gradients_only(small_spec("mixtral", **FOUR_RANKS))  # type: ignore[arg-type]
    wrong = edited(compiled, "micro_batch", on("moec.reduce_scatter_start", lambda a: (*a[:-1], "replicate")))
    found = failing(wrong)
    assert "gradient of norm" in found
    assert "loss" not in found


def test_parameters_gathered_over_another_axis_are_seen() -> None:
    compiled = gradients_only(small_spec("mixtral", **FOUR_RANKS))  # type: ignore[arg-type]
    wrong = edited(compiled, "micro_batch", on("moec.shard_gather_start", lambda a: (*a[:-1], "replicate")))
    assert "loss" in failing(wrong)


def test_a_gradient_that_is_not_summed_over_replicas_is_seen() -> None:
    compiled = gradients_only(small_spec("mixtral", shard=1, replicate=2))
    zero = on("moec.copy_", lambda a: (a[0], a[0]))
    assert any(name.startswith("gradient of ") for name in failing(edited(compiled, "step", zero)))


def test_a_forgotten_z_loss_is_seen() -> None:
    """Its value is right, but the objective lacks it: gradients of routers are wrong."""
    compiled = gradients_only(small_spec("z alone", expert=2, shard=2))
    backward = compiled.programs["head.backward"].instructions
    (weigh,) = (i for i in backward if i.op == "aten.mul.Tensor" and 0.01 in i.arguments)
    wrong = edited(
        compiled,
        "head.backward",
        lambda i: replace(i, arguments=(i.arguments[0], 0.0)) if i == weigh else i,
    )
    found = failing(wrong)
    assert "z_loss" not in found
    assert {"gradient of layers.0.experts.router", "gradient of layers.1.experts.router"} <= found


def test_rows_sent_to_the_wrong_expert_are_seen() -> None:
    """Sorted by source instead of by expert."""
    compiled = gradients_only(small_spec("mixtral", expert=2, shard=2))
    wrong = edited(compiled, "layer_0.forward", on("moec.permute_rows", lambda a: (a[0], a[2], a[1])))
    assert "loss" in failing(wrong)


def test_balance_of_one_rank_is_seen() -> None:
    """The choices of this rank instead of those of all."""
    compiled = gradients_only(small_spec("per layer", shard=2))
    program = compiled.programs["layer_0.forward"]
    (start,) = (i for i in program.instructions if i.op == "moec.all_reduce_start")
    (wait,) = (i for i in program.instructions if i.op == "moec.wait" and i.arguments == (Ref(start.name),))

    def local(argument: Any) -> Any:
        return start.arguments[0] if argument == Ref(wait.name) else argument

    wrong = edited(
        compiled, "layer_0.forward", lambda i: replace(i, arguments=tuple(map(local, i.arguments)))
    )
    assert "aux_loss" in failing(wrong)


def test_ranks_that_all_compute_the_same_wrong_thing_are_seen() -> None:
    """The reference knows nothing of programs: an epsilon that grew in all of them is seen."""
    compiled = gradients_only(small_spec("mixtral", shard=2))
    wrong = edited(compiled, "head.forward", on("moec.rms_norm", lambda a: (*a[:2], 1e-2)))
    assert "loss" in failing(wrong)


def test_what_ranks_give_back_is_whole() -> None:
    """Every rank has all gradients of all parameters."""
    spec = small_spec("uneven experts", expert=2, shard=2)
    compiled = gradients_only(spec)
    weights, (tokens, targets) = weights_of(spec), batch_of(spec)
    first, second = loopback.run_ranks(2, lambda t: run_ranks(compiled, t, weights, tokens, targets))
    assert first.losses == second.losses
    assert first.gradients.keys() == weights.keys()
    for name, gradient in first.gradients.items():
        assert gradient.shape == weights[name].shape
        assert torch.equal(gradient, second.gradients[name])
        assert not gradient.isnan().any()
