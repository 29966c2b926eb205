"""The contract of `moec.runtime.transport.api`, checked from inside a job.

    python contract.py self
    python contract.py loopback 1 2 3 4
    mpirun -n 4 python contract.py mpi
    mpirun -n 4 python contract.py gloo [native]

`native` leaves the sums of reduce_scatter to gloo, which is the path that NCCL takes.

Every check runs on every rank. References are computed from what all ranks pass, which every rank can draw
for itself, with plain torch and no transport. A check that fails ends the job with a traceback; rank 0 prints
one JSON line a job when all have passed.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from reference import (
    SHAPES,
    SUMMABLE,
    draw,
    exchange_counts,
    near_sum,
    raises_value_error,
    same,
    strided,
    sum_in_member_order,
    wrong_calls,
)
from torch import Tensor

from moec.runtime.guard import run_rank
from moec.runtime.transport.api import DTYPES, Group, Handle, Transport
from moec.runtime.transport.factory import make_transport
from moec.runtime.transport.loopback import run_ranks

ORDERED_SUMS = ("self", "loopback", "mpi")  # their all-reduces add in member order, too


@dataclass
class Job:
    """This rank, its groups, and the partition that each of them comes from."""

    transport: Transport
    axes: dict[str, list[list[int]]]
    groups: dict[str, Group]
    ordered_blocks: bool  # reduce_scatter adds in member order
    members: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rank = self.transport.rank
        self.members = {axis: next(g for g in groups if rank in g) for axis, groups in self.axes.items()}

    def each_axis(self) -> Iterator[tuple[Group, list[int]]]:
        for axis, group in self.groups.items():
            yield group, self.members[axis]

    def draw(self, rank: int, shape: Sequence[int], dtype: torch.dtype, seed: int = 0) -> Tensor:
        """What `rank` passes; on the transport's device."""
        return draw(rank, shape, dtype, seed).to(self.transport.device)


# --- the checks ---


def ranks_and_messages(job: Job) -> None:
    """Everybody has a rank of its own; bytes of any size arrive by rank."""
    transport = job.transport
    assert transport.exchange(b"%d" % transport.rank) == [b"%d" % rank for rank in range(transport.world)]
    for scale in (0, 1, 100_000):
        sizes = [scale * (rank % 3) for rank in range(transport.world)]
        mine = bytes([transport.rank]) * sizes[transport.rank]
        assert transport.exchange(mine) == [bytes([rank]) * size for rank, size in enumerate(sizes)]


def places_in_groups(job: Job) -> None:
    """A group's size and my index in it are those of the partition, whatever the order of its members."""
    for group, members in job.each_axis():
        assert group.size == len(members)
        assert members[group.index] == job.transport.rank


def gathers(job: Job) -> None:
    """all_gather of every dtype and shape, strided or not, is the concatenation in member order."""
    for group, members in job.each_axis():
        for dtype in DTYPES:
            for shape in SHAPES:
                x = job.draw(job.transport.rank, shape, dtype)
                expected = torch.cat([job.draw(rank, shape, dtype) for rank in members])
                same(group.all_gather(x).wait(), expected)
                same(group.all_gather(strided(x)).wait(), expected)


def scattered_sums(job: Job) -> None:
    """reduce_scatter of every dtype is the sum of the members' blocks, in member order, bit for bit."""
    for group, members in job.each_axis():
        for dtype in SUMMABLE:
            for rows, *row in SHAPES:
                shape = (rows * group.size, *row)
                parts = [job.draw(rank, shape, dtype) for rank in members]
                blocks = [part[group.index * rows : (group.index + 1) * rows] for part in parts]
                for x in (parts[group.index], strided(parts[group.index])):
                    result = group.reduce_scatter(x).wait()
                    near_sum(result, blocks)
                    if job.ordered_blocks:
                        same(result, sum_in_member_order(blocks))


def sums(job: Job) -> None:
    """all_reduce of every dtype and shape, small and large, is the sum, with equal bits on all members."""
    for group, members in job.each_axis():
        for dtype in SUMMABLE:
            for shape in ((), *SHAPES, (257, 67)):
                parts = [job.draw(rank, shape, dtype) for rank in members]
                for x in (parts[group.index], strided(parts[group.index])):
                    result = group.all_reduce(x).wait()
                    near_sum(result, parts)
                    if job.transport.name in ORDERED_SUMS:
                        same(result, sum_in_member_order(parts))
                same_on_all(job, members, result)


def same_on_all(job: Job, members: Sequence[int], result: Tensor) -> None:
    digest = hashlib.sha256(result.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()).digest()
    everybody = job.transport.exchange(digest)
    assert len({everybody[rank] for rank in members}) == 1


def half_sums_round_once(job: Job) -> None:
    """1 + 7 * 2^-9 is lost term by term in bfloat16, and kept in float32 until the one rounding."""
    for group, members in job.each_axis():
        for dtype, step in ((torch.bfloat16, 2**-9), (torch.float16, 2**-12)):
            mine = torch.full((group.size,), 1.0 if group.index == 0 else step, dtype=dtype)
            expected = torch.tensor(1.0 + step * (len(members) - 1)).to(dtype).to(job.transport.device)
            x = mine.to(job.transport.device)
            same(group.all_reduce(x).wait(), expected.expand(group.size).contiguous())
            same(group.reduce_scatter(x).wait(), expected.reshape(1))


def exchanged(
    job: Job,
    members: Sequence[int],
    counts: list[list[int]],
    row: Sequence[int],
    dtype: torch.dtype,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """(what I send, what I shall receive)."""
    me = members.index(job.transport.rank)
    sent = [job.draw(rank, (sum(counts[i]), *row), dtype, seed) for i, rank in enumerate(members)]
    return sent[me], torch.cat([x.split(counts[i])[me] for i, x in enumerate(sent)])


def all_to_alls(job: Job) -> None:
    """Uneven and empty exchanges of every dtype; rows of one element, of several dims, and of no bytes."""
    for group, members in job.each_axis():
        for seed, dtype in enumerate(DTYPES * 2):
            for row in ((), (3,), (2, 2), (0,)):
                counts = exchange_counts(group.size, seed)
                x, expected = exchanged(job, members, counts, row, dtype, seed)
                send, receive = counts[group.index], [theirs[group.index] for theirs in counts]
                same(group.all_to_all(x, send, receive).wait(), expected)
                same(group.all_to_all(strided(x), tuple(send), tuple(receive)).wait(), expected)


def nobody_sends(job: Job) -> None:
    """An exchange of no rows at all, as when no token is routed."""
    for group, _ in job.each_axis():
        none = [0] * group.size
        x = torch.empty((0, 3), device=job.transport.device)
        same(group.all_to_all(x, none, none).wait(), x)


def broadcasts(job: Job) -> None:
    """Each member in turn is the root."""
    for group, members in job.each_axis():
        for root, rank in enumerate(members):
            for dtype in DTYPES:
                for shape in ((), *SHAPES):
                    x = strided(job.draw(job.transport.rank, shape, dtype))
                    same(group.broadcast(x, root).wait(), job.draw(rank, shape, dtype))


def results_are_new(job: Job) -> None:
    """Writing to a result changes neither input, and autograd does not see through a collective."""
    for group, _ in job.each_axis():
        x = job.draw(0, (group.size, 2), torch.float32).requires_grad_()
        before = x.detach().clone()
        rows = [1] * group.size
        handles = [group.all_gather(x), group.reduce_scatter(x), group.all_reduce(x),
                   group.all_to_all(x, rows, rows), group.broadcast(x, 0)]  # fmt: skip
        for handle in handles:
            result = handle.wait()
            assert not result.requires_grad
            result.fill_(7.0)
        assert torch.equal(x, before)


def waits_in_any_order(job: Job) -> None:
    """Collectives of several axes and sizes under way at once, waited for in an order of each rank's own."""
    started: list[tuple[Handle, Tensor]] = []
    for group, members in job.each_axis():
        for size in (1, 40_000):
            parts = [job.draw(rank, (size,), torch.int64) for rank in members]
            started.append((group.all_reduce(parts[group.index]), sum_in_member_order(parts)))
            started.append((group.all_gather(parts[group.index]), torch.cat(parts)))
    random.Random(job.transport.rank).shuffle(started)
    for handle, expected in started:
        same(handle.wait(), expected)


def a_small_sum_may_overtake_a_large_one(job: Job) -> None:
    """Sums of one group under way together, of sizes that let the later ones be ready first."""
    group, members = job.groups["world"], job.members["world"]
    sizes = (2_000_000, 30_000, 20_000, 500_000, 20_000)
    parts = [[job.draw(rank, (size,), torch.int32) for rank in members] for size in sizes]
    handles = [group.all_reduce(part[group.index]) for part in parts]
    for handle, part in zip(reversed(handles), reversed(parts), strict=True):
        same(handle.wait(), sum_in_member_order(part))


def waits_do_not_need_waits(job: Job) -> None:
    """A collective ends once all have started it, also while another member waits for something else.

    Member 0 waits for the sum on one axis before it starts the gather on another; all others wait for the
    gather before the sum.
    """
    one, other = job.groups["world"], job.groups["reversed"]
    parts = [job.draw(rank, (40_000,), torch.int32) for rank in range(job.transport.world)]
    mine = parts[job.transport.rank]
    handle = one.all_reduce(mine)
    if job.transport.rank == 0:
        total, gathered = handle.wait(), other.all_gather(mine).wait()
    else:
        gathered, total = other.all_gather(mine).wait(), handle.wait()
    same(total, sum_in_member_order(parts))
    same(gathered, torch.cat(parts[::-1]))


def messages_do_not_need_waits(job: Job) -> None:
    """The same with an exchange of messages in the place of the gather."""
    parts = [job.draw(rank, (40_000,), torch.int32) for rank in range(job.transport.world)]
    handle = job.groups["world"].all_reduce(parts[job.transport.rank])
    if job.transport.rank == 0:
        total, messages = handle.wait(), job.transport.exchange(b"now")
    else:
        messages, total = job.transport.exchange(b"now"), handle.wait()
    same(total, sum_in_member_order(parts))
    assert messages == [b"now"] * job.transport.world


def wrong_arguments(job: Job) -> None:
    """A wrong argument is a ValueError before anything is sent: the group is as good as before."""
    for group, _ in job.each_axis():
        x = torch.ones((2 * group.size, 2), device=job.transport.device)
        for call in wrong_calls(group, x):
            raises_value_error(call)
        same(group.all_reduce(x).wait(), x * group.size)


def wrong_partitions(job: Job) -> None:
    """An axis whose groups do not hold each rank once, or differ in size, is refused."""
    everybody = list(range(job.transport.world))
    for partition in (
        [everybody[1:]],
        [everybody, [0]],
        [[*everybody, job.transport.world]],
        [[0], everybody[1:], []],
    ):
        raises_value_error(lambda partition=partition: job.transport.groups({"wrong": partition}))


def random_program(job: Job) -> None:
    """200 collectives of one seed, at most 8 under way, each waited for when this rank's own dice say so."""
    program, dice = random.Random(1), random.Random(job.transport.rank)
    under_way: list[tuple[Handle, Callable[[Tensor], None]]] = []
    for step in range(200):
        under_way.append(random_collective(job, program, step))
        while under_way and (len(under_way) > 8 or dice.random() < 0.4):
            handle, check = under_way.pop(dice.randrange(len(under_way)))
            check(handle.wait())
    for handle, check in under_way:
        check(handle.wait())


def random_collective(job: Job, program: random.Random, step: int) -> tuple[Handle, Callable[[Tensor], None]]:
    axis = program.choice(sorted(job.groups))
    group, members = job.groups[axis], job.members[axis]
    kind = program.choice(("gather", "scatter", "reduce", "exchange", "broadcast"))
    dtype = program.choice(SUMMABLE if kind in ("scatter", "reduce") else DTYPES)
    rows, row = program.choice((0, 1, 7, 500)), program.choice(((), (3,), (2, 5)))
    root, seed = program.randrange(group.size), program.randrange(10**6)
    if kind == "exchange":
        counts = exchange_counts(group.size, seed, most=rows + 1)
        x, expected = exchanged(job, members, counts, row, dtype, step)
        receive = [theirs[group.index] for theirs in counts]
        return group.all_to_all(x, counts[group.index], receive), lambda result: same(result, expected)
    shape = (rows * group.size if kind == "scatter" else rows, *row)
    parts = [job.draw(rank, shape, dtype, step) for rank in members]
    mine = strided(parts[group.index]) if step % 2 else parts[group.index]
    match kind:
        case "gather":
            return group.all_gather(mine), lambda result: same(result, torch.cat(parts))
        case "broadcast":
            return group.broadcast(mine, root), lambda result: same(result, parts[root])
        case "reduce":
            return group.all_reduce(mine), lambda result: near_sum(result, parts)
        case _:
            blocks = [part[group.index * rows : (group.index + 1) * rows] for part in parts]
            return group.reduce_scatter(mine), lambda result: near_sum(result, blocks)


CHECKS: tuple[Callable[[Job], None], ...] = (
    ranks_and_messages,
    places_in_groups,
    gathers,
    scattered_sums,
    sums,
    half_sums_round_once,
    all_to_alls,
    nobody_sends,
    broadcasts,
    results_are_new,
    waits_in_any_order,
    a_small_sum_may_overtake_a_large_one,
    waits_do_not_need_waits,
    messages_do_not_need_waits,
    wrong_arguments,
    wrong_partitions,
    random_program,
)


def partitions(world: int) -> dict[str, list[list[int]]]:
    """All ranks, in both orders; each rank alone; and the rows and columns of the squarest mesh."""
    ranks = list(range(world))
    columns = next(width for width in range(int(world**0.5), 0, -1) if world % width == 0)
    return {
        "world": [ranks],
        "reversed": [ranks[::-1]],
        "alone": [[rank] for rank in ranks],
        "row": [ranks[start : start + columns] for start in range(0, world, columns)],
        "column": [ranks[start::columns] for start in range(columns)],
    }


def check_all(transport: Transport, ordered_blocks: bool = True) -> list[str]:
    """Run every check and return their names."""
    torch.set_num_threads(1)
    axes = partitions(transport.world)
    job = Job(transport, axes, transport.groups(axes), ordered_blocks)
    for check in CHECKS:
        run_check(job, check)
    transport.close()
    return [check.__name__ for check in CHECKS]


def run_check(job: Job, check: Callable[[Job], None]) -> None:
    try:
        check(job)
    except Exception as error:
        error.add_note(f"in the check {check.__name__}, rank {job.transport.rank} of {job.transport.world}")
        raise
    job.transport.exchange(check.__name__.encode())


def report(name: str, world: int, passed: list[str]) -> None:
    print(json.dumps({"transport": name, "world": world, "passed": passed}), flush=True)


def main(name: str, *options: str) -> int:
    if name == "loopback":
        for world in map(int, options):
            report(name, world, run_ranks(world, check_all)[0])
        return 0
    if "native" in options:
        from moec.runtime.transport.mpi import MpiTransport  # not at the top: torchrun's ranks need no MPI
        from moec.runtime.transport.torch_dist import connect_over

        transport: Transport = connect_over(
            MpiTransport(), name, local_rank=0, timeout_s=60, native_sums=True
        )
    else:
        transport = make_transport(name, timeout_s=60)
    passed = check_all(transport, ordered_blocks=name != "nccl" and not options)
    if transport.rank == 0:
        report(transport.name, transport.world, passed)
    return 0


if __name__ == "__main__":
    sys.exit(run_rank(lambda: main(*sys.argv[1:])))
