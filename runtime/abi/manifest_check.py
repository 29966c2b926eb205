"""Whether the numbers of a manifest can be true: ranges, and how they hang together.

A run sizes memory and loops by them. Every rule names the field that breaks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod

from .buffers import Buffer, Slot, state_name, trained_only
from .codec import FormatError
from .manifest import Manifest, Training
from .mesh import Mesh
from .program import Argument, Instruction, Program, Ref

_MOST = {
    "count": 1 << 60,  # of parameters, elements or tokens
    "ranks": 1 << 20,
    "steps": 1 << 40,
    "seed": 1 << 63,
    "experts": 1 << 20,
    "rate": 1e6,
}

_DENSE = ("shard", "replicate", "shard", None)
_EXPERTS = ("expert_shard", "expert_replicate", "expert_owner", "expert")
_EVERYWHERE = ("rank", "data", "rank", None)
"""The axes that a buffer lies on: shard, replica, owner and expert axis. What is not trained is everywhere
whole."""

_DEPTH = 64  # of sums, calls and collectives between a region and the end of a step


def check_manifest(manifest: Manifest, where: str) -> None:
    """Raises FormatError, which names the field."""
    for name in ("vocab", "context", "parameters", "active_parameters", "flops_per_token", "sequences"):
        _in_range(getattr(manifest, name), 1, _MOST["count"], f"{where}.{name}")
    _in_range(manifest.init_std, 0, _MOST["rate"], f"{where}.init_std")
    _in_range(manifest.world, 1, _MOST["ranks"], f"{where}.mesh: ranks")
    _check_training(manifest.training, f"{where}.training")
    training = manifest.training
    _hold(training.sequence <= manifest.context, f"{where}.training.sequence", "longer than context")
    share = -(-training.batch_sequences // training.micro_batches)
    expected = -(-share // manifest.world)
    _hold(manifest.sequences == expected, f"{where}.sequences", f"the batch gives a rank {expected}")
    _check_chain(manifest, where)
    for kind, buffers in manifest.buffers.items():
        _distinct((b.name for b in buffers), f"{where}.buffers.{kind}")
        for i, buffer in enumerate(buffers):
            _check_buffer(buffer, manifest.mesh, f"{where}.buffers.{kind}[{i}]")
    _check_dtypes(manifest, where)
    _check_owners(manifest, where)
    _hold("loss" in manifest.losses, f"{where}.losses", "there is no loss")
    _distinct(manifest.losses, f"{where}.losses")
    _distinct((name for name, _ in manifest.loads), f"{where}.loads")
    for i, (_, experts) in enumerate(manifest.loads):
        _in_range(experts, 1, _MOST["experts"], f"{where}.loads[{i}]")


def check_entry(
    manifest: Manifest,
    programs: Mapping[str, Program],
    entry: str,
    inputs: int,
    parts: int,
    results: tuple[str, ...],
) -> None:
    """The program `entry` takes and gives what the manifest says that there is. Raises FormatError."""
    if entry not in programs:
        raise FormatError(f"programs.json: there is no program named {entry}")
    program, states = programs[entry], manifest.states()
    if len(program.inputs) != inputs + len(states) + (parts - 1) * len(trained_only(states)):
        raise FormatError(f"programs.json: {entry} does not take the state that the manifest describes")
    if len(program.outputs) != len(results):
        raise FormatError(f"programs.json: {entry} does not give {', '.join(results)}")
    lengths = _Lengths(programs)
    sizes = {"losses": len(manifest.losses), "loads": sum(experts for _, experts in manifest.loads)}
    for name, output in zip(results, program.outputs, strict=True):
        found = lengths.of(program, output) if name in sizes else None
        if found is not None and found != sizes[name]:
            raise FormatError(f"manifest.json.{name}: {sizes[name]} numbers, and {entry} gives {found}")


def _check_training(training: Training, where: str) -> None:
    for name in ("sequence", "batch_sequences", "micro_batches"):
        _in_range(getattr(training, name), 1, _MOST["count"], f"{where}.{name}")
    fits = training.micro_batches <= training.batch_sequences
    _hold(fits, f"{where}.micro_batches", "more than the sequences of a batch")
    one = (training.steps is None) != (training.epochs is None)
    _hold(one, f"{where}.steps", "exactly one of steps and epochs is set")
    for name in ("steps", "epochs"):
        if (found := getattr(training, name)) is not None:
            _in_range(found, 1, _MOST["steps"], f"{where}.{name}")
    _in_range(training.lr, 0, _MOST["rate"], f"{where}.lr")
    _in_range(training.schedule.warmup, 0, _MOST["steps"], f"{where}.schedule.warmup")
    _in_range(training.schedule.floor, 0, 1, f"{where}.schedule.floor")
    if training.checkpoint is not None:
        _in_range(training.checkpoint.every, 1, _MOST["steps"], f"{where}.checkpoint.every")
        _in_range(training.checkpoint.keep, 1, _MOST["steps"], f"{where}.checkpoint.keep")
    for name in ("nonfinite", "spike"):
        _in_range(getattr(training, name).most, 0, _MOST["steps"], f"{where}.{name}.most")
    _in_range(training.spike.factor, 1, _MOST["rate"], f"{where}.spike.factor")
    _hold(
        training.checkpoint is not None or "rewind" not in (training.nonfinite.kind, training.spike.kind),
        f"{where}.checkpoint",
        "there is none to rewind to",
    )
    _in_range(training.seed, 0, _MOST["seed"] - 1, f"{where}.seed")
    if (validation := training.validation) is not None:
        _in_range(validation.every, 1, _MOST["steps"], f"{where}.validation.every")
        _in_range(validation.batches, 1, _MOST["steps"], f"{where}.validation.batches")


def _check_chain(manifest: Manifest, where: str) -> None:
    if missing := {kind for _, kind in manifest.chain} - manifest.buffers.keys():
        raise FormatError(f"{where}: no buffers of {sorted(missing)[0]!r}, which the chain names")
    _distinct((instance for instance, _ in manifest.chain), f"{where}.chain")


def _check_dtypes(manifest: Manifest, where: str) -> None:
    """What is computed in bfloat16, or kept in it, is so beside parameters in float32."""
    legal = {manifest.dtype, *(("bfloat16",) if manifest.dtype == "float32" else ())}
    rule = f"parameters are {manifest.dtype}"
    _hold(manifest.moments in legal, f"{where}.moments", rule)
    for kind, buffers in manifest.buffers.items():
        for i, buffer in enumerate(buffers):
            fits = buffer.dtype in (legal if buffer.trained else {manifest.dtype})
            _hold(fits, f"{where}.buffers.{kind}[{i}].dtype", rule)


def _check_owners(manifest: Manifest, where: str) -> None:
    """A buffer that another instance owns is the one that this instance has."""
    kinds = dict(manifest.chain)
    for kind, buffers in manifest.buffers.items():
        for i, buffer in enumerate(buffers):
            at = f"{where}.buffers.{kind}[{i}].owner"
            if buffer.owner is not None:
                _hold(buffer.owner in kinds, at, "no region is called so")
                _hold(buffer in manifest.buffers[kinds[buffer.owner]], at, "it has another buffer")
    found: dict[str, Buffer] = {}
    for instance, kind in manifest.chain:
        for buffer in manifest.buffers[kind]:
            same = found.setdefault(state_name(instance, buffer), buffer)
            _hold(
                same == buffer, f"{where}.buffers.{kind}", f"two buffers are {state_name(instance, buffer)}"
            )


def _check_buffer(buffer: Buffer, mesh: Mesh, where: str) -> None:
    axes = (buffer.shard_axis, buffer.replica_axis, buffer.owner_axis, buffer.expert_axis)
    legal = (_DENSE, _EXPERTS) if buffer.trained else (_EVERYWHERE,)
    _hold(axes in legal, f"{where}.shard_axis", "no layout has these axes")
    ranks = mesh.size(buffer.shard_axis)
    _hold(buffer.ranks == ranks, f"{where}.ranks", f"{buffer.shard_axis} has {ranks} ranks")
    _distinct((slot.path for slot in buffer.slots), f"{where}.slots")
    end = 0
    for i, slot in enumerate(buffer.slots):
        at = f"{where}.slots[{i}]"
        _check_slot(slot, mesh.expert if buffer.expert_axis else None, at)
        _hold(slot.offset == end, f"{at}.offset", f"the slot before it ends at {end}")
        end += slot.numel
    whole = -(-end // ranks) * ranks
    _hold(buffer.numel == whole, f"{where}.numel", f"slots in {ranks} equal shards need {whole}")
    _in_range(buffer.numel, 1, _MOST["count"], f"{where}.numel")


def _check_slot(slot: Slot, expert_ranks: int | None, where: str) -> None:
    _hold(0 < len(slot.shape) <= 8, f"{where}.shape", "1 to 8 dims")
    for size in slot.shape:
        _in_range(size, 1, _MOST["count"], f"{where}.shape")
    _in_range(prod(slot.shape), 1, _MOST["count"], f"{where}.shape")
    _hold(
        (slot.experts is None) == (expert_ranks is None), f"{where}.experts", "not as the buffer's axes say"
    )
    local = 1
    if slot.experts is not None and expert_ranks is not None:
        _in_range(slot.experts, 1, _MOST["experts"], f"{where}.experts")
        local = -(-slot.experts // expert_ranks)
    _hold(slot.local == local, f"{where}.local", f"a rank has {local}")
    holes = 0 if slot.experts is None else 1
    fits = slot.path.count("{}") == holes and not set("{}") & set(slot.path.replace("{}", ""))
    _hold(fits, f"{where}.path", f"a name with `{{}}` {holes} times, for the expert")


class _Lengths:
    """How many numbers a value (n,) of a program has, where that is plain from the programs; None elsewhere.

    Regions say the types of their results; schedules say none, but stack and concatenate them.
    """

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self._made = {p.name: {i.name: i for i in p.instructions} for p in programs.values()}
        self._programs = programs
        self._found: dict[tuple[str, str], int | None] = {}

    def of(self, program: Program, value: Argument, depth: int = 0) -> int | None:
        """Programs come from anyone: every value is looked at once, and no deeper than a compiler goes."""
        if not isinstance(value, Ref) or depth > _DEPTH:
            return None
        key = (program.name, value.name)
        if key not in self._found:
            instruction = self._made[program.name].get(value.name)
            found = None if instruction is None else self._result(program, instruction, depth + 1)
            self._found[key] = found
        return self._found[key]

    def _result(self, program: Program, instruction: Instruction, depth: int) -> int | None:
        if found := re.fullmatch(r"\w+ \((\d{1,18})\)", instruction.type):
            return int(found[1])
        match instruction.op, instruction.arguments:
            case "aten.stack.default", (tuple(parts), *_):
                return len(parts)
            case "aten.cat.default", (tuple(parts), *_):
                sizes = [self.of(program, part, depth) for part in parts]
                known = [size for size in sizes if size is not None]
                return sum(known) if len(known) == len(sizes) else None
            case "moec.getitem", (Ref(called), int(index)):
                return self._of_call(self._made[program.name].get(called), index, depth)
            case "moec.wait" | "moec.all_reduce_start", (first, *_):
                return self.of(program, first, depth)
            case "aten.add.Tensor", (_, last):  # the first is the sum so far
                return self.of(program, last, depth)
        return None

    def _of_call(self, called: Instruction | None, index: int, depth: int) -> int | None:
        if called is None or called.op != "moec.call":
            return None
        callee = self._programs[called.arguments[0]]
        return self.of(callee, callee.outputs[index], depth) if 0 <= index < len(callee.outputs) else None


def _in_range(value: float, low: float, high: float, where: str) -> None:
    _hold(low <= value <= high, where, f"{value:.6g} is not in {low:g}..{high:g}")


def _distinct(names: Iterable[str], where: str) -> None:
    listed = list(names)
    _hold(len(set(listed)) == len(listed), where, "a name stands twice")


def _hold(holds: bool, where: str, rule: str) -> None:
    if not holds:
        raise FormatError(f"{where}: {rule}")
