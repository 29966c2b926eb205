"""From graphs to programs and a manifest: data only, nothing lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from moec.compiler.emit.bundle import manifest
from moec.compiler.emit.program import to_program
from moec.compiler.errors import InternalCompilerError
from moec.compiler.graph import ORIGIN, VAL
from moec.compiler.pipeline import CompileOptions, compile_spec
from moec.dsl import load_text
from moec.dsl.spec import NOWHERE, Origin
from moec.runtime.abi.bundle import STEP_INPUTS, STEP_RESULTS
from moec.runtime.abi.program import Instruction, Place, Ref, listing
from moec.runtime.abi.program_json import check_programs
from small_models import VARIANTS, small_spec, small_text

from .stages import without_lines

GOLDENS = Path(__file__).parent / "goldens"
aten = torch.ops.aten


def graph_of(*calls: tuple[Any, tuple[Any, ...], dict[str, Any]]) -> fx.Graph:
    """x goes through the calls one after another; their arguments come after it."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    for target, args, kwargs in calls:
        x = graph.call_function(target, (x, *args), kwargs)
    graph.output((x,))
    return graph


def test_an_instruction_carries_what_its_node_carried() -> None:
    graph = graph_of((aten.sum.dim_IntList, ([0, 1], True), {"dtype": torch.float64}))
    node = next(n for n in graph.nodes if n.op == "call_function")
    node.meta = {VAL: torch.empty(1, 1, dtype=torch.float64), ORIGIN: Origin("a.moe", 3, "x += f(x)")}
    program = to_program("p", graph, ("input",), ("sum",))
    assert program.instructions == (
        Instruction(
            name=node.name,
            op="aten.sum.dim_IntList",
            arguments=(Ref("x"), (0, 1), True),
            keywords=(("dtype", torch.float64),),
            type="float64 (1, 1)",
            place=Place("a.moe", 3, "x += f(x)"),
        ),
    )
    assert (program.inputs, program.outputs) == (("x",), (Ref(node.name),))


def test_where_a_tensor_lives_is_the_executors_business() -> None:
    where = {"device": torch.device("cpu"), "pin_memory": False, "layout": torch.strided}
    program = to_program(
        "p", graph_of((aten._to_copy.default, (), {"dtype": torch.int64, **where})), ("x",), ("y",)
    )
    assert program.instructions[0].keywords == (("dtype", torch.int64),)


def test_a_node_without_a_line_has_no_place() -> None:
    graph = graph_of((aten.neg.default, (), {}))
    next(n for n in graph.nodes if n.op == "call_function").meta[ORIGIN] = NOWHERE
    assert to_program("p", graph, ("x",), ("y",)).instructions[0].place is None


@pytest.mark.parametrize(
    ("graph", "labels", "message"),
    [
        (graph_of((torch.relu, (), {})), (("x",), ("y",)), "p: .*relu.* is not in the instruction set"),
        (graph_of((aten.neg.default, (), {})), ((), ("y",)), "p: labels do not match the ports"),
        (graph_of((aten.neg.default, (), {})), (("x",), ()), "p: labels do not match the ports"),
        (graph_of((aten.mul.Tensor, (3j,), {})), (("x",), ("y",)), "type complex cannot be emitted"),
        (
            graph_of((aten.mul.Tensor, (torch.ones(1),), {})),
            (("x",), ("y",)),
            "type Tensor cannot be emitted",
        ),
    ],
    ids=["operation", "input label", "output label", "number", "tensor"],
)
def test_what_cannot_be_data_is_a_bug_of_ours(graph: fx.Graph, labels: Any, message: str) -> None:
    with pytest.raises(InternalCompilerError, match=message) as error:
        to_program("p", graph, *labels)
    assert error.value.exit_code == 70


def test_a_step_as_people_read_it(golden: Callable[[str, Path], None]) -> None:
    """Tokens counted, micro-batches, sums, norm, updates; then each correction with its piece of the load."""
    spec = small_spec("correction", shard=2, logits="linear(norm(x), tied: true)")
    golden(listing(compile_spec(spec).programs["step"]) + "\n", GOLDENS / "step_correction.txt")


@pytest.mark.parametrize(
    ("variant", "update"), [*((variant, True) for variant in VARIANTS), ("mixtral", False), ("latent", False)]
)
def test_programs_keep_the_rules_of_the_bundle(variant: str, update: bool) -> None:
    """Values before their use, calls with their values, no ring; with and without the update."""
    spec = small_spec(variant, expert=2, shard=2, replicate=2)
    programs = compile_spec(spec, CompileOptions(update=update)).programs
    check_programs(programs, variant)
    assert programs["step"].inputs[: len(STEP_INPUTS)] == STEP_INPUTS
    assert programs["step"].output_labels == STEP_RESULTS
    updates = sum(i.op == "moec.adamw_" for i in programs["step"].instructions)
    gradients = [label for label in programs["micro_batch"].input_labels if label.endswith(".gradient")]
    assert updates == len(gradients) * update


def test_the_manifest_says_what_a_run_needs() -> None:
    spec = small_spec("dense layers", expert=2, shard=2, replicate=2, sequences="6", micro_batches="2")
    found = manifest(compile_spec(spec))
    assert (found.world, found.sequences, found.dtype) == (4, 1, "float32")
    assert found.chain == (
        ("embed", "embed"),
        ("layers.0", "layer_0"),
        ("layers.1", "layer_1"),
        ("layers.2", "layer_0"),
        ("head", "head"),
    )
    entropies = ("layers.0.experts.entropy", "layers.2.experts.entropy")
    assert found.losses == ("loss", "aux_loss", *entropies)
    assert found.loads == (("layers.0.experts.load", 4), ("layers.2.experts.load", 4))
    training = found.training
    assert (training.sequence, training.batch_sequences, training.micro_batches, training.steps) == (
        6,
        6,
        2,
        5,
    )
    assert (training.lr, training.schedule.kind, training.epochs) == (1e-2, "cosine", None)
    assert list(found.states())[:4] == [
        "embed/matrices",
        "layers.0/vectors",
        "layers.0/matrices",
        "layers.0/expert_matrices",
    ]


def test_the_source_in_a_bundle_compiles_to_the_same_programs() -> None:
    compiled = compile_spec(load_text(small_text("z"), "small.moe"))
    again = compile_spec(load_text(compiled.spec.text, "small.moe"))
    assert without_lines(again.programs) == without_lines(compiled.programs)
    assert manifest(again) == manifest(compiled)


@pytest.mark.parametrize(("dtype", "name"), [("fp32", "float32"), ("fp64", "float64")])
def test_the_dtype_of_a_compilation(dtype: Any, name: str) -> None:
    compiled = compile_spec(small_spec(), CompileOptions(dtype=dtype))
    assert manifest(compiled).dtype == name
    types = {i.type.split(" ")[0] for p in compiled.programs.values() for i in p.instructions if i.type}
    assert types <= {name, "int64", "int", "bool"}
