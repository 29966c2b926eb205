"""The exact batches of a run as a file, so that another program can train on the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from moec.runtime.data.files import written_whole
from moec.runtime.data.layout import Steps
from moec.runtime.data.loader import NO_LOSS, Samples
from moec.runtime.data.stream import Ids, TokenStream
from moec.runtime.errors import UserError


def global_batch(samples: Samples, steps: Steps, step: int, seed: int) -> tuple[Ids, Ids]:
    """Tokens and targets of a whole global batch in order, int64 (n, S) each; a last batch may be short.

    Raises:
        UserError: the step lies past the end of the run, or a token id is not below the model's vocab.
        InputOutputError, IntegrityError: the data cannot be read.
    """
    positions = steps.span(step)
    tokens, targets = np.empty((2, len(positions), samples.sequence), np.int64)
    samples.read_positions(positions, seed, tokens, targets)
    return tokens, targets


def write_batches(
    path: Path,
    stream: TokenStream,
    *,
    sequence: int,
    batch_sequences: int,
    seed: int,
    epochs: int | None,
    steps: int,
) -> None:
    """Write the global batches of steps 0..steps - 1 as safetensors: `tokens`, `targets`, int64 (K, G, S).

    A short last batch is filled up with token 0 and target `NO_LOSS`. One batch is in memory at a time.

    Raises:
        UserError: the run has fewer steps, or fewer tokens than one sequence needs; or as `global_batch`.
        InputOutputError, IntegrityError: reading or writing failed.
    """
    if steps < 1:
        raise UserError(f"{steps} steps have no batches: at least 1 is needed")
    samples = Samples(stream, sequence)
    plan = Steps(samples.count, batch_sequences, epochs)
    plan.span(steps - 1)
    shape = (steps, batch_sequences, sequence)
    header = _safetensors_header(shape)
    batch_bytes = 8 * batch_sequences * sequence
    with written_whole(path) as file:
        file.write(header)
        for step in range(steps):
            for number, rows in enumerate(_filled(samples, plan, step, seed)):
                file.seek(len(header) + (number * steps + step) * batch_bytes)
                file.write(rows.astype("<i8").tobytes())


def _filled(samples: Samples, plan: Steps, step: int, seed: int) -> tuple[Ids, Ids]:
    """Tokens and targets of a global batch, int64 (G, S) each."""
    tokens, targets = global_batch(samples, plan, step, seed)
    missing = ((0, plan.batch_sequences - len(tokens)), (0, 0))
    return np.pad(tokens, missing), np.pad(targets, missing, constant_values=NO_LOSS)


def _safetensors_header(shape: tuple[int, int, int]) -> bytes:
    """What comes before `tokens` and `targets`; padded to 8 bytes, as safetensors itself writes it."""
    size_bytes = 8 * int(np.prod(shape))
    entries = {
        name: {"dtype": "I64", "shape": shape, "data_offsets": (start, start + size_bytes)}
        for name, start in (("tokens", 0), ("targets", size_bytes))
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
