"""Where documents start, in every kind of stream, and what batches make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.data.export import write_batches
from moec.runtime.data.loader import Loader
from moec.runtime.data.megatron import MegatronStream, write_megatron
from moec.runtime.data.samples import NO_LOSS, Source
from moec.runtime.data.source import identity, open_stream
from moec.runtime.data.stream import ArrayStream, TokenStream, fingerprint
from moec.runtime.data.tokenizer import ByteTokenizer

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def pieces_of(lengths: list[int]) -> list[np.ndarray]:  # type: ignore[type-arg]
    ends = np.cumsum(lengths)
    return [np.arange(end - n, end) for n, end in zip(lengths, ends, strict=True)]


def streams(lengths: list[int], folder: Path) -> list[TokenStream]:
    pieces, vocab = pieces_of(lengths), max(1, sum(lengths))
    write_megatron(folder / "x", pieces, vocab)
    return [ArrayStream("x", pieces, vocab), MegatronStream(folder / "x", vocab)]


@settings(max_examples=80)
@given(LENGTHS, st.data())
def test_streams_say_where_documents_start(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    """In memory and on disk, for every slice, with empty documents anywhere."""
    starts = {int(end) for end in np.cumsum(lengths)}
    for stream in streams(lengths, tmp_path_factory.mktemp("documents")):
        start = data.draw(st.integers(0, len(stream)))
        count = data.draw(st.integers(0, len(stream) - start))
        wanted = [place for place in range(start + 1, start + count) if place in starts]
        found = stream.documents(start, count)
        assert found.tolist() == wanted
        assert found.dtype == np.int64
        with pytest.raises(IndexError):
            stream.documents(start, len(stream) - start + 1)


def test_documents_of_several_sequences_each_are_those_of_the_index(tmp_path: Path) -> None:
    """Megatron splits a document into sentences: bounds name the first of each."""
    write_megatron(tmp_path / "x", pieces_of([2, 3, 1, 4]), 10)
    index = bytearray((tmp_path / "x.idx").read_bytes())
    bounds_at = 34 + 4 * 4 + 8 * 4
    merged = index[:bounds_at] + np.array([0, 2, 2, 4], "<i8").tobytes()
    merged[26:34] = (4).to_bytes(8, "little")
    (tmp_path / "x.idx").write_bytes(merged)
    assert MegatronStream(tmp_path / "x", 10).documents(0, 10).tolist() == [5]


@settings(max_examples=80)
@given(LENGTHS.filter(lambda n: sum(n) > 8), st.integers(1, 5), st.integers(0, 3))
def test_no_target_reaches_into_another_document(lengths: list[int], sequence: int, seed: int) -> None:
    """From the definition, token by token; ids are places in the stream."""
    owner = [number for number, n in enumerate(lengths) for _ in range(n)]
    stream = ArrayStream("x", pieces_of(lengths), sum(lengths))
    given_as = {"sequence": sequence, "batch_sequences": 3, "seed": seed}
    with Loader([Source(stream)], **given_as, separate_documents=True) as loader:  # type: ignore[arg-type]
        batch = loader.batch(0)
    assert batch.documents is not None
    for row in range(3):
        tokens = batch.tokens[0, row].tolist()
        for place, token in enumerate(tokens):
            same = owner[token + 1] == owner[token]
            assert batch.targets[0, row, place] == (token + 1 if same else NO_LOSS)
            first = next(i for i, other in enumerate(tokens) if owner[other] == owner[token])
            assert batch.documents[0, row, place] == first
    with Loader([Source(stream)], **given_as) as loader:  # type: ignore[arg-type]
        joined = loader.batch(0)
    assert joined.documents is None
    assert torch.equal(joined.tokens, batch.tokens)
    assert (joined.targets[0] == joined.tokens[0] + 1).all()


def test_the_end_of_a_document_is_predicted_and_predicts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("ab", "cde", "f")))
    stream = open_stream(str(path), ByteTokenizer(), 257)
    with Loader([Source(stream)], sequence=7, batch_sequences=1, separate_documents=True) as loader:
        batch = loader.batch(0)
    end = 256
    assert batch.tokens[0, 0].tolist() == [97, 98, end, 99, 100, 101, end]
    assert batch.targets[0, 0].tolist() == [98, end, NO_LOSS, 100, 101, end, NO_LOSS]
    assert batch.documents is not None
    assert batch.documents[0, 0].tolist() == [0, 0, 0, 3, 3, 3, 3]


def test_identity_knows_documents_only_where_they_are_separate() -> None:
    one, two = (ArrayStream("x", pieces_of(lengths), 10) for lengths in ([10], [4, 6]))
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one, documents=True) != fingerprint(two, documents=True)
    assert identity([Source(one)], True) != identity([Source(two)], True)


def test_exported_batches_have_documents(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    stream = ArrayStream("x", pieces_of([5, 6, 9, 1, 20]), 41)
    write_batches(
        tmp_path / "b", [Source(stream)], sequence=8, batch_sequences=3, seed=1, epochs=1, steps=2,
        separate_documents=True,
    )  # fmt: skip
    found = load_file(tmp_path / "b")
    with Loader(
        [Source(stream)], sequence=8, batch_sequences=3, seed=1, epochs=1, separate_documents=True
    ) as loader:
        batch = loader.batch(0)
        assert batch.documents is not None
        assert torch.equal(found["documents"][0], batch.documents[0])
        assert torch.equal(found["targets"][0], batch.targets[0])
    assert found["documents"].shape == (2, 3, 8)
