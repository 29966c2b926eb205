"""`metrics.jsonl`: one JSON object a step, readable while the run goes on and after it was killed.

    {"step": 0, "loss": 6.93, "aux_loss": 1.02, "grad_norm": 2.1, "lr": 0.0003, "tokens": 4096,
     "tokens_per_s": 51200.0, "step_s": 0.08, "expert_load": {"layers.0.experts": [1020, 1031, 2045, 0]}}

docs/metrics.md lists all names, and a reader passes over those that it does not know. JSON has no NaN and no
infinity: a number that is neither finite is null, and `non_finite` says what it was, as in
`"non_finite": {"loss": "nan"}`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from moec.runtime.abi.codec import FormatError, parse_json
from moec.runtime.errors import InputOutputError, IntegrityError, InternalError, UserError
from moec.runtime.record.fields import OBJECTS, is_count, is_object, read, written

MAX_LINE_BYTES = 64 << 20
_BLOCK_BYTES = 1 << 16

_COUNTS = ("step", "tokens")
_NUMBERS = ("loss", "aux_loss", "grad_norm", "lr", "tokens_per_s", "step_s")
_OPTIONAL = (
    "sequence_aux_loss", "z_loss", "checkpoint_stall_s", "skipped", "rewinds", "flops_per_s", "mfu",
)  # fmt: skip
_NON_FINITE = ("nan", "inf", "-inf")


@dataclass(frozen=True)
class StepMetrics:
    """One step, over all ranks. `step` counts from 0; losses are those before its update.

    `loss` is the mean over the loss-bearing tokens of the global batch, and `tokens` counts its real tokens,
    padding left out. `grad_norm` is the norm before clipping. `expert_load` counts, by MoE, how often each
    expert was chosen. Where the model has no such loss, `aux_loss` is 0.0, the others are None.
    `load_imbalance` is the load of the busiest expert over the mean of all, `router_entropy` the mean over
    the tokens of the entropy of the router's probabilities, in nats. `dropped_choices` found no room at their
    expert, `dropped_tokens` no room at any; both only where the router has a capacity.

    `bytes_sent` (by axis and collective) and `time_s` (`data`, `compute`, `collectives`, and `waiting`, which
    is the part of collectives that waits) are of rank 0. `flops_per_s` counts what the model needs, over all
    ranks, and `mfu` is its share of what the ranks could do at most.

    `skipped` counts the steps so far, this one included, that updated nothing, and `rewinds` how often the
    run went back to a checkpoint, both since it was started or resumed; None where there were none.

    `validation_loss`, after the steps that `train.validation` names: of each set, by its path, after the
    update.

    `checkpoint_stall_s`: for how long checkpoints have held up training since the step before, if they have.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    tokens_per_s: float
    step_s: float
    aux_loss: float = 0.0
    sequence_aux_loss: float | None = None
    z_loss: float | None = None
    checkpoint_stall_s: float | None = None
    skipped: int | None = None
    rewinds: int | None = None
    flops_per_s: float | None = None
    mfu: float | None = None
    expert_load: Mapping[str, Sequence[int]] = field(default_factory=dict)
    load_imbalance: Mapping[str, float] = field(default_factory=dict)
    router_entropy: Mapping[str, float] = field(default_factory=dict)
    dropped_choices: Mapping[str, int] = field(default_factory=dict)
    dropped_tokens: Mapping[str, int] = field(default_factory=dict)
    bytes_sent: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    time_s: Mapping[str, float] = field(default_factory=dict)
    validation_loss: Mapping[str, float] = field(default_factory=dict)


_NAMES = frozenset(entry.name for entry in fields(StepMetrics))


class MetricsWriter:
    """Appends to a metrics file; on rank 0 only. Each line is handed to the system when it is written.

    `next_step` is the first step that this run will do. What the file has of it and later steps, written by
    a run that got further than its last checkpoint, is cut off, and so is a line that a killed run left
    unfinished.

    Raises:
        UserError: there is no such directory.
        IntegrityError: the file holds something else than metrics.
        InputOutputError: it cannot be written.
    """

    def __init__(self, path: Path, next_step: int = 0) -> None:
        if not path.parent.is_dir():
            raise UserError(f"cannot write {path}: there is no directory {path.parent}")
        self._path, self._next_step = path, next_step
        try:
            path.touch()
            with path.open("r+b") as file:
                file.truncate(_end_before_step(file, next_step, str(path)))
            self._file = path.open("ab")
        except OSError as error:
            raise self._failed(error) from error

    def write(self, metrics: StepMetrics) -> None:
        """Append a step; steps come in order.

        Raises:
            InputOutputError: writing failed.
        """
        if metrics.step < self._next_step:
            raise InternalError(f"metrics of step {metrics.step} come after those of {self._next_step - 1}")
        self._next_step = metrics.step + 1
        try:
            self._file.write(line_of(metrics))
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Wait until all of it is on disk.

        Raises:
            InputOutputError: it does not get there.
        """
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> InputOutputError:
        return InputOutputError(f"cannot write {self._path}: {error.strerror}")


def line_of(metrics: StepMetrics) -> bytes:
    """A step as one line of JSON."""
    data: dict[str, Any] = {"step": metrics.step}
    non_finite: dict[str, str] = {}
    for name in ("loss", "aux_loss", *_OPTIONAL, "grad_norm", "lr", "tokens", "tokens_per_s", "step_s"):
        value = getattr(metrics, name)
        if value is None:
            continue
        finite = math.isfinite(value)
        data[name] = value if finite else None
        if not finite:
            non_finite[name] = str(float(value))
    if non_finite:
        data["non_finite"] = non_finite
    data["expert_load"] = {name: list(counts) for name, counts in metrics.expert_load.items()}
    data |= {name: written(name, value) for name in OBJECTS if (value := getattr(metrics, name))}
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_metrics(path: Path) -> Iterator[StepMetrics]:
    """The steps of a metrics file, also of one that is being written: an unfinished last line is left out.

    Raises:
        UserError: no such file.
        IntegrityError: it holds something else than metrics.
        InputOutputError: it cannot be read.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
                if line.endswith(b"\n"):
                    yield metrics_of(line, f"{path}:{number}")
                elif len(line) == MAX_LINE_BYTES:
                    raise IntegrityError(f"{path}:{number}: a line of {MAX_LINE_BYTES} bytes or more")
    except OSError as error:
        raise InputOutputError(f"cannot read {path}: {error.strerror}") from error


def metrics_of(line: bytes, where: str) -> StepMetrics:
    """The step that a line holds; the other way round than `line_of`.

    Raises:
        IntegrityError: it holds none; the message starts with `where`.
    """
    try:
        data = parse_json(line, where)
    except FormatError as error:
        raise IntegrityError(str(error)) from error
    numbers = _with_non_finite(data) if isinstance(data, dict) else None
    if numbers is None or not _is_step(numbers):
        raise IntegrityError(f"{where}: this is not the metrics of a step")
    known: dict[str, Any] = {
        name: read(name, value) if name in OBJECTS else value
        for name, value in numbers.items()
        if name in _NAMES
    }
    return StepMetrics(**known)


def _with_non_finite(data: dict[str, Any]) -> dict[str, Any] | None:
    """The data with every null replaced by what `non_finite` says, or None where they do not match."""
    numbers = dict(data)
    non_finite = numbers.pop("non_finite", {})
    absent = {name for name, value in numbers.items() if value is None}
    if not isinstance(non_finite, dict) or non_finite.keys() != absent:
        return None
    if any(text not in _NON_FINITE for text in non_finite.values()):
        return None
    return numbers | {name: float(text) for name, text in non_finite.items()}


def _is_step(data: Mapping[str, Any]) -> bool:
    required = {*_COUNTS, *_NUMBERS, "expert_load"}
    return (
        required <= data.keys()
        and all(is_count(data[name]) for name in _COUNTS)
        and all(type(data[name]) in (int, float) for name in data.keys() & {*_NUMBERS, *_OPTIONAL})
        and all(is_object(name, data[name]) for name in data.keys() & set(OBJECTS))
        and isinstance(data["expert_load"], dict)
        and all(_is_counts(counts) for counts in data["expert_load"].values())
    )


def _is_counts(value: object) -> bool:
    return isinstance(value, list) and all(map(is_count, value))


def _end_before_step(file: BinaryIO, step: int, where: str) -> int:
    """The byte at which the last line ends that is whole and of an earlier step.

    From the end backwards, since a file may be of any size and the cut is near its end.
    """
    end = _line_end(file, file.seek(0, os.SEEK_END))
    while end:
        begin = _line_end(file, end - 1)
        if end - begin > MAX_LINE_BYTES:
            raise IntegrityError(f"{where}: its last line has {end - begin} bytes, too many for metrics")
        file.seek(begin)
        if metrics_of(file.read(end - begin), f"{where}, last line").step < step:
            break
        end = begin
    return end


def _line_end(file: BinaryIO, before: int) -> int:
    """The byte after the last newline among the first `before` bytes; 0 if there is none."""
    while before:
        begin = max(0, before - _BLOCK_BYTES)
        file.seek(begin)
        newline = file.read(before - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        before = begin
    return 0
