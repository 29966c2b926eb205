"""The graph of one micro-batch: forward through the chain of regions, and back.

    for each region:  gather its parameters, run forward, let the gathered buffers go
    for each region, last to first:  gather again, run backward, reduce its gradients into their shards

A rank holds its shards and the buffers of the region that runs: nothing else of the model. With
`gathered = keep` what forward gathered stays until backward has used it, and is gathered once. Gradients are
added to their shards in every micro-batch, so no unsharded gradient outlives its region. The shard of a
buffer that two regions use gets both their gradients.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx

from moec.compiler.build.model import COUNTED, EARLIER
from moec.compiler.differentiate.bind import DifferentiatedRegion
from moec.compiler.numerics import FLOAT32, Numerics
from moec.dsl.spec import Gathered
from moec.runtime.abi import machine_ops
from moec.runtime.abi.buffers import Buffer, state_name, trained_only
from moec.runtime.abi.bundle import with_documents
from moec.runtime.abi.counter_kernels import noise_key
from moec.runtime.abi.dtypes import DTYPES

from .nodes import Nodes

INPUTS = ("tokens", "targets", "sequences", "first", "micro_tokens", "batch_tokens", "loss_tokens")
"""What a micro-batch is given, before the parameter and gradient shards."""

SO_FAR = ("seen_tokens", "earlier")
"""And where a loss is of the whole batch: real tokens of the micro-batches up to this one, and what the one
before gave as `counted`."""


@dataclass(frozen=True)
class MicroBatch:
    """The graph and its ports: `inputs`, then parameter shards, then gradient shards -> losses, loads.

    Without `backward` there are no gradients: it evaluates. With `documents`, the batch says where they
    start. `buffers`: state name -> buffer, in the order of both groups of shards, of which the second has the
    trained ones only; `uses`: how many regions use each. `losses` names the elements of the first result, the
    losses and then what is a mean over tokens; `loads` the pieces of the second and their lengths, those of
    every MoE, in order. `counted`: the length of a third result, choices of the micro-batches so far, or 0
    where nothing asks for them.
    """

    graph: fx.Graph
    buffers: dict[str, Buffer]
    uses: dict[str, int]
    losses: tuple[str, ...]
    loads: tuple[tuple[str, int], ...]
    documents: bool = False
    backward: bool = True
    numerics: Numerics = FLOAT32
    counted: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it is given, before the shards."""
        return (*with_documents(INPUTS, self.documents), *(SO_FAR if self.counted else ()))

    @property
    def results(self) -> tuple[str, ...]:
        """What it gives."""
        return ("losses", "loads", *(("counted",) if self.counted else ()))

    @property
    def input_labels(self) -> tuple[str, ...]:
        """What each placeholder is."""
        gradients = trained_only(self.buffers) if self.backward else ()
        parameters = (f"{n}.parameter" for n in self.buffers)
        return (*self.inputs, *parameters, *(f"{n}.gradient" for n in gradients))


def build_micro_batch(
    chain: tuple[tuple[str, str], ...],
    regions: dict[str, DifferentiatedRegion],
    loads: dict[str, tuple[tuple[str, int], ...]],
    means: dict[str, tuple[str, ...]],
    numerics: Numerics,
    seed: int,
    *,
    counted: dict[str, tuple[tuple[str, int], ...]] | None = None,
    documents: bool = False,
    backward: bool = True,
    gathered: Gathered = "free",
) -> MicroBatch:
    """Schedule one micro-batch over `chain`, a sequence of (instance, region kind).

    `loads`, `means`, `counted`: those of each kind. `seed`: of what is random in training. `gathered`: what
    becomes of whole parameters between forward and backward.
    """
    so_far = tuple((f"{at}.{name}", n) for at, kind in chain for name, n in (counted or {}).get(kind, ()))
    inputs = (*with_documents(INPUTS, documents), *(SO_FAR if so_far else ()))
    scheduler = _Scheduler(chain, regions, numerics, seed, inputs, backward, backward and gathered == "keep")
    scheduler.slice_earlier(so_far)
    scheduler.forward()
    if backward:
        scheduler.backward()
    return scheduler.finish(loads, means, so_far)


class _Scheduler:
    def __init__(
        self,
        chain: tuple[tuple[str, str], ...],
        regions: dict[str, DifferentiatedRegion],
        numerics: Numerics,
        seed: int,
        inputs: tuple[str, ...],
        backward: bool,
        keep: bool,
    ) -> None:
        self.chain, self.regions, self.numerics, self.seed = chain, regions, numerics, seed
        self.trains, self.keep = backward, keep
        self.whole: dict[str, fx.Node] = {}  # what is kept of gathered parameters, by state
        self.nodes = Nodes(fx.Graph())
        self.values = {name: self.nodes.placeholder(name) for name in inputs}
        used = [(state_name(at, b), b) for at, kind in chain for b in regions[kind].buffers]
        self.buffers, self.uses = dict(used), Counter(name for name, _ in used)
        self.parameters = {name: self.nodes.placeholder(f"{name}.parameter") for name in self.buffers}
        trained = trained_only(self.buffers) if backward else ()
        self.gradients = {n: self.nodes.placeholder(f"{n}.gradient") for n in trained}
        self.inputs_of: dict[str, dict[str, fx.Node]] = {}
        self.saved_of: dict[str, list[fx.Node]] = {}
        self.published: dict[str, fx.Node] = {}
        self.earlier: dict[str, fx.Node] = {}  # `<instance>.<input of its region>`

    def slice_earlier(self, so_far: tuple[tuple[str, int], ...]) -> None:
        """What each MoE has counted in the micro-batches before."""
        start, kinds = 0, dict(self.chain)
        for name, experts in so_far:
            self.nodes.at = next(
                self.regions[kind].origin for at, kind in kinds.items() if name.startswith(f"{at}.")
            )
            earlier = name.removesuffix(COUNTED) + EARLIER
            self.earlier[earlier] = self.nodes.view(earlier, self.values["earlier"], start, (experts,))
            start += experts

    def forward(self) -> None:
        for instance, kind in self.chain:
            region = self.regions[kind]
            self.nodes.at = region.origin
            buffers = [self._gather(instance, buffer) for buffer in region.buffers]
            if "noise" in region.inputs:
                self.values["noise"] = self._noise(instance)
            if "shuffle" in region.inputs:
                self.values["shuffle"] = self._noise(f"{instance}.shuffle")
            self.inputs_of[instance] = {
                name: self.earlier.get(f"{instance}.{name}") or self.values[name] for name in region.inputs
            }
            arguments = [*buffers, *self.inputs_of[instance].values()]
            saved = region.saved if self.trains else ()
            names = [*region.outputs, *(f"saved.{name}" for name in saved)]
            labels = [f"{instance}.{name}" for name in names]
            results = self.nodes.run(f"{region.kind}.forward", arguments, labels, f"{instance}.forward")
            self.values.update(zip(region.outputs, results, strict=False))
            self.saved_of[instance] = results[len(region.outputs) :]
            for name in region.outputs:
                self.published[f"{instance}.{name}"] = self.values[name]

    def backward(self) -> None:
        one = self.nodes.call(torch.ops.aten.full.default, [], 1.0, dtype=self.numerics.wide)
        grads = {"objective": one}
        for instance, kind in reversed(self.chain):
            region = self.regions[kind]
            self.nodes.at = region.origin
            by_name = {buffer.name: buffer for buffer in region.buffers}
            arguments = [
                *(self._gather(instance, by_name[name]) for name in region.backward_buffers),
                *(self.inputs_of[instance][name] for name in region.backward_inputs),
                *self.saved_of[instance],
                *(grads[name] for name in region.output_grads),
            ]
            trained = [buffer.name for buffer in region.trained]
            names = [f"{instance}.grad.{name}" for name in (*trained, *region.input_grads)]
            results = self.nodes.run(f"{kind}.backward", arguments, names, f"{instance}.backward")
            for buffer, gradient in zip(region.trained, results, strict=False):
                self._reduce(instance, buffer, gradient)
            grads = dict(zip(region.input_grads, results[len(trained) :], strict=True))

    def finish(
        self,
        loads: dict[str, tuple[tuple[str, int], ...]],
        means: dict[str, tuple[str, ...]],
        so_far: tuple[tuple[str, int], ...],
    ) -> MicroBatch:
        losses = {
            name: self.values[name] for name in self.regions[self.chain[-1][1]].outputs if name != "objective"
        }
        shown = [f"{at}.{name}" for at, kind in self.chain for name in means.get(kind, ())]
        losses |= {name: self.published[name] for name in shown}
        named = tuple(
            (f"{at}.{name}", experts) for at, kind in self.chain for name, experts in loads.get(kind, ())
        )
        results = [
            self.nodes.call(torch.ops.aten.stack.default, list(losses.values())),
            self._joined(named) or self.nodes.call(torch.ops.aten.zeros.default, [0], dtype=torch.int64),
        ]
        if counted := self._joined(so_far):
            results.append(counted)
        self.nodes.graph.output(tuple(results))
        return MicroBatch(
            self.nodes.graph,
            self.buffers,
            dict(self.uses),
            tuple(losses),
            named,
            documents="documents" in self.values,
            backward=self.trains,
            numerics=self.numerics,
            counted=sum(experts for _, experts in so_far),
        )

    def _joined(self, named: tuple[tuple[str, int], ...]) -> fx.Node | None:
        """What regions publish under these names, one behind the other."""
        if not named:
            return None
        return self.nodes.call(torch.ops.aten.cat.default, [self.published[name] for name, _ in named])

    def _noise(self, name: str) -> fx.Node:
        """The key of a layer's random numbers: layers of one kind share their programs, but not these."""
        key = noise_key(self.seed, name)
        return self.nodes.call(torch.ops.aten.full.default, [], key, dtype=torch.int64)

    def _gather(self, instance: str, buffer: Buffer) -> fx.Node:
        state = state_name(instance, buffer)
        if buffer.ranks == 1:
            return self.parameters[state]
        if state in self.whole:
            return self.whole[state]
        whole = self.nodes.collective(
            f"{instance}.{buffer.name}",
            machine_ops.shard_gather_start,
            self.parameters[state],
            buffer.ranks,
            buffer.shard_axis,
        )
        if self.keep:
            self.whole[state] = whole
        return whole

    def _reduce(self, instance: str, buffer: Buffer, gradient: fx.Node) -> None:
        """Sum over the axis that cuts the buffer, into this rank's shard of the gradient."""
        name, dtype = f"{instance}.grad.{buffer.name}", DTYPES[buffer.dtype]
        if buffer.ranks > 1:
            gradient = self.nodes.collective(
                f"{name}.shard",
                machine_ops.reduce_scatter_start,
                self.nodes.cast(name, gradient, dtype, self.numerics.reduce),
                buffer.ranks,
                buffer.shard_axis,
            )
            name, dtype = f"{name}.shard", self.numerics.reduce
        gradient = self.nodes.cast(name, gradient, dtype, self.numerics.parameters)
        self.nodes.call(machine_ops.accumulate_, self.gradients[state_name(instance, buffer)], gradient)
