"""Batches of training samples for one data rank, as a pure function of the step."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch

from moec.runtime.data.layout import Steps, assign, capacity
from moec.runtime.data.order import sample_indices
from moec.runtime.data.stream import Ids, TokenStream
from moec.runtime.errors import UserError

NO_LOSS = -100  # the target of a position that bears no loss


@dataclass(frozen=True)
class Batch:
    """What one data rank computes in one step: M micro-batches of up to c sequences of S tokens.

    Rows of `tokens` and `targets` from `sequences[m]` on are padding: token 0, target `NO_LOSS`.
    """

    tokens: torch.Tensor  # int64 (M, c, S)
    targets: torch.Tensor  # int64 (M, c, S): the token that follows
    sequences: torch.Tensor  # int64 (M,): real sequences of each micro-batch
    first: torch.Tensor  # int64 (M,): the position in the run of the first of them


class Samples:
    """A token stream cut into sequences of S tokens.

    Sample i holds tokens i * S .. i * S + S, of which the last is a target only. Samples share no input
    token, and targets reach across the ends of documents.

    Raises:
        UserError: the stream has fewer than `sequence` + 1 tokens.
    """

    def __init__(self, stream: TokenStream, sequence: int) -> None:
        self.stream = stream
        self.sequence = sequence
        self.count = (len(stream) - 1) // sequence
        if self.count < 1:
            raise UserError(
                f"{stream.name} has {len(stream)} tokens; "
                f"one sequence of {sequence} needs {sequence + 1}, since every token predicts the next"
            )

    def read(self, index: int) -> tuple[Ids, Ids]:
        """Tokens and targets of a sample, int64 (sequence,) each."""
        tokens = self.stream.read(index * self.sequence, self.sequence + 1)
        return tokens[:-1], tokens[1:]

    def read_positions(self, positions: range, seed: int, tokens: Ids, targets: Ids) -> None:
        """Fill the first rows of `tokens` and `targets` (n, S) with the samples at `positions` of a run."""
        indices = sample_indices(np.arange(positions.start, positions.stop), self.count, seed)
        for row, index in enumerate(indices.tolist()):
            tokens[row], targets[row] = self.read(index)


class Loader:
    """The batches of data rank `data_rank` of `data_ranks`; which sample comes when depends on `seed` alone.

    The batch of the next step is prepared by a background thread while the caller works on this one.

    Raises:
        UserError: the stream has fewer tokens than one sequence needs.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        sequence: int,
        batch_sequences: int,
        micro_batches: int = 1,
        data_ranks: int = 1,
        data_rank: int = 0,
        seed: int = 0,
        epochs: int | None = None,
    ) -> None:
        if not 0 <= data_rank < data_ranks:
            raise ValueError(f"data rank {data_rank} of {data_ranks}")
        self.samples = Samples(stream, sequence)
        self._steps = Steps(self.samples.count, batch_sequences, epochs)
        self._seed = seed
        self._micro_batches, self._data_ranks, self._data_rank = micro_batches, data_ranks, data_rank
        self.capacity = capacity(batch_sequences, micro_batches, data_ranks)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="moec-loader")
        self._next: tuple[int, Future[Batch]] | None = None

    @property
    def steps(self) -> int | None:
        """The steps of the whole run if it is given in epochs, else None."""
        return self._steps.count

    def batch(self, step: int) -> Batch:
        """The batch of a step, in any order of steps.

        Raises:
            UserError: the step lies past the last epoch, or a token id is not below the model's vocab.
            InputOutputError, IntegrityError: the data cannot be read.
        """
        ready, self._next = self._next, None
        batch = ready[1].result() if ready is not None and ready[0] == step else self._load(step)
        if self.steps is None or step + 1 < self.steps:
            self._next = (step + 1, self._worker.submit(self._load, step + 1))
        return batch

    def close(self) -> None:
        """End the background thread."""
        self._worker.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, step: int) -> Batch:
        positions = self._steps.span(step)
        shape = (self._micro_batches, self.capacity, self.samples.sequence)
        tokens, targets = np.zeros(shape, np.int64), np.full(shape, NO_LOSS, np.int64)
        mine = assign(len(positions), self._micro_batches, self._data_ranks, self.capacity, self._data_rank)
        for micro, rows in enumerate(mine):
            chosen = positions[rows.start : rows.stop]
            self.samples.read_positions(chosen, self._seed, tokens[micro], targets[micro])
        sequences = torch.tensor([len(rows) for rows in mine], dtype=torch.int64)
        first = torch.tensor([positions.start + rows.start for rows in mine], dtype=torch.int64)
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), sequences, first)
