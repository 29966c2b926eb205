"""The executor: what programs mean, when values are let go, and what a failure says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from held_bytes import Life
from moec.compiler.pipeline import CompileOptions, compile_spec
from moec.runtime.abi.program import Instruction, Place, Program, Ref
from moec.runtime.errors import InternalError
from moec.runtime.executor import ExecutionError, Executor
from moec.runtime.guard import describe
from moec.runtime.state import TrainState
from moec.runtime.transport.api import Group, Handle, TransportError
from moec.runtime.transport.common import Ready
from moec.runtime.transport.single import SingleGroup
from small_models import batch_of, small_spec

CPU = torch.device("cpu")
AT = Place("small.moe", 7, "x += f(x)")


Line = tuple[Any, ...]
"""(name, op, arguments, keywords...) of an instruction."""


def program(inputs: str, instructions: Sequence[Line], outputs: Sequence[Any], name: str = "p") -> Program:
    names = tuple(inputs.split())
    made = tuple(
        Instruction(n, op, args, tuple(keywords), place=AT) for n, op, args, *keywords in instructions
    )
    return Program(name, names, made, tuple(outputs), names, tuple(map(str, outputs)))


def execute(
    *programs: Program, groups: dict[str, Group] | None = None, arguments: list[Any]
) -> tuple[Any, ...]:
    """Run the first of some programs."""
    executor = Executor({p.name: p for p in programs}, groups or {}, CPU)
    return executor.run(programs[0].name, arguments)


a, b, c, x, y = map(Ref, "abcxy")


# --- what programs mean ---


def test_values_numbers_lists_and_dtypes() -> None:
    joined, number, filled = execute(
        program(
            "x y",
            [
                ("a", "aten.cat.default", ((x, y, x), 0)),
                ("b", "int.add", (3, 4)),
                ("c", "aten.full.default", ((2, b), 0.5), ("dtype", torch.float64)),
            ],
            [a, b, c],
        ),
        arguments=[torch.tensor([1.0]), torch.tensor([2.0])],
    )
    assert joined.tolist() == [1.0, 2.0, 1.0]
    assert number == 7
    assert (filled.shape, filled.dtype) == ((2, 7), torch.float64)


def test_values_by_keyword() -> None:
    """A keyword may hold a value, or a list with values."""
    (found,) = execute(
        program("x y", [("a", "aten.add.Tensor", (x, x), ("alpha", y))], [a]), arguments=[torch.tensor(2), 5]
    )
    assert found == 12
    counts = torch.tensor([1, 2])
    made = program("x y", [("a", "aten.repeat_interleave.Tensor", (x,), ("output_size", y))], [a])
    assert execute(made, arguments=[counts, 3])[0].tolist() == [0, 1, 1]
    with pytest.raises(ExecutionError):
        execute(made, arguments=[counts, 4])


def test_outputs_may_be_constants_lists_and_inputs() -> None:
    found = execute(program("x", [], [(x, 1), None, x]), arguments=[5])
    assert found == ([5, 1], None, 5)


def test_a_program_calls_another() -> None:
    outer = program("x", [("a", "moec.call", ("inner", (x, 2))), ("b", "moec.getitem", (a, 1))], [b])
    inner = program("x y", [("c", "aten.mul.Tensor", (x, y))], [x, c], name="inner")
    assert execute(outer, inner, arguments=[torch.tensor(3)]) == (torch.tensor(6),)


def test_arguments_must_be_as_many_as_inputs() -> None:
    with pytest.raises(InternalError, match="p takes 1 values, not 2"):
        execute(program("x", [], [x]), arguments=[1, 2])


@dataclass
class Recorder:
    """A group that does nothing but remember what it was asked."""

    size: int = 2
    index: int = 0
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def _ready(self, *call: Any) -> Handle:
        self.asked.append(call)
        return Ready(torch.tensor([float(len(self.asked))]))

    def all_gather(self, shard: Tensor) -> Handle:
        return self._ready("all_gather", shard.tolist())

    def reduce_scatter(self, full: Tensor) -> Handle:
        return self._ready("reduce_scatter", full.tolist())

    def all_reduce(self, x: Tensor) -> Handle:
        return self._ready("all_reduce", x.tolist())

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Handle:
        return self._ready("all_to_all", x.tolist(), send, receive)

    def broadcast(self, x: Tensor, root: int) -> Handle:
        raise AssertionError("no instruction broadcasts")


def test_collectives_go_to_the_group_of_their_axis() -> None:
    """Each start asks its axis; each wait gives the result of its own start, in whatever order."""
    shard, expert = Recorder(), Recorder()
    found = execute(
        program(
            "x y",
            [
                ("g", "moec.shard_gather_start", (x, 2, "shard")),
                ("r", "moec.reduce_scatter_start", (x, 2, "shard")),
                ("e", "moec.all_to_all_start", (x, y, y, 2, "expert")),
                ("s", "moec.all_reduce_start", (x, "expert")),
                ("a", "moec.wait", (Ref("s"),)),
                ("b", "moec.wait", (Ref("g"),)),
                ("c", "moec.wait", (Ref("r"),)),
                ("d", "moec.wait", (Ref("e"),)),
            ],
            [a, b, c, Ref("d")],
        ),
        groups={"shard": shard, "expert": expert},
        arguments=[torch.tensor([5.0, 6.0]), torch.tensor([1, 1])],
    )
    assert shard.asked == [("all_gather", [5.0, 6.0]), ("reduce_scatter", [5.0, 6.0])]
    assert expert.asked == [("all_to_all", [5.0, 6.0], [1, 1], [1, 1]), ("all_reduce", [5.0, 6.0])]
    assert [value.item() for value in found] == [2.0, 1.0, 2.0, 1.0]


@pytest.mark.parametrize(("sent", "rows"), [(3, 3), (3, 5), (1, 1), (1, 4), (0, 0), (0, 2)])
def test_rows_behind_those_that_are_sent_stay_and_zeros_fill_up(sent: int, rows: int) -> None:
    """Of three rows; what arrives comes first."""
    given, counts = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([sent])
    (found,) = execute(
        program(
            "x y",
            [("h", "moec.all_to_all_start", (x, y, y, rows, "expert")), ("z", "moec.wait", (Ref("h"),))],
            [Ref("z")],
        ),
        groups={"expert": SingleGroup(CPU)},
        arguments=[given, counts],
    )
    assert found.tolist() == [[1.0], [2.0], [3.0]][:sent] + [[0.0]] * (rows - sent)


@pytest.mark.parametrize(
    ("send", "receive", "rows", "message"),
    [
        (2, 3, 2, "3 rows arrive where 2 have room"),
        (4, 4, 4, r"do not add up to 3 rows"),
        (-1, -1, 3, "negative counts"),
    ],
)
def test_rows_that_do_not_fit_are_refused(send: int, receive: int, rows: int, message: str) -> None:
    start = ("h", "moec.all_to_all_start", (x, y, c, rows, "expert"))
    with pytest.raises(ExecutionError, match=message):
        execute(
            program("x y c", [start], []),
            groups={"expert": SingleGroup(CPU)},
            arguments=[torch.zeros(3, 1), torch.tensor([send]), torch.tensor([receive])],
        )


# --- when values are let go ---


class Probe(Recorder):
    """A group whose all_reduce notes what it is given, and how much of that is alive at every later one."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Life] = []
        self.alive: list[list[bool]] = []

    def all_reduce(self, x: Tensor) -> Handle:
        self.alive.append([life.goes_on() for life in self.given])
        self.given.append(Life(x))
        return Ready(torch.zeros(1))


def note(name: str, value: Ref) -> tuple[Any, ...]:
    """An instruction that shows a value to the probe."""
    return (name, "moec.all_reduce_start", (value, "data"))


def observe(*programs: Program, arguments: list[Any]) -> list[list[bool]]:
    """Which of the values shown so far are alive, at every showing."""
    probe = Probe()
    execute(*programs, groups={"data": probe}, arguments=arguments)
    return probe.alive


def test_a_value_is_let_go_at_its_last_use() -> None:
    """And not before: `a` lives until `b` is made, `b` is returned."""
    made = program(
        "x",
        [
            ("a", "aten.mul.Tensor", (x, 2)),
            note("h1", a),
            ("b", "aten.add.Tensor", (a, a)),
            note("h2", b),
            ("c", "aten.mul.Tensor", (b, 2)),
            note("h3", c),
        ],
        [b],
    )
    assert observe(made, arguments=[torch.ones(4)]) == [[], [False], [False, True]]


def test_a_view_keeps_what_it_is_a_view_of() -> None:
    made = program(
        "x",
        [
            ("a", "aten.mul.Tensor", (x, 2)),
            note("h1", a),
            ("b", "aten.view.default", (a, (2, 2))),
            ("c", "aten.t.default", (b,)),
            note("h2", x),
            ("y", "aten.mul.Tensor", (c, 2)),
            note("h3", x),
        ],
        [y],
    )
    assert observe(made, arguments=[torch.ones(4)])[1:] == [[True], [False, True]]


def test_what_is_handed_over_belongs_to_the_program_that_was_called() -> None:
    """The caller holds nothing of it: it is gone at its last use inside."""
    outer = program(
        "x", [("a", "aten.mul.Tensor", (x, 2)), note("h", a), ("b", "moec.call", ("inner", (a, x)))], [x]
    )
    inner = program(
        "x y",
        [("a", "aten.mul.Tensor", (x, 2)), note("h1", a), ("b", "aten.mul.Tensor", (a, y)), note("h2", y)],
        [b],
        name="inner",
    )
    assert observe(outer, inner, arguments=[torch.ones(4)]) == [[], [False], [False, False]]


def test_what_a_program_does_not_use_is_let_go_at_once() -> None:
    outer = program(
        "x", [("a", "aten.mul.Tensor", (x, 2)), note("h", a), ("b", "moec.call", ("inner", (a, x)))], []
    )
    inner = program("a x", [note("h1", x)], [x], name="inner")
    assert observe(outer, inner, arguments=[torch.ones(4)]) == [[], [False]]


def test_a_result_that_nothing_reads_is_let_go_at_once() -> None:
    made = program(
        "x",
        [
            ("a", "aten.mul.Tensor", (x, 2)),
            note("h1", a),
            ("b", "moec.getitem", ((a, x), 0)),  # the last use of a, as a result that nobody wants
            note("h2", x),
        ],
        [x],
    )
    assert observe(made, arguments=[torch.ones(4)]) == [[], [False]]


def test_the_list_of_arguments_is_emptied() -> None:
    arguments: list[Any] = [torch.ones(2)]
    execute(program("x", [], []), arguments=arguments)
    assert arguments == []


# --- failures ---


def test_a_failure_names_operation_and_line() -> None:
    with pytest.raises(ExecutionError) as caught:
        execute(program("x", [("a", "aten.mm.default", (x, x))], [a]), arguments=[torch.ones(2, 3)])
    error = caught.value
    assert (error.operation, error.origin) == ("p: %a = aten.mm.default", "small.moe:7")
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in str(error)
    assert isinstance(error.__cause__, RuntimeError)
    assert error.exit_code == 70
    assert describe(error).splitlines()[-2:] == ["  during p: %a = aten.mm.default", "  from small.moe:7"]


def test_a_failure_inside_a_call_names_the_innermost_operation() -> None:
    outer = program("x", [("a", "moec.call", ("inner", (x,)))], [])
    inner = program("x", [("b", "aten.t.default", (x,))], [b], name="inner")
    with pytest.raises(ExecutionError) as caught:
        execute(outer, inner, arguments=[torch.ones(1, 2, 3)])
    assert caught.value.operation == "inner: %b = aten.t.default"
    assert not isinstance(caught.value.__cause__, ExecutionError)


def test_a_failure_of_the_network_keeps_its_exit_code() -> None:
    class Broken(Recorder):
        def all_reduce(self, x: Tensor) -> Handle:
            raise TransportError("all_reduce: rank 3 has left", operation="all_reduce")

    made = program("x", [("a", "moec.all_reduce_start", (x, "data"))], [])
    with pytest.raises(ExecutionError, match="rank 3 has left") as caught:
        execute(made, groups={"data": Broken()}, arguments=[torch.ones(1)])
    assert caught.value.exit_code == 88
    assert caught.value.origin == "small.moe:7"


def test_a_failure_without_a_line_says_so_by_silence() -> None:
    made = Program("p", (), (Instruction("a", "int.floordiv", (1, 0)),), (), (), ())
    with pytest.raises(ExecutionError, match="ZeroDivisionError") as caught:
        execute(made, arguments=[])
    assert caught.value.origin == ""


def test_an_interrupt_is_not_a_failure_of_the_program() -> None:
    class Interrupted(Recorder):
        def all_reduce(self, x: Tensor) -> Handle:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(program("x", [note("a", x)], []), groups={"data": Interrupted()}, arguments=[torch.ones(1)])


def test_a_token_outside_the_vocabulary_fails_at_the_embedding() -> None:
    compiled = compile_spec(small_spec(), CompileOptions(update=False))
    state = TrainState(compiled.step.buffers, compiled.plan.mesh, 0, torch.float32, CPU)
    tokens, targets = batch_of(compiled.spec)
    tokens[2, 3] = 29
    batch = [
        tokens[None],
        targets[None],
        torch.tensor([5]),
        torch.tensor([0]),
        0.0,
        torch.tensor(1.0),
        math.inf,
    ]
    with pytest.raises(ExecutionError, match="index out of range") as caught:
        Executor(compiled.programs, {}, CPU).run("step", [*batch, *state.arguments()])
    assert caught.value.operation.startswith("embed.forward: ")
    assert caught.value.operation.endswith(" = aten.embedding.default")
    assert caught.value.origin == "small.moe:1"
