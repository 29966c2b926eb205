"""Runs of one step under different `memory` blocks: what comes out, and what is held meanwhile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from held_bytes import Life
from moec.compiler.pipeline import Compiled, compile_spec
from moec.compiler.schedule.offload import calls
from moec.dsl import load_text
from moec.dsl.spec import ParallelSpec
from moec.runtime.abi import machine_ops
from moec.runtime.abi.mesh import AXES
from moec.runtime.data.layout import assign
from moec.runtime.executor import Executor
from moec.runtime.job import make_groups
from moec.runtime.state import TrainState
from moec.runtime.transport.api import Handle
from moec.runtime.transport.loopback import LoopbackTransport, run_ranks
from small_models import batch_of, small_text

CPU = torch.device("cpu")


def compiled_with(
    memory: str, variant: str = "mixtral", changes: dict[str, str] | None = None, **parallel: Any
) -> Compiled:
    """A small model whose `memory` block holds `memory`; `compute` of `changes` is its precision."""
    changes = dict(changes or {})
    compute = changes.pop("compute", "fp32")
    text = small_text(variant, **changes)
    plain = "memory { recompute = none }"
    assert plain in text
    spec = load_text(
        text.replace(plain, f"memory {{ {memory} }}\nprecision {{ compute = {compute} }}"), "small.moe"
    )
    return compile_spec(replace(spec, parallel=ParallelSpec(**parallel)))


@dataclass
class Held:
    """Bytes that are alive at calls of regions, on one rank: `saved` on the device, `host` offloaded."""

    saved: list[int] = field(default_factory=list)
    host: list[int] = field(default_factory=list)
    computed: dict[str, int] = field(default_factory=dict)  # by program of a region
    inside: list[_Inside] = field(default_factory=list)  # the programs that run now
    lives: dict[str, list[Life]] = field(default_factory=lambda: {"saved": [], "host": []})

    def add(self, kind: str, values: Sequence[Any]) -> None:
        """From here on these count, each piece of memory once."""
        self.lives[kind] += [Life(x) for x in values if isinstance(x, Tensor)]

    def count(self) -> None:
        """Note what is alive now."""
        self.saved.append(_alive(self.lives["saved"]))
        self.host.append(_alive(self.lives["host"]))


@dataclass
class _Inside:
    """A program of a region that runs: what it was given, and what it has computed."""

    given: list[Life]
    made: list[Life] = field(default_factory=list)
    most: int = 0

    def add(self, result: Any) -> None:
        given = {life.key for life in self.given}
        found = [Life(x) for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.made = [life for life in self.made if life.goes_on()]
        self.made += [life for life in found if life.key not in given]
        self.most = max(self.most, _alive(self.made))


def _alive(lives: list[Life]) -> int:
    """Bytes; views of one memory, and that of two values, count once."""
    pieces = {life.key: life.bytes for life in lives if life.goes_on()}
    return sum(pieces.values())


@dataclass(frozen=True)
class Outcome:
    """Of one rank: everything the step gives and changes, and what was held."""

    results: tuple[Tensor, ...]
    state: dict[str, Tensor]
    held: Held


def run_step(compiled: Compiled) -> list[Outcome]:
    """One step on all ranks of a compilation, in one process."""
    return run_ranks(compiled.plan.mesh.world, lambda transport: _step(compiled, transport))


def _step(compiled: Compiled, transport: LoopbackTransport) -> Outcome:
    mesh, rank = compiled.plan.mesh, transport.rank
    numerics = compiled.plan.numerics
    state = TrainState(compiled.step.buffers, mesh, rank, numerics.parameters, CPU, numerics.moments)
    state.draw(seed=1, std=0.3)
    executor = Executor(compiled.programs, make_groups(mesh, set(AXES), transport), CPU)
    held = Held()
    kept = itertools.cycle(_kept_results(compiled))
    executor.interpose("moec.call", lambda call: _watched(call, held, kept))
    for op in {i.op for program in compiled.programs.values() for i in program.instructions} - {"moec.call"}:
        executor.interpose(op, lambda compute: _computed(compute, held))
    for op, kind in (("moec.offload_start", "host"), ("moec.load_start", "saved")):
        executor.interpose(op, lambda start, kind=kind: _counted(start, kind, held))  # type: ignore[misc]
    arguments = [*_batch(compiled, rank), 0.1, torch.tensor(1.0), math.inf, *state.arguments()]
    with torch.no_grad():
        results = executor.run("step", arguments)
    shards = {f"{part} {name}": x for part, some in state.parts.items() for name, x in some.items()}
    return Outcome(tuple(torch.as_tensor(x) for x in results), shards, held)


def _batch(compiled: Compiled, rank: int) -> list[Tensor]:
    """This rank's sequences of every micro-batch, padded."""
    spec, shape = compiled.spec, compiled.reference.shape
    tokens, targets = batch_of(spec)
    count = spec.train.micro_batches
    mine = torch.zeros((count, shape.sequences, shape.sequence), dtype=torch.int64)
    wanted = torch.full_like(mine, -100)
    rows = assign(len(tokens), count, compiled.plan.mesh.world, shape.sequences, rank)
    for index, places in enumerate(rows):
        mine[index, : len(places)] = tokens[places.start : places.stop]
        wanted[index, : len(places)] = targets[places.start : places.stop]
    lengths = torch.tensor([len(places) for places in rows])
    return [mine, wanted, lengths, torch.tensor([places.start for places in rows])]


def _kept_results(compiled: Compiled) -> list[list[int]]:
    """Of every call of a region's forward in a micro-batch: which of its results wait for backward."""
    graph = compiled.micro_batch.graph
    backward = calls(graph, "backward")

    def waits(node: fx.Node) -> bool:
        leaves = any(user.target is machine_ops.offload_start for user in node.users)
        return leaves or any(user in backward for user in node.users)

    return [
        [int(node.args[1]) for node in call.users if waits(node)]  # type: ignore[arg-type]
        for call in calls(graph, "forward")
    ]


def _watched(call: Callable[..., Any], held: Held, kept: Iterator[list[int]]) -> Callable[..., Any]:
    """Counts before and after the call of any region."""

    def called(program: str, arguments: list[Any]) -> Any:
        held.count()
        held.inside.append(_Inside([Life(x) for x in arguments if isinstance(x, Tensor)]))
        results = call(program, arguments)
        most = held.inside.pop().most
        if program not in ("step", "micro_batch"):
            held.computed[program] = max(held.computed.get(program, 0), most)
        if program.endswith(".forward"):
            held.add("saved", [results[index] for index in next(kept)])
        held.count()
        return results

    return called


def _computed(compute: Callable[..., Any], held: Held) -> Callable[..., Any]:
    """Counts what an instruction of the program that runs now has computed."""

    def computed(*arguments: Any, **keywords: Any) -> Any:
        result = compute(*arguments, **keywords)
        if held.inside:
            held.inside[-1].add(result)
        return result

    return computed


def _counted(start: Callable[[Tensor], Handle], kind: str, held: Held) -> Callable[[Tensor], Handle]:
    """Counts the copy from its start on: where host and device are one, it is made there."""

    def started(x: Tensor) -> Handle:
        handle = start(x)
        held.add(kind, [handle.wait()])
        return handle

    return started
