"""The memory of a micro-batch on one rank, followed through its graph at balanced routing.

    saved       what regions keep for their backward, and is on the device: of what they were given as well
    gathered    whole parameters
    host        what waits in host memory

A value counts from the instruction that makes it to the last one that uses it; a copy that is under way has
its source as well. What a region computes and lets go is not of it: `Footprint.computed_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import fx

from moec.compiler.schedule.micro_batch import MicroBatch
from moec.compiler.schedule.offload import calls
from moec.runtime.abi import machine_ops
from moec.runtime.abi.buffers import Buffer
from moec.runtime.abi.dtypes import DTYPES

from .kept import Footprint
from .liveness import peak

Kind = Literal["saved", "gathered", "host"]
_KINDS: tuple[Kind, ...] = ("saved", "gathered", "host")
Memory = dict[tuple[Kind, fx.Node, int], int]
"""Pieces of memory and their bytes: of which kind, what made it, and an identity among what that made."""


@dataclass(frozen=True)
class Prediction:
    """Peaks over a micro-batch, in bytes, each by itself; and what every region keeps, host included."""

    saved_bytes: int
    gathered_bytes: int
    host_bytes: int
    by_region: tuple[tuple[str, int], ...]  # (instance, bytes)

    @property
    def kept_bytes(self) -> int:
        """What all regions keep, wherever it is."""
        return sum(size for _, size in self.by_region)


def predict(
    micro_batch: MicroBatch,
    chain: tuple[tuple[str, str], ...],
    kinds: dict[str, Footprint],
    copies_at_once: bool = False,
) -> Prediction:
    """Follow the graph of a micro-batch. `kinds`: the footprint of each kind of region.

    With `copies_at_once` a copy has no time under way, as where host and device are one.
    """
    held = _held(micro_batch, kinds, copies_at_once)
    peaks = {kind: peak(micro_batch.graph, _of_kind(held, kind)) for kind in _KINDS}
    return Prediction(
        saved_bytes=peaks["saved"],
        gathered_bytes=peaks["gathered"],
        host_bytes=peaks["host"],
        by_region=tuple((at, kinds[kind].kept_bytes) for at, kind in chain),
    )


def _of_kind(held: dict[fx.Node, Memory], kind: Kind) -> dict[fx.Node, Memory]:
    return {node: {key: n for key, n in memory.items() if key[0] == kind} for node, memory in held.items()}


def _held(
    micro_batch: MicroBatch, kinds: dict[str, Footprint], copies_at_once: bool
) -> dict[fx.Node, Memory]:
    """What memory a node stands for, as long as something uses the node."""
    graph, held = micro_batch.graph, dict[fx.Node, Memory]()
    parameters = _parameters(micro_batch)
    kept = {node for call in calls(graph, "backward") for node in call.all_input_nodes}
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            continue
        if node.target is machine_ops.getitem and (node in kept or _leaves(node)):
            held[node] = _result(node, source, kinds)
        elif node.target is machine_ops.offload_start:
            held[node] = {} if copies_at_once else held[source]
        elif node.target is machine_ops.load_start:
            held[node] = {("saved", node, 0): sum(held[source].values())}
        elif node.target is machine_ops.wait:
            held[node] = _awaited(node, source, held, parameters)
    return held


def _leaves(node: fx.Node) -> bool:
    return any(user.target is machine_ops.offload_start for user in node.users)


def _result(node: fx.Node, call: fx.Node, kinds: dict[str, Footprint]) -> Memory:
    """What a region gave; nothing of gradients, which are not kept."""
    kind, _, half = str(call.args[0]).rpartition(".")
    if half != "forward":
        return {}
    index = node.args[1]
    assert isinstance(index, int)
    return {("saved", call, key): size for key, size in kinds[kind].results[index].memory.items()}


def _awaited(
    node: fx.Node, start: fx.Node, held: dict[fx.Node, Memory], parameters: dict[fx.Node, Buffer]
) -> Memory:
    source = start.args[0]
    assert isinstance(source, fx.Node)
    if start.target is machine_ops.load_start:
        return held[start]
    if start.target is machine_ops.offload_start:
        return {("host", node, 0): sum(held[source].values())}
    if start.target is machine_ops.shard_gather_start:
        buffer = parameters[source]
        return {("gathered", node, 0): buffer.numel * DTYPES[buffer.dtype].itemsize}
    return {}


def _parameters(micro_batch: MicroBatch) -> dict[fx.Node, Buffer]:
    """The placeholders of parameter shards."""
    placeholders = [node for node in micro_batch.graph.nodes if node.op == "placeholder"]
    first = len(micro_batch.inputs)
    shards = placeholders[first : first + len(micro_batch.buffers)]
    return dict(zip(shards, micro_batch.buffers.values(), strict=True))
