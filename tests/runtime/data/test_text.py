"""Text corpora, tokenizers, and the stream they make."""

import json
from pathlib import Path
from pydoc_data import topics

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from moec.runtime.data import text, tokenizer
from moec.runtime.data.source import joined, open_stream
from moec.runtime.data.stream import ArrayStream, fingerprint
from moec.runtime.data.text import documents
from moec.runtime.data.tokenizer import ByteTokenizer, open_tokenizer
from moec.runtime.errors import UserError

WORDS = {"<s>": 0, "cat": 1, "sat": 2, "the": 3, "[UNK]": 4, "</s>": 5, "<|endoftext|>": 6}


def word_tokenizer(path: Path, added: tuple[str, ...] = ("<s>", "</s>", "<|endoftext|>")) -> Path:
    """A `tokenizer.json` of a few words that adds <s>, cuts at 3 tokens and pads to 10 if it is let."""
    model = tokenizers.models.WordLevel(WORDS, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(list(added))
    template = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.post_processor = template
    made.enable_truncation(3)
    made.enable_padding(length=10)
    made.save(str(path))
    return path


def ids(data: str, vocab: int = 257) -> list[int]:
    stream = open_stream(data, ByteTokenizer(), vocab)
    return list(map(int, stream.read(0, len(stream))))


def test_the_builtin_corpus_is_the_sorted_help_topics_between_ends_of_document() -> None:
    tokens = ids("builtin:python-docs")
    assert len(topics.topics) >= 79
    ends = [i for i, token in enumerate(tokens) if token == 256]
    assert len(ends) == len(topics.topics) - 1
    first, second = sorted(topics.topics)[:2]
    assert bytes(tokens[: ends[0]]).decode() == topics.topics[first]
    assert bytes(tokens[ends[0] + 1 : ends[1]]).decode() == topics.topics[second]


@given(st.lists(st.text(), max_size=5))
def test_bytes_and_ends_of_document_give_the_documents_back(texts: list[str]) -> None:
    pieces = list(joined(texts, ByteTokenizer()))
    tokens = [int(token) for piece in pieces for token in piece]
    cut = "".join(chr(token) for token in tokens).split(chr(256)) if texts else []
    assert [part.encode("latin-1").decode() for part in cut] == texts
    assert len(pieces) == len(texts)


def test_one_text_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes("\ufeffä\r\n\n☃".encode())
    assert bytes(ids(str(tmp_path / "a.py"), vocab=256)) == "\ufeffä\r\n\n☃".encode()


def test_a_directory_is_its_text_files_sorted_by_path_at_any_depth(tmp_path: Path) -> None:
    lines = '{"text": "K1"}\n\n{"text": "K2"}'
    files = {"b.md": "B", "a/z.txt": "Z", "a/k.jsonl": lines, ".git/x.txt": "no", "c.png": "no"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert list(documents(str(tmp_path))) == ["K1", "K2", "Z", "B"]


def test_json_lines_take_the_named_field(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a", "body": "b\\u00e4"}\r\n  \n{"body": "d", "text": "c"}')
    assert list(documents(str(path))) == ["a", "c"]
    assert list(documents(f"{path}:body")) == ["bä", "d"]


BAD_LINES: list[tuple[bytes, str]] = [
    (b"{", "not a JSON object"),
    (b"[1]", "not a JSON object"),
    (b"\xff", "not a JSON object"),
    (b"[" * 100_000, "not a JSON object"),
    (b'{"text": ' + b"9" * 5000 + b"}", "not a JSON object"),
    (b'{"title": "x"}', 'no field "text"; the fields are: title'),
    (b"{}", 'no field "text"; the fields are: none'),
    (b'{"text": 5}', 'the field "text" is not a string'),
    (b'{"text": "x\\ud800"}', "half a surrogate pair at character 1"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(UserError) as caught:
        list(documents(str(path)))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)


def test_limits_on_lines_and_corpora_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "a little longer"}\n')
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 20)
    with pytest.raises(UserError, match=r"d.jsonl:2: the line has more than 20 bytes"):
        list(documents(str(path)))
    monkeypatch.setattr(text, "MAX_TEXT_BYTES", 30)
    with pytest.raises(UserError, match=r"has 45 bytes; text is read into memory, 30 bytes at most"):
        list(documents(str(path)))


def test_text_that_is_not_utf8_is_named_by_its_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\xffbad")
    with pytest.raises(UserError, match=r"a.txt is not UTF-8: .* at byte 4"):
        list(documents(str(tmp_path)))


@pytest.mark.parametrize("name", ["none.txt", "x" * 300, "no.jsonl:text"])
def test_a_wrong_path_is_the_users_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no data at"):
        list(documents(str(tmp_path / name)))


def test_a_directory_without_text_and_a_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no file that ends in"):
        list(documents(str(tmp_path)))
    with pytest.raises(UserError, match="no data at /dev/zero"):
        list(documents("/dev/zero"))


def test_an_id_that_the_model_lacks_is_named_with_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab")
    (tmp_path / "b.txt").write_text("c")
    with pytest.raises(UserError, match="token 2 has id 256, but the model's vocab is 256: "):
        ids(str(tmp_path), vocab=256)
    with pytest.raises(UserError, match="token 1 has id -1"):
        ArrayStream("x", [np.array([0, -1])], vocab=10)


@given(st.lists(st.lists(st.integers(0, 2**40), max_size=8), max_size=4), st.data())
def test_any_slice_of_a_stream_is_that_of_its_pieces(pieces: list[list[int]], data: st.DataObject) -> None:
    whole = [token for piece in pieces for token in piece]
    stream = ArrayStream("x", [np.array(piece, np.int64) for piece in pieces], vocab=2**40 + 1)
    assert len(stream) == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - start))
    read = stream.read(start, count)
    assert read.dtype == np.int64
    assert read.tolist() == whole[start : start + count]
    for bad in ((start, len(whole) - start + 1), (-1, 1), (0, -1)):
        with pytest.raises(IndexError):
            stream.read(*bad)


@given(st.lists(st.integers(0, 9), max_size=30), st.lists(st.integers(0, 9), max_size=30))
def test_fingerprints_tell_streams_apart(one: list[int], other: list[int]) -> None:
    prints = [fingerprint(ArrayStream("x", [np.array(tokens, np.int64)], 10)) for tokens in (one, other)]
    assert (prints[0] == prints[1]) == (one == other)


def test_a_fingerprint_sees_both_ends_of_a_long_stream() -> None:
    tokens = np.zeros(10_000_000, np.uint16)
    prints = {fingerprint(ArrayStream("x", [tokens], 10))}
    for place in (0, len(tokens) - 1):
        tokens[place] = 1
        prints.add(fingerprint(ArrayStream("x", [tokens], 10)))
    assert len(prints) == 3


def test_a_tokenizer_json_encodes_without_its_additions_limits_and_padding(tmp_path: Path) -> None:
    path = word_tokenizer(tmp_path / "tokenizer.json")
    sentence = "the cat sat the cat sat dog"
    assert len(tokenizers.Tokenizer.from_file(str(path)).encode(sentence).ids) == 10  # it would, if let
    for value in (str(path), str(tmp_path)):
        opened = open_tokenizer(value)
        assert opened.encode(sentence).tolist() == [3, 1, 2, 3, 1, 2, 4]
        assert (opened.vocab, opened.end_of_document) == (7, 6)


def test_documents_of_a_tokenizer_json_are_joined_by_its_end(tmp_path: Path) -> None:
    path = word_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "d.jsonl").write_text('{"text": "the cat"}\n{"text": "sat"}\n')
    stream = open_stream(str(tmp_path / "d.jsonl"), open_tokenizer(str(path), end_of_document="</s>"), 7)
    assert stream.read(0, len(stream)).tolist() == [3, 1, 5, 2]


def test_the_end_of_document_is_found_or_given_or_asked_for(tmp_path: Path) -> None:
    path = str(word_tokenizer(tmp_path / "t.json", added=("<s>", "</s>")))
    assert open_tokenizer(path).end_of_document == 5
    assert open_tokenizer(path, "<s>").end_of_document == 0
    assert open_tokenizer(path, "2").end_of_document == 2
    for wrong in ("<eos>", "7", "-1", "²", "9" * 5000):
        with pytest.raises(UserError, match="given as the end of a document"):
            open_tokenizer(path, wrong)
    none = str(word_tokenizer(tmp_path / "n.json", added=("<s>",)))
    with pytest.raises(UserError, match=r"no token known to end a document.* Its added tokens: <s>"):
        open_tokenizer(none)
    with pytest.raises(UserError, match="is for a --tokenizer: without one, the end of a document is id 256"):
        open_tokenizer("bytes", "</s>")


PANICS = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    "model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"},
}


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 10_000, json.dumps(PANICS).encode()])
def test_a_file_that_is_no_tokenizer_is_the_users_error(tmp_path: Path, content: bytes) -> None:
    """Even one on which the library's Rust side panics."""
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"is not a Hugging Face tokenizer.json"):
        open_tokenizer(str(tmp_path))


def test_a_tokenizer_that_cannot_encode_says_which(tmp_path: Path) -> None:
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    content = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "</s>", "special": True, **flags}],
        "model": {"type": "WordLevel", "vocab": {"</s>": 0}, "unk_token": "gone"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer.json cannot encode a document: .*UNK"):
        open_tokenizer(str(tmp_path)).encode("word")


def test_a_missing_or_huge_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no tokenizer at"):
        open_tokenizer(str(tmp_path))
    word_tokenizer(tmp_path / "tokenizer.json")
    monkeypatch.setattr(tokenizer, "MAX_TOKENIZER_BYTES", 10)
    with pytest.raises(UserError, match=r"has \d+ bytes; a tokenizer.json may have 10"):
        open_tokenizer(str(tmp_path))
