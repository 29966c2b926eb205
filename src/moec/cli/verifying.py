"""`moec verify`: this bundle's plan, on a small model of the same kind, against one rank.

Every rank compiles the small model with the bundle's degrees, in float64 and without the optimizer, and runs
one step of it. Rank 0 collects losses, loads and every gradient and compares them with the reference graphs
run on one device by plain autograd.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moec.compiler.emit.bundle import manifest as manifest_of
from moec.compiler.pipeline import Compiled, CompileOptions, compile_spec
from moec.compiler.reference import Reference, reference_step
from moec.compiler.small import small_spec
from moec.dsl import load_text
from moec.dsl.parameters import model_parameters
from moec.dsl.spec import Spec
from moec.runtime.abi.bundle import Bundle, read_bundle
from moec.runtime.abi.mesh import Mesh
from moec.runtime.data.layout import assign
from moec.runtime.data.loader import Batch
from moec.runtime.draw import normal
from moec.runtime.errors import ExitCode
from moec.runtime.executor import Executor
from moec.runtime.job import agree, check_world_size, collective_axes, default_transport, make_groups
from moec.runtime.state import TrainState
from moec.runtime.transport.api import Transport
from moec.runtime.transport.factory import make_transport

TOLERANCE = 1e-10
"""Relative, in float64: sums of a few thousand terms in another order differ by some 1e-13."""

NEGLIGIBLE = 1e-4
"""A gradient this small beside the largest one is compared with that share of it.

Some are zero but for rounding, such as that of a bias of keys without positions: a sum of terms of the size
of other gradients that cancel, of which 1e-13 or so remains, differently in every order.
"""


@dataclass(frozen=True)
class Deviation:
    """The largest difference of one thing between ranks and reference, relative to its largest element."""

    name: str
    relative: float


@dataclass(frozen=True)
class Ranks:
    """What the ranks computed together: losses, choices of each expert, and whole gradients by name."""

    losses: dict[str, float]
    loads: list[int]
    gradients: dict[str, Tensor]


def compile_small(bundle: Bundle) -> Compiled:
    """The small model of a bundle's source, at its degrees."""
    mesh = bundle.manifest.mesh
    spec = small_spec(_with_degrees(load_text(bundle.source), mesh), mesh.world)
    return compile_spec(spec, CompileOptions(dtype="fp64", update=False))


def verify(compiled: Compiled, transport: Transport) -> list[Deviation]:
    """Run, compare on rank 0, and return all deviations on every rank, worst first."""
    spec = compiled.spec
    weights = draw_weights(spec, seed=spec.train.seed)
    tokens, targets = draw_batch(spec, seed=spec.train.seed)
    documents = draw_documents(spec, seed=spec.train.seed)
    ranks = run_ranks(compiled, transport, weights, tokens, targets, documents)
    found: list[Deviation] = []
    if transport.rank == 0:
        train = spec.train
        reference = reference_step(
            spec.model, weights, tokens, targets, train.micro_batches, train.seed, documents=documents
        )
        found = sorted(compare(ranks, reference), key=lambda d: -d.relative)
    told = transport.exchange(json.dumps([[d.name, d.relative] for d in found]).encode())
    return [Deviation(name, relative) for name, relative in json.loads(told[0])]


def _with_degrees(spec: Spec, mesh: Mesh) -> Spec:
    degrees = {name: getattr(mesh, name) for name in ("expert", "shard", "replicate", "expert_shard")}
    return replace(spec, parallel=replace(spec.parallel, **degrees))


def draw_weights(spec: Spec, seed: int) -> dict[str, Tensor]:
    """Every parameter by name, float64, all random: norms around one, so that none is hidden by its start."""
    found = {}
    for region, parameter in model_parameters(spec.model):
        for name in parameter.names(region):
            count = int(np.prod(parameter.shape))
            drawn = normal(seed, name, 0, count, 0.1, torch.float64).view(parameter.shape)
            found[name] = drawn + 1.0 if parameter.init == "ones" else drawn
    return found


def draw_batch(spec: Spec, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets (sequences, sequence) int64; some targets bear no loss."""
    train = spec.train
    numbers = np.random.Generator(np.random.Philox(seed))
    shape = (train.batch_sequences, train.sequence)
    tokens, targets = (torch.from_numpy(numbers.integers(0, spec.model.vocab, shape)) for _ in range(2))
    targets[:, ::5] = -100
    return tokens, targets


def draw_documents(spec: Spec, seed: int) -> Tensor | None:
    """Where in its sequence each token's document starts, (sequences, sequence) int64; None where joined."""
    train = spec.train
    if train.documents == "joined":
        return None
    numbers = np.random.Generator(np.random.Philox(seed + 1))
    shape = (train.batch_sequences, train.sequence)
    starts = np.where(numbers.random(shape) < 1 / 4, np.arange(train.sequence), 0)
    return torch.from_numpy(np.maximum.accumulate(starts, axis=1))


def run_ranks(
    compiled: Compiled,
    transport: Transport,
    weights: dict[str, Tensor],
    tokens: Tensor,
    targets: Tensor,
    documents: Tensor | None = None,
) -> Ranks:
    """One step of a compiled program, without update, on all ranks of `transport`; the same result on all."""
    described = manifest_of(compiled)
    mesh, rank = described.mesh, transport.rank
    axes = set[str]().union(*map(collective_axes, compiled.programs.values()))
    executor = Executor(compiled.programs, make_groups(mesh, axes, transport), transport.device)
    state = TrainState(described.states(), mesh, rank, compiled.plan.numerics.parameters, transport.device)
    for name, shard in state.parameters.items():
        for piece in state.pieces(name):
            part = weights[piece.name].reshape(-1)[piece.start : piece.start + piece.count]
            shard[piece.offset : piece.offset + piece.count] = part
    batch = _rank_batch(compiled, rank, tokens, targets, documents)
    arguments = [
        *(t.to(transport.device) for t in batch.tensors),
        0.0,
        torch.tensor(1.0),
        math.inf,
        *batch.documents_on(transport.device),
        *state.arguments(),
    ]
    with torch.no_grad():
        losses, loads, _, _, _ = executor.run("step", arguments)
    return Ranks(
        losses=dict(zip(described.losses, losses.tolist(), strict=True)),
        loads=loads.tolist(),
        gradients=_collect_gradients(state, weights, transport),
    )


def _rank_batch(
    compiled: Compiled, rank: int, tokens: Tensor, targets: Tensor, documents: Tensor | None
) -> Batch:
    """The part of a global batch, the first of a run, that falls to one rank."""
    shape, micro = compiled.reference.shape, compiled.plan.micro_batches
    mine = torch.zeros((micro, shape.sequences, shape.sequence), dtype=torch.int64)
    wanted, starts = torch.full_like(mine, -100), torch.zeros_like(mine)
    rows = assign(tokens.shape[0], micro, compiled.plan.mesh.world, shape.sequences, rank)
    for m, positions in enumerate(rows):
        mine[m, : len(positions)] = tokens[positions.start : positions.stop]
        wanted[m, : len(positions)] = targets[positions.start : positions.stop]
        if documents is not None:
            starts[m, : len(positions)] = documents[positions.start : positions.stop]
    sequences = torch.tensor([len(positions) for positions in rows])
    first = torch.tensor([positions.start for positions in rows])
    return Batch(mine, wanted, sequences, first, None if documents is None else starts)


def _collect_gradients(
    state: TrainState, weights: dict[str, Tensor], transport: Transport
) -> dict[str, Tensor]:
    """Whole gradients from everybody's shards. Small models only: shards travel as control messages."""
    flat = torch.cat([shard.cpu() for shard in state.gradients.values()])
    answers = transport.exchange(flat.numpy().tobytes())
    whole = {name: torch.full_like(weight, float("nan")) for name, weight in weights.items()}
    for rank, answer in enumerate(answers):
        theirs = TrainState(state.buffers, state.mesh, rank, state.dtype, torch.device("cpu"))
        values, start = torch.frombuffer(bytearray(answer), dtype=state.dtype), 0
        for name, shard in theirs.gradients.items():
            shard.copy_(values[start : start + len(shard)])
            start += len(shard)
            for piece in theirs.pieces(name):
                part = shard[piece.offset : piece.offset + piece.count]
                whole[piece.name].view(-1)[piece.start : piece.start + piece.count] = part
    return whole


def compare(ranks: Ranks, reference: Reference) -> Iterator[Deviation]:
    """All deviations. A gradient that no rank owns stays not-a-number and fails every comparison."""
    for name, loss in reference.losses.items():
        scale = max(abs(loss), 1.0) if name.endswith(".entropy") else abs(loss)  # of one expert it is 0
        yield _deviation(name, abs(ranks.losses[name] - loss), scale)
    expected = torch.cat(list(reference.loads.values())).tolist() if reference.loads else []
    yield Deviation("expert load", float(ranks.loads != expected))
    largest = {name: gradient.abs().max().item() for name, gradient in reference.gradients.items()}
    floor = NEGLIGIBLE * max(largest.values(), default=0.0)
    for name, gradient in reference.gradients.items():
        difference = (ranks.gradients[name] - gradient).abs().max().item()
        yield _deviation(f"gradient of {name}", difference, max(largest[name], floor))


def _deviation(name: str, difference: float, scale: float) -> Deviation:
    """What is not a number is infinitely wrong."""
    relative = difference / max(scale, 1e-300)
    return Deviation(name, relative if math.isfinite(relative) else math.inf)


def verify_ranks(path: Path, transport_name: str | None, as_json: bool) -> int:
    """One rank of `moec verify`: 0 if everything agrees, 87 if something does not."""
    bundle = read_bundle(path)
    transport = make_transport(transport_name or default_transport(), timeout_s=120.0)
    check_world_size(bundle, transport.world)
    agree({"bundle": bundle.digest, "torch": torch.__version__}, transport)
    found = verify(compile_small(bundle), transport)
    transport.close()
    holds = all(d.relative <= TOLERANCE for d in found)
    if transport.rank == 0:
        _report(bundle, found, holds, as_json)
    return ExitCode.DONE if holds else ExitCode.NUMERICAL


def _report(bundle: Bundle, found: list[Deviation], holds: bool, as_json: bool) -> None:
    if as_json:
        rows = [{"name": d.name, "relative": d.relative if d.relative < math.inf else None} for d in found]
        print(json.dumps({"ok": holds, "tolerance": TOLERANCE, "deviations": rows}, indent=1))
        return
    mesh = bundle.manifest.mesh
    print(
        f"{bundle.manifest.model} on {mesh.world} ranks (expert {mesh.expert}, shard {mesh.shard}, replicate "
        f"{mesh.replicate}, expert_shard {mesh.expert_shard}) against one rank, float64, small sizes:"
    )
    for deviation in found[:5]:
        print(f"  {deviation.relative:.1e}  {deviation.name}")
    verdict = "equal" if holds else "NOT equal"
    print(f"{verdict}: {len(found)} losses, loads and gradients within {TOLERANCE:.0e}")
