"""Sequences of a run by position: of one source, or of several that are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moec.runtime.data.mixture import Blend
from moec.runtime.data.order import sample_indices
from moec.runtime.data.stream import Ids, TokenStream
from moec.runtime.errors import UserError

NO_LOSS = -100  # the target of a position that bears no loss


@dataclass(frozen=True)
class Source:
    """A corpus, and its weight beside the others of a mixture."""

    stream: TokenStream
    weight: float = 1.0


@dataclass(frozen=True)
class Rows:
    """Sequences to be filled in, each int64 (n, S).

    `targets` are the tokens that follow, `NO_LOSS` where none bears a loss. `documents`, where asked for, say
    of every token where in its sequence its document starts.
    """

    tokens: Ids
    targets: Ids
    documents: Ids | None = None


class Cut:
    """A token stream cut into sequences of S tokens.

    Sample i holds tokens i * S .. i * S + S, of which the last is a target only. Samples share no input
    token. Targets reach across the ends of documents, unless documents are separate: then the last token of
    a document, which is the one that ends documents where the corpus has it, has no target.

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

    def read(self, index: int, rows: Rows, row: int) -> None:
        """Put sample `index` into row `row`."""
        first = index * self.sequence
        tokens = self.stream.read(first, self.sequence + 1)
        rows.tokens[row], rows.targets[row] = tokens[:-1], tokens[1:]
        if rows.documents is not None:
            starts = self.stream.documents(first, self.sequence + 1) - first
            rows.targets[row, starts - 1] = NO_LOSS
            inside = starts[starts < self.sequence]
            rows.documents[row] = 0
            rows.documents[row, inside] = inside
            np.maximum.accumulate(rows.documents[row], out=rows.documents[row])


class Samples:
    """The sequences of a run: which one comes at a position depends on the sources and the seed alone.

    `count` is that of all sources together, which is what an epoch of a mixture means: each source starts
    again when it is used up, with an order and epochs of its own.

    Raises:
        UserError: a source has fewer tokens than a sequence needs, or too small a weight.
    """

    def __init__(self, sources: Sequence[Source], sequence: int, seed: int) -> None:
        self.sequence, self._seed = sequence, seed
        self._cuts = [Cut(source.stream, sequence) for source in sources]
        self._blend = Blend([source.weight for source in sources], seed)
        self.count = sum(cut.count for cut in self._cuts)

    def read(self, positions: range, rows: Rows) -> None:
        """Fill the first rows with the samples at `positions` of a run.

        Raises:
            UserError: a token id is not below the model's vocab.
            InputOutputError, IntegrityError: the data cannot be read.
        """
        sources, places = self._blend.choose(positions)
        for number, cut in enumerate(self._cuts):
            mine = np.flatnonzero(sources == number)
            indices = sample_indices(places[mine], cut.count, self._seed, number)
            for row, index in zip(mine.tolist(), indices.tolist(), strict=True):
                cut.read(index, rows, row)

    def epochs(self, position: int) -> list[float]:
        """How often each source has been read, before `position`."""
        before = self._blend.before(position)
        return [read / cut.count for read, cut in zip(before, self._cuts, strict=True)]
