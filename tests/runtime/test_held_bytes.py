"""How much of the model a rank holds at any moment: its shards, and one region."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from held_bytes import Life
from moec.compiler.pipeline import Compiled, compile_spec
from moec.runtime.abi.mesh import AXES
from moec.runtime.executor import Executor
from moec.runtime.job import make_groups
from moec.runtime.state import TrainState
from moec.runtime.transport.api import Group, Handle
from moec.runtime.transport.loopback import LoopbackTransport, run_ranks
from small_models import batch_of, small_spec

CPU = torch.device("cpu")


def alive(lives: list[Life]) -> int:
    """Bytes."""
    return sum(life.bytes for life in lives if life.goes_on())


def state_of(compiled: Compiled, rank: int) -> TrainState:
    mesh, dtype = compiled.plan.mesh, compiled.reference.shape.dtype
    state = TrainState(compiled.step.buffers, mesh, rank, dtype, CPU)
    state.draw(seed=1, std=0.1)
    return state


@dataclass
class Watched:
    """A group that counts how much of what it gathered, and was given to scatter, is alive at any moment.

    The network gets and gives copies: what it keeps for ranks that are late is not counted.
    """

    group: Group
    log: dict[str, list[int]]
    lives: dict[str, list[Life]]

    @property
    def size(self) -> int:
        return self.group.size

    @property
    def index(self) -> int:
        return self.group.index

    def count(self, what: str, new: Tensor) -> None:
        self.lives[what].append(Life(new))
        self.log[what].append(alive(self.lives[what]))

    def all_gather(self, shard: Tensor) -> Handle:
        return Counted(self.group.all_gather(shard), lambda full: self.count("parameters", full))

    def reduce_scatter(self, full: Tensor) -> Handle:
        self.count("gradients", full)
        return self.group.reduce_scatter(full.clone())

    def all_reduce(self, x: Tensor) -> Handle:
        return self.group.all_reduce(x)

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Handle:
        return self.group.all_to_all(x, send, receive)

    def broadcast(self, x: Tensor, root: int) -> Handle:
        return self.group.broadcast(x, root)


@dataclass
class Counted:
    handle: Handle
    count: Callable[[Tensor], None]

    def wait(self) -> Tensor:
        full = self.handle.wait().clone()
        self.count(full)
        return full


def watch_step(compiled: Compiled, transport: LoopbackTransport) -> tuple[dict[str, list[int]], int]:
    """Bytes alive at every collective of one step on one rank, and how much of it is alive in the end."""
    log: dict[str, list[int]] = {"parameters": [], "gradients": []}
    lives: dict[str, list[Life]] = {"parameters": [], "gradients": []}
    groups = make_groups(compiled.plan.mesh, set(AXES), transport)
    watched: dict[str, Group] = {axis: Watched(group, log, lives) for axis, group in groups.items()}
    state = state_of(compiled, transport.rank)
    tokens, targets = batch_of(compiled.spec)
    mine = slice(transport.rank, transport.rank + 1)
    batch = [
        tokens[None, mine],
        targets[None, mine],
        torch.tensor([1]),
        torch.tensor([0]),
        0.1,
        torch.tensor(1.0),
        math.inf,
    ]
    with torch.no_grad():
        Executor(compiled.programs, watched, CPU).run("step", [*batch, *state.arguments()])
    return log, alive(lives["parameters"]) + alive(lives["gradients"])


@pytest.mark.parametrize(
    ("variant", "recompute"), [("mixtral", "none"), ("mixtral", "full"), ("ends", "none")]
)
def test_a_rank_never_holds_more_of_the_model_than_one_region(variant: str, recompute: str) -> None:
    """Beside its shards: parameters are gathered for a region and gone after it, and so are its gradients."""
    spec = small_spec(variant, expert=2, shard=4, layers="3", sequences="4", recompute=recompute)
    compiled = compile_spec(spec)
    itemsize = compiled.reference.shape.dtype.itemsize
    regions = [
        sum(buffer.numel for buffer in buffers if buffer.ranks > 1) * itemsize
        for buffers in compiled.plan.buffers.values()
    ]
    gc.disable()  # what only a collector frees is not free
    try:
        watched = run_ranks(4, lambda transport: watch_step(compiled, transport))
    finally:
        gc.enable()
    for log, left in watched:
        assert max(log["parameters"]) == max(regions)
        assert max(log["gradients"]) <= max(regions)
        assert left == 0


@pytest.mark.parametrize(
    "degrees", [{"shard": 4}, {"shard": 4, "expert": 2}, {"shard": 4, "expert": 4}], ids=str
)
def test_a_rank_of_four_holds_a_quarter_of_the_state(degrees: dict[str, int]) -> None:
    """Of parameters, gradients and both moments."""
    whole = state_of(compile_spec(small_spec()), 0).bytes_by_part()
    compiled = compile_spec(small_spec(**degrees))  # type: ignore[arg-type]
    for rank in range(4):
        part = state_of(compiled, rank).bytes_by_part()
        assert part.keys() == whole.keys() == {"parameter", "gradient", "exp_avg", "exp_avg_sq"}
        assert all(4 * part[name] == whole[name] for name in whole)
