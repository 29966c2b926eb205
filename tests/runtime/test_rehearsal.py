"""What a step holds is known before it runs: a bundle that does not fit is refused and allocates nothing."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from held_bytes import Life
from moec.compiler.emit.bundle import save
from moec.compiler.pipeline import compile_spec
from moec.dsl import Spec
from moec.runtime.abi.bundle import Bundle, read_bundle, write_bundle
from moec.runtime.abi.mesh import AXES
from moec.runtime.abi.program import Instruction, Place, Program, Ref
from moec.runtime.executor import Executor
from moec.runtime.rehearsal import DoesNotFit, check_memory, memory_bytes, rehearse
from moec.runtime.shapes import tensors
from moec.runtime.state import TrainState
from moec.runtime.transport.single import SingleGroup
from small_models import batch_of, small_spec

CPU = torch.device("cpu")
GIB = 1 << 30
NO_LIMIT = 1 << 62


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundles") / "good"
    save(compile_spec(small_spec("gated")), path)
    return read_bundle(path)


def op(name: str, what: str, *arguments: Any, **keywords: Any) -> Instruction:
    return Instruction(name, what, arguments, tuple(keywords.items()), place=Place("evil.moe", 3))


def with_programs(bundle: Bundle, first: Sequence[Instruction], *more: Program) -> Bundle:
    """A bundle whose step does this first."""
    step = bundle.programs["step"]
    programs = {p.name: p for p in (*bundle.programs.values(), *more)}
    return replace(
        bundle, programs=programs | {"step": replace(step, instructions=(*first, *step.instructions))}
    )


def peak_above_state(bundle: Bundle, first: Sequence[Instruction], *more: Program) -> int:
    """Bytes that such a step holds at most, without what it takes, if it does nothing else."""
    changed = with_programs(bundle, first, *more)
    names = [i.name for i in first if not i.name.startswith("_")]
    taken = tuple(map(Ref, changed.programs["step"].inputs))  # and given back, so that it is held to the end
    step = replace(changed.programs["step"], instructions=tuple(first), outputs=(*taken, Ref(names[-1])))
    alone = replace(bundle, programs={**changed.programs, "step": step})
    quiet = replace(bundle, programs={"step": replace(step, instructions=(), outputs=taken)})
    return rehearse(alone, NO_LIMIT).peak_bytes - rehearse(quiet, NO_LIMIT).peak_bytes


ONES = op("a", "aten.full.default", (1000,), 1.0, dtype=torch.float32)
TURNED = op("t", "aten.t.default", Ref("r"))
GATHERED = op("b", "moec.shard_gather_start", Ref("a"), 8, "data")
ROWS = op("r", "aten.full.default", (1000, 1), 1.0, dtype=torch.float32)


@pytest.mark.parametrize(
    ("instructions", "size"),
    [
        ([ONES], 4000),
        ([op("a", "aten.zeros.default", (3, 5), dtype=torch.float64)], 120),
        ([op("a", "aten.arange.default", 10, dtype=torch.int64)], 80),
        ([ONES, op("b", "aten.repeat.default", Ref("a"), (3, 2))], 4000 + 24_000),
        ([ONES, op("b", "aten.expand.default", Ref("a"), (1000, 1000))], 4000),  # a view
        ([ONES, ROWS, op("b", "aten.add.Tensor", Ref("a"), Ref("r"))], 4_008_000),
        ([ONES, op("b", "aten.gt.Scalar", Ref("a"), 0)], 5000),  # a byte each
        ([ONES, op("b", "aten.neg.default", Ref("a")), op("c", "aten.neg.default", Ref("b"))], 8000),
        ([ROWS, TURNED, op("m", "aten.mm.default", Ref("r"), Ref("t"))], 4000 + 4_000_000),
        ([ONES, op("b", "aten.cat.default", (Ref("a"),) * 100)], 404_000),
        ([ONES, op("b", "aten.new_zeros.default", Ref("a"), (500,))], 6000),
        ([ONES, GATHERED, op("c", "moec.wait", Ref("b"))], 9 * 4000),
        ([ONES, op("b", "moec.pack", (Ref("a"),), 5000)], 24_000),
        ([op("n", "int.mul", 10, 10), op("a", "aten.zeros.default", (Ref("n"),), dtype=torch.uint8)], 100),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_step_holds_is_the_sum_of_what_lives(
    good: Bundle, instructions: list[Instruction], size: int
) -> None:
    assert peak_above_state(good, instructions) == size


def doubling(depth: int) -> list[Program]:
    """p0 gives 1000 numbers, and each that follows calls the one before twice and joins what it gets."""
    programs = [Program("p0", (), (ONES,), (Ref("a"),), (), ("a",))]
    for i in range(1, depth + 1):
        called = [op(f"c{k}", "moec.call", f"p{i - 1}", ()) for k in (0, 1)]
        got = [op(f"g{k}", "moec.getitem", Ref(f"c{k}"), 0) for k in (0, 1)]
        joined = op("a", "aten.cat.default", (Ref("g0"), Ref("g1")))
        programs.append(Program(f"p{i}", (), (*called, *got, joined), (Ref("a"),), (), ("a",)))
    return programs


def test_calls_are_followed_and_a_call_that_is_known_counts_as_much_again(good: Bundle) -> None:
    """2^k parts at depth k, held twice while they are joined; the last one once more while it is taken."""
    for depth in (0, 1, 2, 3):
        first = [op("call", "moec.call", f"p{depth}", ()), op("x", "moec.getitem", Ref("call"), 0)]
        made = 4000 * 2**depth
        assert peak_above_state(good, first, *doubling(depth)) == (2 * made if depth else made)


def test_a_call_that_gives_back_what_it_took_makes_nothing_however_often(good: Bundle) -> None:
    same = Program(
        "same", ("v",), (op("w", "aten.view.default", Ref("v"), (10, 100)),), (Ref("w"),), ("v",), ("w",)
    )
    calls = [
        part
        for k in range(5)
        for part in (
            op(f"c{k}", "moec.call", "same", (Ref("a"),)),
            op(f"g{k}", "moec.getitem", Ref(f"c{k}"), 0),
        )
    ]
    last = op("x", "aten.cat.default", tuple(Ref(f"g{k}") for k in range(5)))
    assert peak_above_state(good, [ONES, *calls, last], same) == 4000 + 20_000


def measured_peak(bundle: Bundle, spec: Spec) -> int:
    """Bytes of all tensors that a real step of one rank holds at once: state, inputs, and results alive."""
    manifest = bundle.manifest
    state = TrainState(manifest.states(), manifest.mesh, 0, torch.float32, CPU)
    tokens, targets = batch_of(spec)
    batch = [tokens[None], targets[None], torch.tensor([len(tokens)]), torch.tensor([0])]
    arguments = [*batch, 0.1, torch.tensor(1.0), math.inf, *state.arguments()]
    lives = {life.key: life for life in map(Life, filter(torch.is_tensor, arguments))}
    peak = 0

    def around(program: str, instruction: Instruction, function: Callable[..., Any]) -> Callable[..., Any]:
        def observed(*values: Any, **keywords: Any) -> Any:
            nonlocal peak
            result = function(*values, **keywords)
            for tensor in tensors(result):
                life = Life(tensor)
                lives[life.key] = life
            peak = max(peak, sum(life.bytes for life in lives.values() if life.goes_on()))
            return result

        return observed

    executor = Executor(bundle.programs, dict.fromkeys(AXES, SingleGroup(CPU)), CPU)
    executor.observe(around)
    with torch.no_grad():
        executor.run("step", arguments)
    return peak


@pytest.mark.parametrize("variant", ["mixtral", "shared", "tied", "correction", "hash"])
def test_the_peak_of_a_real_step_is_no_more_than_what_it_holds(tmp_path: Path, variant: str) -> None:
    """Compared with the tensors of a step that is run: every value of every instruction, while it lives."""
    spec = small_spec(variant)
    save(compile_spec(spec), tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    found, held = rehearse(bundle, NO_LIMIT).peak_bytes, measured_peak(bundle, spec)
    assert 0.5 * held < found <= held


# --- refused ---

HOSTILE: dict[str, list[Instruction]] = {
    "full": [op("x", "aten.full.default", (1 << 40, 4), 1.0, dtype=torch.float32)],
    "zeros": [op("x", "aten.zeros.default", (1 << 45,), dtype=torch.float32)],
    "arange": [op("x", "aten.arange.default", 1 << 45, dtype=torch.int64)],
    "many of them": [
        op(f"x{i}", "aten.zeros.default", (1 << 30,), dtype=torch.float32) for i in range(4096)
    ] + [op("x", "aten.stack.default", tuple(Ref(f"x{i}") for i in range(4096)))],
    "repeat": [ONES, op("x", "aten.repeat.default", Ref("a"), (1 << 40,))],
    "rows and columns": [
        op("a", "aten.zeros.default", (1 << 22,), dtype=torch.float32),
        op("b", "aten.zeros.default", (1 << 22, 1), dtype=torch.float32),
        op("x", "aten.add.Tensor", Ref("a"), Ref("b")),
    ],
    "product": [
        op("a", "aten.zeros.default", (1, 1 << 22), dtype=torch.float32),
        op("b", "aten.zeros.default", (1 << 22, 1), dtype=torch.float32),
        op("x", "aten.mm.default", Ref("b"), Ref("a")),
    ],
    "a view made whole": [
        op("a", "aten.expand.default", Ref("update"), (1 << 21, 1 << 21)),
        op("x", "aten.neg.default", Ref("a")),
    ],
    "padding": [ONES, op("x", "moec.pack", (Ref("a"),), 1 << 45)],
    "gathered": [
        ONES,
        op("h", "moec.shard_gather_start", Ref("a"), 1 << 40, "data"),
        op("x", "moec.wait", Ref("h")),
    ],
    "received": [
        op("a", "aten.zeros.default", (4, 1 << 20), dtype=torch.float32),
        op("c", "aten.zeros.default", (1,), dtype=torch.int64),
        op("h", "moec.all_to_all_start", Ref("a"), Ref("c"), Ref("c"), 1 << 30, "expert"),
        op("x", "moec.wait", Ref("h")),
    ],
    "numbers": [
        op("n", "int.mul", 1 << 30, 1 << 15),
        op("x", "aten.zeros.default", (Ref("n"),), dtype=torch.float32),
    ],
    "a table": [
        op("a", "aten.zeros.default", (1, 4), dtype=torch.float32),
        op("i", "aten.zeros.default", (1,), dtype=torch.int64),
        op("x", "aten.embedding_dense_backward.default", Ref("a"), Ref("i"), 1 << 45, -1, False),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_step_that_cannot_fit_is_refused_by_its_instruction_and_line(good: Bundle, case: str) -> None:
    hostile = with_programs(good, HOSTILE[case])
    with pytest.raises(DoesNotFit, match=r"or more at once on every rank.*\(evil\.moe:3\)") as error:
        check_memory(hostile, CPU)
    assert error.value.exit_code == 78


def test_calls_that_double_what_they_hold_are_refused(good: Bundle) -> None:
    first = [op("x", "moec.call", "p25", ())]
    with pytest.raises(DoesNotFit, match=r"p\d+: %a = aten\.cat\.default"):
        check_memory(with_programs(good, first, *doubling(25)), CPU)


def test_a_state_that_cannot_fit_is_refused(good: Bundle) -> None:
    buffers = {
        kind: tuple(replace(b, numel=b.numel << 36) for b in own)
        for kind, own in good.manifest.buffers.items()
    }
    with pytest.raises(DoesNotFit, match="the state alone"):
        check_memory(replace(good, manifest=replace(good.manifest, buffers=buffers)), CPU)


def test_a_good_bundle_fits_and_the_machine_has_memory(good: Bundle) -> None:
    check_memory(good, CPU)
    assert GIB // 4 < memory_bytes(CPU) < 1 << 50


def test_a_hostile_bundle_is_refused_by_moec_run_and_nothing_is_allocated(
    good: Bundle, tmp_path: Path
) -> None:
    """Nor is anything loaded for it that takes a second."""
    hostile = with_programs(good, HOSTILE["full"])
    write_bundle(tmp_path / "b", hostile.manifest, hostile.programs, hostile.checkpoint, hostile.source)
    (tmp_path / "text.txt").write_text("a text " * 1000)
    code = (
        "import sys, json, resource; from moec.cli.main import run;"
        "code = run(sys.argv[1:]); used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "print(json.dumps([code, used, 'torch._dynamo' in sys.modules]))"
    )
    line = [
        sys.executable,
        "-c",
        code,
        "run",
        tmp_path / "b",
        "--data",
        tmp_path / "text.txt",
        "--out",
        tmp_path / "o",
    ]
    done = subprocess.run(
        list(map(str, line)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 * GIB, 8 * GIB)),
    )
    assert done.stdout, done.stderr
    exit_code, used_kib, compiler_loaded = json.loads(done.stdout.splitlines()[-1])
    assert exit_code == 78, done.stderr
    assert "(evil.moe:3)" in done.stderr
    assert used_kib < 2 * GIB // 1024
    assert not compiler_loaded
