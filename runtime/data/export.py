"""The exact batches of a run as a file, so that another program can train on the same tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from moec.runtime.data.files import written_whole
from moec.runtime.data.layout import Steps
from moec.runtime.data.samples import NO_LOSS, Rows, Samples, Source
from moec.runtime.data.stream import Ids
from moec.runtime.errors import UserError


def global_batch(samples: Samples, steps: Steps, step: int, documents: bool = False) -> Rows:
    """A whole global batch in order, (n, S), with its documents if asked for; a last batch may be short.

    Raises:
        UserError: the step lies past the end of the run, or a token id is not below the model's vocab.
        InputOutputError, IntegrityError: the data cannot be read.
    """
    positions = steps.span(step)
    empty = np.empty((3 if documents else 2, len(positions), samples.sequence), np.int64)
    rows = Rows(*empty)
    samples.read(positions, rows)
    return rows


def write_batches(
    path: Path,
    sources: Sequence[Source],
    *,
    sequence: int,
    batch_sequences: int,
    seed: int,
    epochs: int | None,
    steps: int,
    separate_documents: bool = False,
) -> None:
    """Write the global batches of steps 0..steps - 1 as safetensors: `tokens`, `targets`, int64 (K, G, S).

    Where documents are separate, also `documents`: where in its sequence each token's document starts. A
    short last batch is filled up with token 0 and target `NO_LOSS`. One batch is in memory at a time.

    Raises:
        UserError: the run has fewer steps, or fewer tokens than one sequence needs; or as `global_batch`.
        InputOutputError, IntegrityError: reading or writing failed.
    """
    if steps < 1:
        raise UserError(f"{steps} steps have no batches: at least 1 is needed")
    samples = Samples(sources, sequence, seed)
    names = ("tokens", "targets", "documents")[: 3 if separate_documents else 2]
    plan = Steps(samples.count, batch_sequences, epochs)
    plan.span(steps - 1)
    shape = (steps, batch_sequences, sequence)
    header = _safetensors_header(names, shape)
    batch_bytes = 8 * batch_sequences * sequence
    with written_whole(path) as file:
        file.write(header)
        for step in range(steps):
            rows_of_step = global_batch(samples, plan, step, separate_documents)
            for number, rows in enumerate(_filled(rows_of_step, batch_sequences)):
                file.seek(len(header) + (number * steps + step) * batch_bytes)
                file.write(rows.astype("<i8").tobytes())


def _filled(rows: Rows, batch_sequences: int) -> Iterator[Ids]:
    """Tokens, targets and, if there are, documents of a global batch, int64 (G, S) each."""
    missing = ((0, batch_sequences - len(rows.tokens)), (0, 0))
    yield np.pad(rows.tokens, missing)
    yield np.pad(rows.targets, missing, constant_values=NO_LOSS)
    if rows.documents is not None:
        yield np.pad(rows.documents, missing)


def _safetensors_header(names: Sequence[str], shape: tuple[int, int, int]) -> bytes:
    """What comes before the tensors of these names; padded to 8 bytes, as safetensors itself writes it."""
    size_bytes = 8 * int(np.prod(shape))
    entries = {
        name: {"dtype": "I64", "shape": shape, "data_offsets": (start, start + size_bytes)}
        for name, start in zip(names, range(0, len(names) * size_bytes, size_bytes), strict=True)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
