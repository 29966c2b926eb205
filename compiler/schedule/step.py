"""The step graph: one whole training step of a rank.

for every buffer:         its parameters in the dtype that they are computed in
count the tokens of the global batch
for every micro-batch:    forward and backward, gradients added to their shards
for every buffer:         sum its gradient over the ranks that repeat it
gradient norm:            every element counted once, on the ranks that own it
judge:                    where losses and norm are not sound, nothing below happens
for every buffer:         AdamW on this rank's shard
for every correction:     the bias of each expert follows its load
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from moec.compiler.build.model import Correction
from moec.compiler.numerics import FLOAT32, Numerics
from moec.dsl.spec import Origin, TrainSpec
from moec.runtime.abi import machine_ops
from moec.runtime.abi.buffers import Buffer, Slot, trained_only, with_part
from moec.runtime.abi.bundle import EVALUATE_INPUTS, STATE_PARTS, STEP_INPUTS, with_documents
from moec.runtime.abi.dtypes import DTYPES
from moec.runtime.abi.mesh import Mesh

from .micro_batch import MicroBatch
from .nodes import Nodes

_aten = torch.ops.aten


@dataclass(frozen=True)
class Step:
    """The graph and its ports: `inputs`, then for every part of `STATE_PARTS` the shards of `buffers`,
    but for all parts after the first only of the trained ones -> `STEP_RESULTS`."""

    graph: fx.Graph
    buffers: dict[str, Buffer]
    documents: bool = False
    numerics: Numerics = FLOAT32

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it is given, before the state."""
        return with_documents(STEP_INPUTS, self.documents)

    @property
    def input_labels(self) -> tuple[str, ...]:
        """What each placeholder is."""
        return (
            *self.inputs,
            *(f"{name}.{part}" for part in STATE_PARTS for name in with_part(part, self.buffers)),
        )


def build_step(
    micro_batch: MicroBatch,
    micro_batches: int,
    mesh: Mesh,
    train: TrainSpec,
    corrected: tuple[tuple[str, Correction], ...] = (),
    update: bool = True,
) -> Step:
    """Schedule a step of `micro_batches` micro-batches. Without `update` it stops at finished gradients.

    `corrected`: (instance, correction) of every bias that follows a load.
    """
    scheduler = _Scheduler(micro_batch, mesh, with_documents(STEP_INPUTS, micro_batch.documents), STATE_PARTS)
    scheduler.nodes.at = train.origin
    scheduler.zero_gradients()
    losses, loads, counts = scheduler.micro_batches(micro_batches, "micro_batch")
    norm = scheduler.reduce_gradients(train.optimizer.origin)
    if update:
        sound = scheduler.judge(losses, norm)
        scheduler.update(norm, train, sound)
        scheduler.correct(loads, corrected, sound)
    nodes = scheduler.nodes
    nodes.at = train.origin
    scalars = [nodes.call(machine_ops.select, counts, i) for i in range(2)]
    nodes.graph.output((losses, loads, norm, *scalars))
    return Step(nodes.graph, micro_batch.buffers, micro_batch.documents, micro_batch.numerics)


@dataclass(frozen=True)
class Evaluation:
    """The graph and its ports: `inputs`, then the parameter shards of `buffers` -> `EVALUATE_RESULTS`."""

    graph: fx.Graph
    buffers: dict[str, Buffer]
    documents: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it is given, before the parameters."""
        return with_documents(EVALUATE_INPUTS, self.documents)

    @property
    def input_labels(self) -> tuple[str, ...]:
        """What each placeholder is."""
        return (*self.inputs, *(f"{name}.parameter" for name in self.buffers))


def build_evaluation(micro_batch: MicroBatch, micro_batches: int, mesh: Mesh, train: TrainSpec) -> Evaluation:
    """Schedule losses and loads of a global batch of `micro_batches`, which `micro_batch` evaluates."""
    inputs = with_documents(EVALUATE_INPUTS, micro_batch.documents)
    scheduler = _Scheduler(micro_batch, mesh, inputs, STATE_PARTS[:1])
    scheduler.nodes.at = train.origin
    losses, loads, counts = scheduler.micro_batches(micro_batches, "evaluate_micro_batch")
    scalars = [scheduler.nodes.call(machine_ops.select, counts, i) for i in range(2)]
    scheduler.nodes.graph.output((losses, loads, *scalars))
    return Evaluation(scheduler.nodes.graph, micro_batch.buffers, micro_batch.documents)


class _SoFar:
    """What one micro-batch tells the next, where a loss is of the whole batch."""

    def __init__(self, nodes: Nodes, counted: int) -> None:
        self.nodes = nodes
        self.tokens: fx.Node | None = None
        self.counted = nodes.call(_aten.zeros.default, [counted], dtype=torch.int64)

    def inputs(self, micro_tokens: fx.Node) -> list[fx.Node]:
        """`SO_FAR` of the next micro-batch, of that many real tokens."""
        seen = self.tokens
        self.tokens = micro_tokens if seen is None else self.nodes.call(_aten.add.Tensor, seen, micro_tokens)
        return [self.tokens, self.counted]


class _Scheduler:
    def __init__(
        self, micro_batch: MicroBatch, mesh: Mesh, inputs: tuple[str, ...], parts: tuple[str, ...]
    ) -> None:
        self.micro_batch, self.mesh = micro_batch, mesh
        self.nodes = Nodes(fx.Graph())
        self.batch = {name: self.nodes.placeholder(name) for name in inputs}
        self.state = {
            part: {n: self.nodes.placeholder(f"{n}.{part}") for n in with_part(part, micro_batch.buffers)}
            for part in parts
        }

    def zero_gradients(self) -> None:
        """Before anything is added to them."""
        for gradient in self.state["gradient"].values():
            self.nodes.call(machine_ops.zero_, gradient)

    def micro_batches(self, count: int, program: str) -> tuple[fx.Node, fx.Node, fx.Node]:
        """`program` for all of them -> losses and loads summed over the data axis, and token counts."""
        nodes = self.nodes
        parameters = [self._computed(name, buffer) for name, buffer in self.micro_batch.buffers.items()]
        local = nodes.call(machine_ops.batch_counts, self.batch["targets"], self.batch["sequences"])
        counts = self._sum("counts", local, "data")
        loss_tokens, batch_tokens = (nodes.call(machine_ops.select, counts, i) for i in range(2))
        losses: fx.Node | None = None
        loads: fx.Node | None = None
        so_far = _SoFar(nodes, self.micro_batch.counted) if self.micro_batch.counted else None
        for index in range(count):
            inputs = [
                *(
                    nodes.call(machine_ops.select, self.batch[n], index)
                    for n in ("tokens", "targets", "sequences", "first")
                ),
                nodes.call(machine_ops.select, counts, 2 + index),
                batch_tokens,
                loss_tokens,
            ]
            if self.micro_batch.documents:
                inputs.append(nodes.call(machine_ops.select, self.batch["documents"], index))
            if so_far is not None:
                inputs += so_far.inputs(nodes.call(machine_ops.select, counts, 2 + index))
            shards = [*parameters, *self.state.get("gradient", {}).values()]
            here = nodes.run(program, [*inputs, *shards], self.micro_batch.results)
            losses, loads = (
                now if before is None else nodes.call(_aten.add.Tensor, before, now)
                for before, now in zip((losses, loads), here, strict=False)
            )
            if so_far is not None:
                so_far.counted = here[2]
        assert losses is not None
        assert loads is not None
        return self._sum("all_losses", losses, "data"), self._sum("all_loads", loads, "data"), counts

    def _computed(self, name: str, buffer: Buffer) -> fx.Node:
        """A shard of parameters in the dtype that it is computed in: made once a step."""
        shard, kept = self.state["parameter"][name], self.micro_batch.numerics.parameters
        return self.nodes.cast(f"{name}.parameter", shard, kept, DTYPES[buffer.dtype])

    def reduce_gradients(self, at: Origin) -> fx.Node:
        """Finish the gradients and return their norm: sums over replicas, then squares over owners."""
        nodes, squares = self.nodes, dict[str, list[fx.Node]]()
        nodes.at = at
        for name, buffer in trained_only(self.micro_batch.buffers).items():
            gradient = self.state["gradient"][name]
            if self.mesh.size(buffer.replica_axis) > 1:
                self._sum_replicas(f"{name}.gradient", gradient, buffer.replica_axis)
            square = nodes.call(machine_ops.sum_of_squares, gradient)
            squares.setdefault(buffer.owner_axis, []).append(square)
        totals = [
            self._sum("squares", nodes.call(_aten.sum.default, nodes.call(_aten.stack.default, parts)), axis)
            for axis, parts in squares.items()
        ]
        return nodes.call(
            _aten.sqrt.default, nodes.call(_aten.sum.default, nodes.call(_aten.stack.default, totals))
        )

    def _sum_replicas(self, name: str, gradient: fx.Node, axis: str) -> None:
        """A shard of gradients becomes the sum of those of its replicas."""
        kept, reduce = self.micro_batch.numerics.parameters, self.micro_batch.numerics.reduce
        total = self._sum(f"{name}.sum", self.nodes.cast(name, gradient, kept, reduce), axis)
        total = self.nodes.cast(f"{name}.sum", total, reduce, kept)
        self.nodes.call(machine_ops.copy_, gradient, total)

    def judge(self, losses: fx.Node, norm: fx.Node) -> fx.Node:
        """Whether the step may update. The first loss is `loss`; all ranks have the same numbers."""
        assert self.micro_batch.losses[0] == "loss"
        return self.nodes.call(machine_ops.sound, losses, norm, self.batch["loss_limit"])

    def update(self, norm: fx.Node, train: TrainSpec, sound: fx.Node) -> None:
        """AdamW on every shard, if the step is sound; weight decay where the buffer holds matrices."""
        nodes, adamw = self.nodes, train.optimizer
        coefficient = nodes.call(machine_ops.clip_coefficient, norm, train.clip) if train.clip else None
        for name, buffer in trained_only(self.micro_batch.buffers).items():
            nodes.call(
                machine_ops.adamw_,
                *(self.state[part][name] for part in STATE_PARTS),
                self.batch["update"],
                coefficient,
                self.batch["lr"],
                *adamw.betas,
                adamw.eps,
                adamw.weight_decay if buffer.decay else 0.0,
                sound,
            )

    def correct(self, loads: fx.Node, corrected: tuple[tuple[str, Correction], ...], sound: fx.Node) -> None:
        """Every rank holds these biases whole and knows the load of the whole batch: nothing is sent."""
        nodes, starts, end = self.nodes, dict[str, int](), 0
        for name, experts in self.micro_batch.loads:
            starts[name], end = end, end + experts
        for instance, correction in corrected:
            nodes.at = correction.origin
            state, slot = self._slot(instance, correction.path)
            path, load = (f"{instance}.{name}" for name in (correction.path, correction.load))
            bias = nodes.view(path, self.state["parameter"][state], slot.offset, slot.shape)
            choices = nodes.view(load, loads, starts[load], slot.shape)
            nodes.call(machine_ops.correct_, bias, choices, correction.rate, sound)

    def _slot(self, instance: str, path: str) -> tuple[str, Slot]:
        """The state that holds an untrained parameter, and where."""
        return next(
            (name, slot)
            for name, buffer in self.micro_batch.buffers.items()
            if name.startswith(f"{instance}/") and not buffer.trained
            for slot in buffer.slots
            if slot.path == path
        )

    def _sum(self, name: str, x: fx.Node, axis: str) -> fx.Node:
        """The sum of x over an axis, under that name; x itself where the axis has one rank."""
        if self.mesh.size(axis) == 1:
            return x
        return self.nodes.collective(name, machine_ops.all_reduce_start, x, axis)
