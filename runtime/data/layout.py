"""How a global batch is cut: into steps, micro-batches and data ranks. Pure arithmetic over positions."""

from __future__ import annotations

from dataclasses import dataclass

from moec.runtime.errors import UserError


@dataclass(frozen=True)
class Steps:
    """The global batches of a run: step k holds the positions k * batch_sequences and following.

    `samples` is the number of sequences in the data. With `epochs`, the run ends with the data, and its
    last batch holds what is left; with None it goes on for ever. A batch may cross from one epoch into the
    next.
    """

    samples: int
    batch_sequences: int
    epochs: int | None = None

    @property
    def count(self) -> int | None:
        """The steps of the whole run, or None if it has no end of its own."""
        return None if self.epochs is None else -(-self.epochs * self.samples // self.batch_sequences)

    def span(self, step: int) -> range:
        """The positions of a step's global batch.

        Raises:
            UserError: the step lies past the end of the run.
        """
        first = step * self.batch_sequences
        if self.epochs is None:
            return range(first, first + self.batch_sequences)
        limit = self.epochs * self.samples
        if first >= limit:
            raise UserError(
                f"step {step} does not exist: {self.epochs} epoch(s) of {self.samples} sequences, "
                f"in batches of {self.batch_sequences}, make {self.count} steps, counted from 0"
            )
        return range(first, min(first + self.batch_sequences, limit))


def capacity(batch_sequences: int, micro_batches: int, data_ranks: int) -> int:
    """The most sequences a data rank holds of a micro-batch; the same for every rank and step."""
    return -(-_block(batch_sequences, micro_batches) // data_ranks)


def assign(n: int, micro_batches: int, data_ranks: int, capacity: int, data_rank: int) -> tuple[range, ...]:
    """The sequences of a batch of `n` that a data rank computes: one range over 0..n - 1 per micro-batch.

    Micro-batches are consecutive blocks of ceil(n / micro_batches), and data ranks take consecutive blocks of
    `capacity` of each. The last blocks may be short or empty.
    """
    block = _block(n, micro_batches)
    return tuple(
        _clip(micro * block + data_rank * capacity, capacity, min((micro + 1) * block, n))
        for micro in range(micro_batches)
    )


def _block(n: int, micro_batches: int) -> int:
    return -(-n // micro_batches)


def _clip(first: int, count: int, end: int) -> range:
    """first..first + count - 1, as far as it lies below `end`."""
    return range(min(first, end), min(first + count, end))
