"""Compile time and bundle grow with the kinds of layers, not with parameters or ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from moec import dsl, models
from moec.compiler.pipeline import compile_spec
from moec.dsl.spec import ParallelSpec
from small_models import small_spec

from .stages import without_lines

MEASURE = """
import json, psutil
from dataclasses import replace
from moec import dsl, models
from moec.compiler.pipeline import compile_spec
from moec.compiler.small import small_spec
from moec.dsl.spec import ParallelSpec

rss = psutil.Process().memory_info
spec = dsl.load("mixtral_8x7b", ("train.batch=4M",), models.read)
compile_spec(small_spec(spec, 1))  # what torch loads and keeps for its first trace
before = rss().rss
parallel = ParallelSpec(expert=8, shard=32, replicate=16)
compiled = compile_spec(replace(spec, parallel=parallel))
numel = sum(b.numel for _, kind in compiled.reference.chain for b in compiled.plan.buffers[kind])
print(json.dumps({"grown_bytes": rss().rss - before, "numel_of_an_expert_group": numel}))
"""


def test_no_parameter_is_allocated() -> None:
    """Mixtral 8x7B for 512 ranks, in a process of its own: 187 GB of parameters, some MB of graphs."""
    done = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout)
    assert measured["grown_bytes"] < 300e6
    # All dense parameters, and one of the eight experts of every layer.
    assert 7e9 < measured["numel_of_an_expert_group"] < 8e9


def instructions(**degrees: int) -> dict[str, int]:
    spec = dsl.load("mixtral_8x7b", ("train.batch=4M",), models.read)
    compiled = compile_spec(replace(spec, parallel=ParallelSpec(**degrees)))  # type: ignore[arg-type]
    return {name: len(program.instructions) for name, program in compiled.programs.items()}


def test_programs_are_as_long_for_512_ranks_as_for_64() -> None:
    some = instructions(expert=8, shard=32, replicate=2)
    many = instructions(expert=8, shard=32, replicate=16)
    assert some == many
    assert many["layer_0.forward"] < 120


def test_layers_of_one_kind_share_their_programs() -> None:
    """Two layers more are calls more, in the micro-batch, and states more, in the step."""
    few, more = (compile_spec(small_spec("no balance", layers=n, shard=2)).programs for n in ("2", "4"))
    assert few.keys() == more.keys()
    shared = few.keys() - {"micro_batch", "step", "evaluate_micro_batch", "evaluate"}
    assert without_lines({n: few[n] for n in shared}) == without_lines({n: more[n] for n in shared})
    per_layer = len(more["micro_batch"].instructions) - len(few["micro_batch"].instructions)
    assert 0 < per_layer < 2 * 60


@pytest.mark.parametrize("count", ["1", "7"])
def test_micro_batches_share_a_program(count: str) -> None:
    programs = compile_spec(small_spec(micro_batches=count, sequences="14")).programs
    calls = [i for i in programs["step"].instructions if i.op == "moec.call"]
    assert {i.arguments[0] for i in calls} == {"micro_batch"}
    assert len(calls) == int(count)


def test_all_ranks_run_one_program_whatever_their_number() -> None:
    """Twice the ranks with twice the batch, as replicas: not an instruction changes."""
    some, more = (
        compile_spec(small_spec(expert=2, shard=2, replicate=count, sequences=str(4 * count))).programs
        for count in (2, 4)
    )
    assert without_lines(some) == without_lines(more)
