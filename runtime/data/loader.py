"""Batches of training samples for one data rank, as a pure function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch

from moec.runtime.data.layout import Steps, assign, capacity
from moec.runtime.data.samples import NO_LOSS, Rows, Samples, Source


@dataclass(frozen=True)
class Batch:
    """What one data rank computes in one step: M micro-batches of up to c sequences of S tokens.

    Rows of `tokens` and `targets` from `sequences[m]` on are padding: token 0, target `NO_LOSS`.
    """

    tokens: torch.Tensor  # int64 (M, c, S)
    targets: torch.Tensor  # int64 (M, c, S): the token that follows
    sequences: torch.Tensor  # int64 (M,): real sequences of each micro-batch
    first: torch.Tensor  # int64 (M,): the position in the run of the first of them
    documents: torch.Tensor | None = None  # int64 (M, c, S): where in its sequence a token's document starts

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a step takes first."""
        return self.tokens, self.targets, self.sequences, self.first

    def documents_on(self, device: torch.device) -> list[torch.Tensor]:
        """The documents, if there are."""
        return [] if self.documents is None else [self.documents.to(device)]


class Loader:
    """The batches of data rank `data_rank` of `data_ranks`; which sample comes when depends on `seed` alone.

    With `separate_documents`, batches say where documents start, and no target reaches into another. The
    batch of the next step is prepared by a background thread while the caller works on this one.

    Raises:
        UserError: a source has fewer tokens than one sequence needs.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        sequence: int,
        batch_sequences: int,
        micro_batches: int = 1,
        data_ranks: int = 1,
        data_rank: int = 0,
        seed: int = 0,
        epochs: int | None = None,
        separate_documents: bool = False,
    ) -> None:
        if not 0 <= data_rank < data_ranks:
            raise ValueError(f"data rank {data_rank} of {data_ranks}")
        self.samples = Samples(sources, sequence, seed)
        self._steps = Steps(self.samples.count, batch_sequences, epochs)
        self._separate = separate_documents
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
        documents = np.zeros(shape, np.int64) if self._separate else None
        mine = assign(len(positions), self._micro_batches, self._data_ranks, self.capacity, self._data_rank)
        for micro, rows in enumerate(mine):
            chosen = positions[rows.start : rows.stop]
            of_micro = None if documents is None else documents[micro]
            self.samples.read(chosen, Rows(tokens[micro], targets[micro], of_micro))
        sequences = torch.tensor([len(rows) for rows in mine], dtype=torch.int64)
        first = torch.tensor([positions.start + rows.start for rows in mine], dtype=torch.int64)
        starts = None if documents is None else torch.from_numpy(documents)
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), sequences, first, starts)
