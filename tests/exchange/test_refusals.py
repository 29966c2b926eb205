"""What cannot be imported, exported or read out is refused with message and exit code, and leaves nothing."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from exchange.families import VOCAB, Published
from moec import models
from moec.cli.exchange import logits as read_out
from moec.cli.exchange.export_hf import export_checkpoint
from moec.cli.exchange.import_hf import import_checkpoint
from moec.cli.exchange.logits import logits
from moec.dsl import SourceErrors, render_text
from moec.runtime.errors import RuntimeFailure
from moec.runtime.weights.stored import StoredTensors

Publish = Callable[[str], Published]
Import = Callable[[str], Path]
Edit = Callable[[Path], object]

ROUTER = "model.layers.1.block_sparse_moe.gate.weight"


def failure_of(action: Callable[[], object]) -> tuple[int, str]:
    """Exit code and message of a failure, as the command line gives them."""
    with pytest.raises((RuntimeFailure, SourceErrors)) as caught:
        action()
    if isinstance(caught.value, SourceErrors):
        return 1, render_text(caught.value.diagnostics)
    return int(caught.value.exit_code), str(caught.value)


def in_tensors(change: Callable[[dict[str, Tensor]], object]) -> Edit:
    """Change the tensors of a checkpoint."""

    def edit(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    return edit


def in_config(**values: object) -> Edit:
    """Set keys of config.json."""

    def edit(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def writing(name: str, content: str) -> Edit:
    return lambda directory: (directory / name).write_text(content)


def indexed(weight_map: dict[str, str]) -> Edit:
    """An index in the place of the one file."""

    def edit(directory: Path) -> None:
        (directory / "model.safetensors").rename(directory / "part.safetensors")
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return edit


def truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def shard_cut_off(directory: Path) -> None:
    """Two files, of which the second is lost."""
    tensors = load_file(directory / "model.safetensors")
    indexed(dict.fromkeys(tensors, "part.safetensors") | {ROUTER: "other.safetensors"})(directory)


DAMAGES: dict[str, tuple[Edit, int, tuple[str, ...]]] = {
    "missing tensor": (in_tensors(lambda t: t.pop(ROUTER)), 76, (ROUTER, "layers.1.experts.router")),
    "extra tensor": (
        in_tensors(lambda t: t.update({"model.mystery": torch.zeros(2)})),
        76,
        ("model.mystery", "model.safetensors", "neither mapped to a parameter nor ignored"),
    ),
    "misshapen tensor": (
        in_tensors(lambda t: t.update({ROUTER: t[ROUTER][:-1].clone()})),
        76,
        (ROUTER, "model.safetensors", "(7, 64)", "(8, 64)"),
    ),
    "transposed tensor": (
        in_tensors(lambda t: t.update({ROUTER: t[ROUTER].T.contiguous()})),
        76,
        (ROUTER, "(64, 8)", "(8, 64)"),
    ),
    "integers": (
        in_tensors(lambda t: t.update({ROUTER: t[ROUTER].long()})),
        76,
        (ROUTER, "int64", "float32"),
    ),
    "only integers": (
        in_tensors(lambda t: t.update({name: tensor.long() for name, tensor in t.items()})),
        76,
        ("int64", "float32 is needed"),
    ),
    "eight-bit floats": (
        in_tensors(lambda t: t.update({ROUTER: t[ROUTER].to(torch.float8_e4m3fn)})),
        76,
        (ROUTER, "model.safetensors", "F8_E4M3"),
    ),
    "truncated file": (truncated, 76, ("model.safetensors", "truncated")),
    "no safetensors": (
        writing("model.safetensors", "hello, world"),
        76,
        ("model.safetensors", "no safetensors file"),
    ),
    "index leads out": (indexed({ROUTER: "../part.safetensors"}), 76, ("../part.safetensors", "index.json")),
    "index is no index": (indexed({}), 76, ("no tensor", "model.embed_tokens.weight")),
    "shard lost": (shard_cut_off, 76, ("other.safetensors", "missing")),
    "pickle": (pickled, 1, ("pickles, which are never read",)),
    "no config": (lambda d: (d / "config.json").unlink(), 1, ("no file", "config.json")),
    "config is no JSON": (writing("config.json", "{"), 76, ("config.json", "not valid JSON")),
    "config is a list": (writing("config.json", "[]"), 76, ("config.json", "object")),
    "key twice": (writing("config.json", '{"vocab_size": 1, "vocab_size": 2}'), 76, ("a key stands twice",)),
    "huge config": (writing("config.json", " " * 1_100_000), 76, ("config.json", "1048576")),
    "unknown family": (in_config(model_type="mamba9"), 1, ("mamba9", "moec models", "--spec")),
    "nearly a family": (in_config(model_type="mixtrel"), 1, ("mixtrel", "`mixtral`")),
    "no family": (in_config(model_type=None), 1, ("model_type", "None")),
    "another activation": (in_config(hidden_act="gelu"), 1, ("hidden_act", "gelu")),
    "tied embeddings": (in_config(tie_word_embeddings=True), 1, ("tie_word_embeddings", "True")),
    "unknown key": (in_config(residual_multiplier=2.0), 1, ("residual_multiplier",)),
    "scaled rope": (
        in_config(rope_scaling={"rope_type": "yarn", "factor": 4.0}),
        1,
        ("rope_scaling.factor",),
    ),
    "another width": (in_config(hidden_size=32), 76, ("model.embed_tokens.weight", "(128, 64)", "(128, 32)")),
    "another depth": (in_config(num_hidden_layers=3), 76, ("model.layers.3.", "neither mapped")),
    "absurd size": (in_config(vocab_size=10**17), 1, ("--> config.json:", "vocab=")),
    "text as a number": (in_config(vocab_size="128 } model evil {"), 1, ("vocab_size",)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_does_not_fit_is_refused(damage: str, published: Publish, tmp_path: Path) -> None:
    edit, code, words = DAMAGES[damage]
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(published("mixtral").directory, checkpoint)
    edit(checkpoint)
    out = tmp_path / "work" / "imported"
    out.parent.mkdir()
    found, message = failure_of(lambda: import_checkpoint(checkpoint, out, find_model=models.read))
    assert found == code, message
    for word in words:
        assert word in message
    assert not list(out.parent.iterdir())


def test_experts_in_one_tensor_are_refused(published: Publish, tmp_path: Path) -> None:
    published("qwen3_moe").model.save_pretrained(tmp_path / "fused", save_original_format=False)
    code, message = failure_of(
        lambda: import_checkpoint(tmp_path / "fused", tmp_path / "out", find_model=models.read)
    )
    assert code == 1
    assert "model.layers.0.mlp.experts." in message
    assert "save_pretrained" in message
    assert not (tmp_path / "out").exists()


def test_a_layer_that_predicts_a_further_token_is_passed_over(published: Publish, tmp_path: Path) -> None:
    """Published files of GLM-4.5 have layer 92, transformers saves none."""
    saved = published("glm4_moe").directory
    shutil.copytree(saved, tmp_path / "more")
    further = {
        f"model.layers.92.{name}.weight": torch.randn(2) for name in ("enorm", "mlp.experts.0.up_proj")
    }
    in_tensors(lambda tensors: tensors.update(further))(tmp_path / "more")
    for directory in (saved, tmp_path / "more"):
        import_checkpoint(directory, tmp_path / f"{directory.name}-read", find_model=models.read)
    indices = [
        (tmp_path / f"{directory.name}-read" / "weights" / "weights.json").read_bytes()
        for directory in (saved, tmp_path / "more")
    ]
    assert indices[0] == indices[1]


def test_only_tensors_of_identity_experts_are_passed_over(published: Publish, tmp_path: Path) -> None:
    """transformers saves some, published files have none; neither changes what is read."""
    saved = published("longcat_flash").directory
    wanted = import_checkpoint(saved, tmp_path / "saved", find_model=models.read)
    assert wanted.checkpoint is not None
    blanks = [name for blank in wanted.checkpoint.blanks for name in blank.tensors()]
    assert len(blanks) == 3 * 4 * 2  # layers, identity experts, gate and up
    edits = {
        "noise": in_tensors(lambda tensors: tensors.update({name: torch.randn(48, 64) for name in blanks})),
        "absent": in_tensors(lambda tensors: [tensors.pop(name) for name in blanks]),
    }
    for kind, edit in edits.items():
        shutil.copytree(saved, tmp_path / kind)
        edit(tmp_path / kind)
        import_checkpoint(tmp_path / kind, tmp_path / f"{kind}-read", find_model=models.read)
        index = (tmp_path / f"{kind}-read" / "weights" / "weights.json").read_bytes()
        assert index == (tmp_path / "saved" / "weights" / "weights.json").read_bytes()
    beyond = "model.layers.0.mlp.experts.12.gate_proj.weight"
    in_tensors(lambda tensors: tensors.update({beyond: torch.zeros(48, 64)}))(tmp_path / "noise")
    _, message = failure_of(
        lambda: import_checkpoint(tmp_path / "noise", tmp_path / "beyond", find_model=models.read)
    )
    assert f"'{beyond}' of {tmp_path}/noise/model.safetensors is neither mapped" in message


def test_nothing_is_overwritten(published: Publish, imported: Import, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for to in (tmp_path / "taken", tmp_path / "file", tmp_path / "nowhere" / "out"):
        for action in (
            lambda to=to: import_checkpoint(published("mixtral").directory, to, find_model=models.read),
            lambda to=to: export_checkpoint(imported("mixtral"), to),
        ):
            code, message = failure_of(action)
            assert code == 1
            assert str(to) in message
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "mine.txt", "taken"]


@pytest.mark.parametrize("what", ["import", "export", "logits"])
def test_a_full_disk_leaves_nothing(
    what: str, published: Publish, imported: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = imported("mixtral")
    (tmp_path / "ids.json").write_text("[[1, 2]]")
    reads = 0
    read = StoredTensors.read

    def full(self: StoredTensors, name: str, start: int, count: int) -> Tensor:
        nonlocal reads
        reads += 1
        if reads == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return read(self, name, start, count)

    monkeypatch.setattr(StoredTensors, "read", full)
    (tmp_path / "work").mkdir()
    out = tmp_path / "work" / "out"
    actions = {
        "import": lambda: import_checkpoint(published("mixtral").directory, out, find_model=models.read),
        "export": lambda: export_checkpoint(source, out),
        "logits": lambda: logits(source, tmp_path / "ids.json", out),
    }
    code, message = failure_of(actions[what])
    assert code == 74
    assert "No space left" in message
    assert not list((tmp_path / "work").iterdir())


SOURCES: dict[str, tuple[Edit, int, tuple[str, ...]]] = {
    "not there": (shutil.rmtree, 1, ("no import and no finished run",)),
    "no model": (lambda d: (d / "model.moe").unlink(), 1, ("no import and no finished run", "model.moe")),
    "no weights": (lambda d: shutil.rmtree(d / "weights"), 1, ("weights",)),
    "damaged model": (writing("model.moe", "model {"), 1, ("model.moe",)),
    "other model": (
        lambda d: (d / "model.moe").write_text(
            (d / "model.moe").read_text().replace("vocab   = 128", "vocab = 64")
        ),
        76,
        ("(128, 64)", "(64, 64)"),
    ),
    "damaged weights": (
        lambda d: _flip_last_byte(d / "weights" / "layers.00002.safetensors"),
        76,
        ("layers.00002",),
    ),
    "lost weights": (
        lambda d: (d / "weights" / "head.safetensors").unlink(),
        76,
        ("head.safetensors", "missing"),
    ),
}


def _flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", SOURCES)
def test_a_damaged_source_is_refused(damage: str, imported: Import, tmp_path: Path) -> None:
    edit, code, words = SOURCES[damage]
    source = tmp_path / "source"
    shutil.copytree(imported("mixtral"), source)
    edit(source)
    (tmp_path / "ids.json").write_text("[[1, 2]]")
    (tmp_path / "work").mkdir()
    out = tmp_path / "work" / "out"
    for action in (
        lambda: export_checkpoint(source, out),
        lambda: logits(source, tmp_path / "ids.json", out),
    ):
        found, message = failure_of(action)
        assert found == code, message
        for word in words:
            assert word in message
    assert not list((tmp_path / "work").iterdir())


def test_a_model_without_a_weight_map_cannot_be_exported(imported: Import, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(imported("mixtral"), source)
    text = (source / "model.moe").read_text()
    (source / "model.moe").write_text(text[: text.index("checkpoint huggingface")])
    code, message = failure_of(lambda: export_checkpoint(source, tmp_path / "out"))
    assert code == 1
    assert "checkpoint huggingface" in message
    assert not (tmp_path / "out").exists()


IDS: dict[str, tuple[str, str]] = {
    "no JSON": ("[[1, 2]", "not valid JSON"),
    "no list": ('{"ids": [[1]]}', "expected a list of lists"),
    "one list": ("[1, 2]", "expected a list of lists"),
    "nothing": ("[]", "expected a list of lists"),
    "empty lists": ("[[], []]", "expected a list of lists"),
    "unequal lists": ("[[1, 2], [3, 4], [5]]", "list 2 has 1 ids and list 0 has 2"),
    "too large an id": (
        f"[[1, 2], [3, {VOCAB}]]",
        f"id 1 of list 1 is {VOCAB}; ids are whole numbers from 0 to 127",
    ),
    "negative id": ("[[1, -1]]", "id 1 of list 0 is -1"),
    "not whole": ("[[1, 2.0]]", "id 1 of list 0 is 2.0"),
    "true": ("[[1, true]]", "id 1 of list 0 is True"),
    "text": ('[["1"]]', "id 0 of list 0 is '1'"),
    "longer than the context": (json.dumps([[0] * 65]), "longer than the model's context of 64"),
}


@pytest.mark.parametrize("mistake", IDS)
def test_ids_that_are_not_for_the_model_are_refused(mistake: str, imported: Import, tmp_path: Path) -> None:
    text, words = IDS[mistake]
    (tmp_path / "ids.json").write_text(text)
    code, message = failure_of(lambda: logits(imported("mixtral"), tmp_path / "ids.json", tmp_path / "out"))
    assert code == 1
    assert "ids.json" in message
    assert words in message
    assert [p.name for p in tmp_path.iterdir()] == ["ids.json"]


@pytest.mark.parametrize(
    ("limit", "words"),
    [("MAX_VALUES", "2 x 3 ids make 768 logits"), ("MAX_FILE_BYTES", "larger than 20 bytes")],
)
def test_there_is_a_limit_to_what_is_read_out(
    limit: str, words: str, imported: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_out, limit, 20)
    (tmp_path / "ids.json").write_text("[[1, 2, 3], [4, 5, 6]]")
    code, message = failure_of(lambda: logits(imported("mixtral"), tmp_path / "ids.json", tmp_path / "out"))
    assert (code, words in message) == (1, True)
    assert not (tmp_path / "out").exists()


def test_ids_and_out_have_to_be_where_they_can_be(imported: Import, tmp_path: Path) -> None:
    code, message = failure_of(lambda: logits(imported("mixtral"), tmp_path / "none.json", tmp_path / "out"))
    assert (code, "no file" in message) == (1, True)
    (tmp_path / "ids.json").write_text("[[1]]")
    code, message = failure_of(
        lambda: logits(imported("mixtral"), tmp_path / "ids.json", tmp_path / "none" / "out")
    )
    assert (code, "there is no directory" in message) == (1, True)
