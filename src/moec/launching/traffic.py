"""What crosses nodes: the axes of the mesh that span several, and the bytes a rank moves over them in a step.

Read from the programs of a bundle, so that what is counted is what is run. Ranks are numbered node by node.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from moec.runtime.abi.bundle import STATE_PARTS, Bundle
from moec.runtime.abi.instructions import COLLECTIVE_STARTS
from moec.runtime.abi.mesh import Groups
from moec.runtime.abi.program import Argument, Instruction, Program, Ref

from .fit import in_words

_TYPE = re.compile(r"(\w+) \(([^()]*)\)")


@dataclass(frozen=True)
class Crossing:
    """An axis whose groups do not stay within a node.

    `nodes` are those of its widest group. `split` says that a group is cut over nodes although it would fit
    into one. `bytes_per_step` is what a rank receives from other nodes, on average and with tokens spread
    evenly over experts; a few numbers, as losses and counts are, are not counted.
    """

    axis: str
    members: int
    nodes: int
    split: bool
    bytes_per_step: float


def crossings(bundle: Bundle, ranks_per_node: int) -> list[Crossing]:
    """The axes of the collectives of a step that cross nodes, those with most bytes first."""
    moved = _bytes_by_axis(bundle)
    axes = bundle.manifest.mesh.axes()
    found = [_crossing(axis, axes[axis], moved[axis], ranks_per_node) for axis in moved if moved[axis]]
    there = [crossing for crossing in found if crossing is not None]
    return sorted(there, key=lambda c: -c.bytes_per_step)


def warning(crossing: Crossing, ranks_per_node: int) -> str:
    """What is said of it."""
    text = (
        f"{crossing.axis}: groups of {crossing.members} ranks lie on {crossing.nodes} nodes; a rank receives "
        f"{in_words(crossing.bytes_per_step)} a step from other nodes"
    )
    if not crossing.split:
        return text
    return (
        f"warning: {text}. They would fit into a node: {ranks_per_node} ranks a node % {crossing.members} = "
        f"{ranks_per_node % crossing.members}; take a multiple of {crossing.members} ranks a node"
    )


def _crossing(axis: str, groups: Groups, whole: float, ranks_per_node: int) -> Crossing | None:
    nodes = [{rank // ranks_per_node for rank in group} for group in groups]
    widest = max(map(len, nodes))
    if widest == 1:
        return None
    members = len(groups[0])
    neighbours = all(group[-1] - group[0] == len(group) - 1 for group in groups)
    away = sum(_away(group, ranks_per_node) for group in groups) / sum(map(len, groups))
    split = neighbours and members <= ranks_per_node
    return Crossing(axis, members, widest, split, whole * away)


def _away(group: tuple[int, ...], ranks_per_node: int) -> float:
    """The sum over members of the share of the group that is on other nodes."""
    on_node = Counter(rank // ranks_per_node for rank in group)
    return sum(count * (len(group) - count) / len(group) for count in on_node.values())


def _bytes_by_axis(bundle: Bundle) -> dict[str, float]:
    """What a rank takes from the collectives of a step over each axis, its own part included."""
    total: Counter[str] = Counter()
    sizes = {name: _Sizes(program, bundle) for name, program in bundle.programs.items()}
    for name, runs in _runs(bundle.programs).items():
        for instruction in bundle.programs[name].instructions:
            if instruction.op in COLLECTIVE_STARTS and runs:
                total[str(instruction.arguments[-1])] += runs * (sizes[name].of_collective(instruction) or 0)
    return {axis: float(size) for axis, size in total.items()}


def _runs(programs: Mapping[str, Program]) -> dict[str, int]:
    """How often each program is run in a step."""
    calls = {
        name: Counter(str(i.arguments[0]) for i in program.instructions if i.op == "moec.call")
        for name, program in programs.items()
    }
    found = {"step": 1}

    def runs(name: str) -> int:
        if name not in found:
            found[name] = sum(
                runs(caller) * counted[name] for caller, counted in calls.items() if counted[name]
            )
        return found[name]

    return {name: runs(name) for name in programs}


class _Sizes:
    """Bytes of the values of a program, as far as types, labels and packing tell."""

    def __init__(self, program: Program, bundle: Bundle) -> None:
        self._made = {i.name: i for i in program.instructions}
        self._labels = dict(zip(program.inputs, program.input_labels, strict=True))
        self._states = bundle.manifest.states()
        self._itemsize = int(getattr(torch, bundle.manifest.dtype).itemsize)
        self._waits = {
            i.arguments[0].name: i for i in program.instructions if i.op == "moec.wait" and i.arguments
        }
        self._rows = max(
            (rows for rows, _ in map(self._received, self._waits.values()) if rows), default=None
        )

    def of_collective(self, start: Instruction) -> int | None:
        """What a rank's part of it comes to, if all of it went elsewhere."""
        if start.op == "moec.all_to_all_start":
            return self._exchanged(start)
        size = self._of(start.arguments[0])
        if size is None:
            return None
        if start.op == "moec.shard_gather_start":
            return size * int(start.arguments[1])
        return 2 * size if start.op == "moec.all_reduce_start" else size

    def _exchanged(self, start: Instruction) -> int | None:
        """Rows there and rows back are the same on average, and on one of both ways their number is known."""
        wait = self._waits.get(start.name)
        rows, row_bytes = self._received(wait) if wait else (None, None)
        rows = rows if rows is not None else self._rows
        return None if rows is None or row_bytes is None else rows * row_bytes

    def _received(self, wait: Instruction) -> tuple[int | None, int | None]:
        """Rows and bytes of a row of the result of an exchange."""
        found = _TYPE.fullmatch(wait.type)
        if found is None:
            return None, None
        dims = [
            int(part) if part.strip().isdecimal() else None for part in found[2].split(",") if part.strip()
        ]
        row = _itemsize(found[1])
        for size in dims[1:]:
            row = None if row is None or size is None else row * size
        return (dims[0] if dims else None), row

    def _of(self, value: Argument, depth: int = 0) -> int | None:
        if not isinstance(value, Ref) or depth > 8:
            return None
        instruction = self._made.get(value.name)
        if instruction is None:
            label = self._labels.get(value.name, "")
            stem, _, part = label.rpartition(".")
            state = self._states.get(stem if part in STATE_PARTS else label)
            return None if state is None else state.shard_numel * self._itemsize
        if found := _bytes_of_type(instruction.type):
            return found
        match instruction.op, instruction.arguments:
            case "moec.pack", (_, int(numel)):
                return numel * self._itemsize
            case "aten._to_copy.default", (source, *_):
                return self._cast(self._of(source, depth + 1), dict(instruction.keywords).get("dtype"))
        return None

    def _cast(self, size: int | None, dtype: Argument) -> int | None:
        if size is None or not isinstance(dtype, torch.dtype):
            return size
        return size // self._itemsize * int(dtype.itemsize)


def _bytes_of_type(text: str) -> int | None:
    found = _TYPE.fullmatch(text)
    size = _itemsize(found[1]) if found else None
    if found is None or size is None:
        return None
    for part in found[2].split(","):
        if not part.strip().isdecimal():
            return None if part.strip() else size
        size *= int(part)
    return size


def _itemsize(dtype: str) -> int | None:
    found = getattr(torch, dtype, None)
    return int(found.itemsize) if isinstance(found, torch.dtype) else None
