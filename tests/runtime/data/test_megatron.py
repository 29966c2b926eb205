"""Megatron's datasets: read and written as Megatron does, and refused where they contradict themselves."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.data import megatron
from moec.runtime.data.loader import Loader
from moec.runtime.data.megatron import MegatronStream, write_megatron
from moec.runtime.data.samples import Source
from moec.runtime.data.source import joined, open_stream
from moec.runtime.data.stream import fingerprint
from moec.runtime.data.text import documents
from moec.runtime.data.tokenizer import ByteTokenizer
from moec.runtime.errors import InputOutputError, IntegrityError, UserError

CODES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
SEQUENCES = [[5, 6, 7], [], [8], [9, 10, 11, 12]]


def index(
    code: int, lengths: list[int], pointers: list[int], bounds: list[int], count: int | None = None
) -> bytes:
    """An `.idx` written field by field, as the format is documented; `count` replaces the true one."""
    head = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code)
    head += struct.pack("<Q", len(lengths) if count is None else count) + struct.pack("<Q", len(bounds))
    body = b"".join(struct.pack("<i", n) for n in lengths)
    body += b"".join(struct.pack("<q", p) for p in pointers) + b"".join(struct.pack("<q", b) for b in bounds)
    return head + body


def dataset(prefix: Path, code: int = 4, sequences: list[list[int]] = SEQUENCES) -> Path:
    size = np.dtype(CODES[code]).itemsize
    lengths = [len(s) for s in sequences]
    pointers = [size * sum(lengths[:i]) for i in range(len(lengths))]
    Path(f"{prefix}.idx").write_bytes(index(code, lengths, pointers, list(range(len(lengths) + 1))))
    flat = np.array([t for s in sequences for t in s], CODES[code])
    Path(f"{prefix}.bin").write_bytes(flat.tobytes())
    return prefix


@pytest.mark.parametrize("code", CODES)
def test_every_integer_type_is_read(tmp_path: Path, code: int) -> None:
    stream = MegatronStream(dataset(tmp_path / "x", code), vocab=13)
    assert len(stream) == 8
    read = stream.read(0, 8)
    assert read.dtype == np.int64
    assert read.tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
    assert stream.read(2, 3).tolist() == [7, 8, 9]
    assert stream.read(8, 0).tolist() == []
    with pytest.raises(IndexError):
        stream.read(5, 4)


def test_prefix_bin_and_idx_name_the_same_dataset(tmp_path: Path) -> None:
    dataset(tmp_path / "corpus.en")
    for name in ("corpus.en", "corpus.en.bin", "corpus.en.idx"):
        assert len(open_stream(str(tmp_path / name), ByteTokenizer(), 13)) == 8


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 70_000), max_size=20), max_size=20),
    st.sampled_from([70_001, 100_000]),
    st.integers(1, 5),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[int]], vocab: int, chunk: int
) -> None:
    """Also where the index is checked in many small pieces."""
    prefix = tmp_path_factory.mktemp("megatron") / "x"
    flat = [token for document in texts for token in document]
    assert write_megatron(prefix, [np.array(document, np.int64) for document in texts], vocab) == len(flat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(megatron, "_CHUNK", chunk)
        assert MegatronStream(prefix, vocab).read(0, len(flat)).tolist() == flat


@pytest.mark.parametrize(("vocab", "code"), [(257, 8), (65_499, 8), (65_500, 4), (129_280, 4)])
def test_a_written_dataset_is_byte_for_byte_the_format(tmp_path: Path, vocab: int, code: int) -> None:
    write_megatron(tmp_path / "ours", [np.array(s, np.int64) for s in SEQUENCES], vocab)
    dataset(tmp_path / "theirs", code)
    for suffix in (".bin", ".idx"):
        ours, theirs = (tmp_path / f"{name}{suffix}" for name in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_tokenised_corpus_trains_on_the_same_batches_as_its_text(tmp_path: Path) -> None:
    write_megatron(tmp_path / "docs", joined(documents("builtin:python-docs"), ByteTokenizer()), 257)
    streams = [
        open_stream(data, ByteTokenizer(), 257) for data in ("builtin:python-docs", str(tmp_path / "docs"))
    ]
    assert fingerprint(streams[0]) == fingerprint(streams[1])
    loaders = [Loader([Source(stream)], sequence=100, batch_sequences=16, seed=1) for stream in streams]
    for step in range(3):
        text, stored = (loader.batch(step) for loader in loaders)
        assert text.tokens.tolist() == stored.tokens.tolist()
    for loader in loaders:
        loader.close()


LENGTHS, POINTERS, BOUNDS = [3, 0, 1, 4], [0, 12, 12, 16], [0, 1, 2, 3, 4]
GOOD = index(4, LENGTHS, POINTERS, BOUNDS)


def with_bounds(*bounds: int) -> bytes:
    return index(4, LENGTHS, POINTERS, list(bounds))


BAD_INDICES = {
    "empty": (b"", IntegrityError, "has 0 bytes; its header has 34"),
    "magic": (b"TNTIDX\x00\x00\x00" + GOOD[9:], UserError, "is not the index"),
    "version": (GOOD[:9] + b"\x02" + GOOD[10:], UserError, "has version 2; version 1 can be read"),
    "floats": (index(6, LENGTHS, POINTERS, BOUNDS), UserError, "ids of type 6"),
    "unknown type": (index(9, LENGTHS, POINTERS, BOUNDS), UserError, "ids of type 9"),
    "modes": (GOOD + bytes(4), UserError, "multimodal"),
    "cut short": (GOOD[:-1], IntegrityError, "has 121 bytes, but 4 sequences and 5 document bounds make 122"),
    "trailing": (GOOD + bytes(3), IntegrityError, "has 125 bytes"),
    "count": (index(4, LENGTHS, POINTERS, BOUNDS, count=2**63), IntegrityError, f"{2**63} sequences"),
    "negative": (index(4, [3, -1, 2, 4], POINTERS, BOUNDS), IntegrityError, "sequence 1 has -1 tokens"),
    "gap": (index(4, LENGTHS, [0, 12, 14, 16], BOUNDS), IntegrityError, "2 starts at byte 14.* end at 12"),
    "first": (index(4, LENGTHS, [4, 16, 16, 20], BOUNDS), IntegrityError, "sequence 0 starts at byte 4"),
    "sum": (index(4, [3, 0, 1, 5], POINTERS, BOUNDS), IntegrityError, "x.bin has 32 .*x.idx describes 36"),
    "no bounds": (with_bounds(), IntegrityError, "documents end at sequence 0.* 4 sequences"),
    "late start": (with_bounds(1, 4), IntegrityError, "first document starts at sequence 1"),
    "bound back": (with_bounds(0, 3, 2, 4), IntegrityError, "document bound 2 goes back to 2"),
    "extreme": (with_bounds(0, 2**62, -(2**63), 4), IntegrityError, "document bound 2 goes back to -"),
    "last bound": (with_bounds(0, 3), IntegrityError, "documents end at sequence 3"),
}


@pytest.mark.parametrize("case", BAD_INDICES)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_broken_index_is_refused_with_its_name_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, chunk: int
) -> None:
    content, error, message = BAD_INDICES[case]
    dataset(tmp_path / "x")
    (tmp_path / "x.idx").write_bytes(content)
    monkeypatch.setattr(megatron, "_CHUNK", chunk)
    with pytest.raises(error, match=message) as caught:
        MegatronStream(tmp_path / "x", 100)
    assert str(tmp_path / "x.") in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
def test_any_damaged_byte_or_length_is_an_error_of_ours_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, keep: int
) -> None:
    prefix = dataset(tmp_path_factory.mktemp("fuzz") / "x")
    damaged = bytearray(GOOD)
    damaged[place] = value
    Path(f"{prefix}.idx").write_bytes(damaged if keep == len(GOOD) else damaged[:keep])
    try:
        stream = MegatronStream(prefix, 2**62)
        assert len(stream.read(0, len(stream))) == len(stream)
    except (UserError, IntegrityError):
        pass


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    for missing in (".bin", ".idx"):
        dataset(tmp_path / "x")
        (tmp_path / f"x{missing}").unlink()
        with pytest.raises(UserError, match=rf"no file .*x\{missing}"):
            open_stream(str(tmp_path / "x.bin"), ByteTokenizer(), 13)


def test_a_bin_cut_short_is_found_at_start_and_while_running(tmp_path: Path) -> None:
    stream = MegatronStream(dataset(tmp_path / "x"), 13)
    (tmp_path / "x.bin").write_bytes(bytes(21))
    with pytest.raises(IntegrityError, match=r"x.bin ends at byte 21; 8 bytes from 16 on were expected"):
        stream.read(4, 2)
    with pytest.raises(IntegrityError, match=r"x.bin has 21 bytes, but .*x.idx describes 32"):
        MegatronStream(tmp_path / "x", 13)


def test_a_failing_disk_is_named_with_the_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = MegatronStream(dataset(tmp_path / "x"), 13)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.preadv", fail)
    with pytest.raises(InputOutputError, match=r"cannot read .*x.bin at byte 12: Input/output error"):
        stream.read(3, 2)


def test_ids_the_model_lacks_are_named_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="token 5 has id 10, but the model's vocab is 10"):
        MegatronStream(dataset(tmp_path / "x"), 10).read(2, 5)
    with pytest.raises(UserError, match="document 1: token 0 has id 300, but the model's vocab is 257"):
        write_megatron(tmp_path / "y", [np.array([1]), np.array([300])], 257)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "x.idx"]
