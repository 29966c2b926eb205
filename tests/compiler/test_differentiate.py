"""Forward and backward graphs compute what plain autograd of the reference graph computes."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from moec.compiler.build.model import ReferenceModel
from moec.compiler.differentiate.bind import DifferentiatedRegion
from moec.compiler.differentiate.simplify import simplify
from moec.compiler.differentiate.trace import trace_joint
from moec.compiler.emit.program import to_program
from moec.compiler.graph import ReferenceRegion, interpret, run, value
from moec.compiler.pipeline import CompileOptions, compile_spec
from moec.compiler.plan.plan import make_plan
from moec.runtime.abi.instructions import COLLECTIVE_STARTS, name_of
from moec.runtime.abi.machine_ops import pack
from moec.runtime.executor import Executor
from small_models import SEQUENCE, VARIANTS, VOCAB, relative, small_spec

from .stages import EIGHT_RANKS, ONE_RANK, differentiate, differentiated, partitioned, reference

SEQUENCES, REAL = 3, 2  # capacity, and how many of them are no padding


@cache
def model(variant: str) -> ReferenceModel:
    return reference(small_spec(variant), SEQUENCES)


def arguments(region: ReferenceRegion) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, inputs and gradients of the differentiable outputs, all random where that makes sense."""
    generator = torch.Generator().manual_seed(5)
    facts = {"sequences": REAL, "micro_tokens": 40, "batch_tokens": 70, "loss_tokens": 11}

    def draw(fake: Any, name: str = "") -> Tensor:
        if name in facts:
            return torch.tensor(facts[name])
        if fake.dtype == torch.int64:
            return torch.randint(0, VOCAB, fake.shape, generator=generator)
        return torch.randn(fake.shape, dtype=fake.dtype, generator=generator) * 0.5

    parameters = {
        p.path: draw(value(n)) for p, n in zip(region.parameters, region.parameter_nodes(), strict=True)
    }
    inputs = {name: draw(value(n), name) for name, n in zip(region.inputs, region.input_nodes(), strict=True)}
    outputs = zip(region.outputs, region.output_nodes(), strict=True)
    grads = {name: draw(value(n)) for name, n in outputs if name in region.differentiable}
    if "targets" in inputs:
        inputs["targets"][:, ::2] = -100
    return parameters, inputs, grads


def plain(region: ReferenceRegion) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, gradients of parameters and of inputs, by autograd over the reference graph."""
    parameters, inputs, grads = arguments(region)
    leaves = {p.path: parameters[p.path].requires_grad_(p.trained) for p in region.parameters}
    given = {n: t.requires_grad_() if n in region.differentiable else t for n, t in inputs.items()}
    outputs = run(region, leaves, given)
    trained = {path: leaf for path, leaf in leaves.items() if leaf.requires_grad}
    wrt = [*trained.values(), *(given[n] for n in region.inputs if n in region.differentiable)]
    found = torch.autograd.grad(
        [outputs[name] for name in grads],
        wrt,
        list(grads.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    names = [name for name in region.inputs if name in region.differentiable]
    by_input = dict(zip(names, found[len(trained) :], strict=True))
    return outputs, dict(zip(trained, found, strict=False)), by_input


def executed(
    region: ReferenceRegion, compiled: DifferentiatedRegion
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """The same from the graphs as programs on one rank, and the values saved between them."""
    parameters, inputs, grads = arguments(region)
    programs = {
        "forward": to_program("forward", compiled.forward, *_labels(compiled.forward)),
        "backward": to_program("backward", compiled.backward, *_labels(compiled.backward)),
    }
    executor = Executor(programs, {}, torch.device("cpu"))
    buffers = {b.name: pack([parameters[slot.path] for slot in b.slots], b.numel) for b in compiled.buffers}
    results = executor.run("forward", [*buffers.values(), *(inputs[name] for name in compiled.inputs)])
    outputs = dict(zip(compiled.outputs, results, strict=False))
    saved = dict(zip(compiled.saved, results[len(outputs) :], strict=True))
    back = executor.run(
        "backward",
        [
            *(buffers[name] for name in compiled.backward_buffers),
            *(inputs[name] for name in compiled.backward_inputs),
            *saved.values(),
            *(grads[name] for name in compiled.output_grads),
        ],
    )
    by_path = {}
    for buffer, gradient in zip(compiled.trained, back, strict=False):
        for slot in buffer.slots:
            by_path[slot.path] = gradient[slot.offset : slot.offset + slot.numel].view(slot.stored_shape)
    return (
        outputs,
        by_path,
        dict(zip(compiled.input_grads, back[len(compiled.trained) :], strict=True)),
        saved,
    )


def _labels(graph: fx.Graph) -> tuple[tuple[str, ...], tuple[str, ...]]:
    inputs = tuple(node.name for node in graph.nodes if node.op == "placeholder")
    (returned,) = graph.output_node().args
    assert isinstance(returned, tuple)
    return inputs, tuple(str(i) for i in range(len(returned)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_and_backward_are_those_of_autograd(variant: str) -> None:
    """In float64, to the rounding of sums in another order; with all values kept or none, to the bit."""
    for kind, region in model(variant).kinds.items():
        kept = executed(region, compiled(variant, kind, "none"))
        for found, expected in zip(kept, plain(region), strict=False):
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert relative(found[name], tensor.detach()) <= 1e-12, name
        recomputed = executed(region, compiled(variant, kind, "full"))
        for found, again in zip(kept[:3], recomputed[:3], strict=True):
            assert all(torch.equal(found[name], again[name]) for name in found)
        assert recomputed[3] == {}


def compiled(variant: str, kind: str, recompute: str) -> DifferentiatedRegion:
    spec = small_spec(variant, recompute=recompute)
    plan = make_plan(model(variant), ONE_RANK, spec)
    return differentiate(model(variant), kind, plan, spec)


def test_padding_changes_no_gradient() -> None:
    """What stands in padded sequences has no influence on the statistics of the real ones, nor on their x."""
    region = model("z").kinds["layer_0"]
    parameters, inputs, _ = arguments(region)
    outputs = run(region, parameters, inputs)
    inputs["x"] = inputs["x"].clone()
    inputs["x"][REAL * SEQUENCE :] = 7.0
    changed = run(region, parameters, inputs)
    for name in ("choices", "probabilities", "z", "experts.load"):
        assert torch.equal(outputs[name], changed[name])
    assert torch.equal(outputs["x"][: REAL * SEQUENCE], changed["x"][: REAL * SEQUENCE])


# --- what is kept ---


def test_parameters_and_views_are_not_kept() -> None:
    """A view of a parameter would keep the gathered buffer alive from forward to backward."""
    region = differentiated(small_spec("gated"), ONE_RANK)
    output = region.forward.output_node()
    (returned,) = output.args
    assert isinstance(returned, tuple)
    for node in returned[len(region.outputs) :]:
        assert isinstance(node, fx.Node)
        assert node.op == "call_function"
        schema = getattr(node.target, "_schema", None)
        aliases = schema is not None and any(result.alias_info for result in schema.returns)
        assert not aliases, node.format_node()


@pytest.mark.parametrize("variant", ["mixtral", "gated", "per layer", "dense layers"])
def test_full_keeps_nothing_and_runs_forward_again(variant: str) -> None:
    """Backward is then given the region's inputs, and meets the other ranks for the same exchanges again."""
    for kind in model(variant).kinds:
        none, full = (
            differentiated(small_spec(variant, recompute=recompute), EIGHT_RANKS, kind)
            for recompute in ("none", "full")
        )
        assert full.saved == ()
        assert set(full.backward_inputs) <= set(full.inputs)
        exchanges = [exchanged(graph) for graph in (full.forward, none.backward, full.backward)]
        assert exchanges[2] - exchanges[1] <= exchanges[0]
        assert exchanges[2] >= exchanges[1]


def exchanged(graph: fx.Graph) -> Counter[str]:
    """How many of which collectives a graph starts."""
    called = [name_of(node.target) for node in graph.nodes if node.op == "call_function"]
    return Counter(name for name in called if name in COLLECTIVE_STARTS)


# --- what tracing leaves behind ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_simplify_changes_no_value_and_is_done_once(variant: str) -> None:
    for kind, region in model(variant).kinds.items():
        joint = trace_joint(partitioned(small_spec(variant), ONE_RANK, kind))
        parameters, inputs, grads = arguments(region)
        given = [*parameters.values(), *inputs.values(), *grads.values()]
        with torch.no_grad():
            before = interpret(joint.graph, given)
            simplify(joint.graph)
            after = interpret(joint.graph, given)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        text = str(joint.graph)
        simplify(joint.graph)
        assert str(joint.graph) == text


def test_simplify_by_an_example() -> None:
    aten = torch.ops.aten
    graph = fx.Graph()
    x = graph.placeholder("x")
    renamed = graph.call_function(aten.detach.default, (x,))
    turned = graph.call_function(aten.t.default, (graph.call_function(aten.t.default, (renamed,)),))
    one = graph.call_function(aten.mul.Tensor, (turned, 2))
    same = graph.call_function(aten.mul.Tensor, (x, 2))
    other = graph.call_function(aten.mul.Tensor, (x, 2.0))  # another kind of number
    graph.call_function(aten.add.Tensor, (x, x))  # unused
    meetings = [graph.call_function(torch.ops.moec.all_reduce.default, (x, "data")) for _ in range(2)]
    graph.output((one, same, other, *meetings))
    simplify(graph)
    assert [str(node.target) for node in graph.nodes if node.op == "call_function"] == [
        "aten.mul.Tensor",
        "aten.mul.Tensor",
        "moec.all_reduce.default",
        "moec.all_reduce.default",
    ]
    (returned,) = graph.output_node().args
    assert isinstance(returned, tuple)
    assert returned[0] is returned[1]
    assert returned[2] is not returned[1]


@pytest.mark.parametrize(
    ("variant", "recompute"),
    [*((variant, "none") for variant in VARIANTS), ("mixtral", "full"), ("z", "full")],
)
def test_every_instruction_knows_its_line(variant: str, recompute: str) -> None:
    """Of forward and backward, of the micro-batch and of the step."""
    spec = small_spec(variant, expert=2, shard=2, replicate=2, recompute=recompute)
    for program in compile_spec(spec, CompileOptions()).programs.values():
        for instruction in program.instructions:
            assert instruction.place is not None, f"{program.name}: {instruction}"
            assert instruction.place.line > 0


def test_lines_of_backward_are_those_of_forward() -> None:
    """The gradient of a component is for the line of that component."""
    spec = small_spec("z", expert=2, shard=2)
    made = compile_spec(spec)
    lines = {i.op: i.place.text for i in made.programs["layer_0.backward"].instructions if i.place}
    assert lines["moec.attention_backward"].startswith("attention = gqa(")
    assert lines["moec.expert_mm_weight_grad"].startswith("experts: 4 of swiglu(12)")
    assert lines["aten._softmax_backward_data.default"].startswith("router:")
    assert lines["moec.rms_norm_backward"].startswith("x += ")
