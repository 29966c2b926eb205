"""What system tests start from: a text, bundles and a finished run, made once; a folder full of mistakes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from moec.runtime.data.megatron import write_megatron
from system.command_line import MODEL, ON_TWO, TINY, sets, succeed

TEXT = "".join(
    f"{number} bottles hang on the wall, take one down, {number * number} remain.\n" for number in range(200)
)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of some kilobytes."""
    path = tmp_path_factory.mktemp("text") / "bottles.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for one rank. Nobody changes it."""
    path = tmp_path_factory.mktemp("bundles") / "one"
    succeed("compile", "tiny", "-o", path, *sets(*MODEL))
    return path


@pytest.fixture(scope="session")
def bundle_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the same model for two ranks. Nobody changes it."""
    path = tmp_path_factory.mktemp("bundles") / "two"
    succeed("compile", "tiny", "-o", path, *sets(*MODEL, *ON_TWO))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, bundle: Path, text: Path) -> Path:
    """Ten steps on one rank. Nobody changes it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    succeed("run", bundle, "--data", text, "--out", out)
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the files that tests name; `out` is not there."""
    monkeypatch.chdir(tmp_path)
    Path("wrong.moe").write_text(TINY.replace("heads: 4, kv_heads: 2", "heads: 3, kv_heads: 2"))
    Path("binary.moe").write_bytes(b"model\xff")
    Path("empty.txt").touch()
    Path("short.txt").write_text("sixteen letters!")
    Path("latin.txt").write_bytes("Füße und noch mehr, damit es reicht".encode("latin-1"))
    Path("no_texts").mkdir()
    Path("no_texts/image.png").touch()
    Path("line.jsonl").write_text('{"text": "good"}\n{"text": bad}\n')
    Path("field.jsonl").write_text('{"body": "good"}\n')
    Path("tokenizer.json").write_text('{"version": "1.0"}')
    Path("damaged.json").write_text('{"version": ')
    write_megatron(Path("ids"), [np.arange(300)], 65_000)
    for name in ("headless", "shortened"):
        shutil.copy("ids.idx", f"{name}.idx")
        shutil.copy("ids.bin", f"{name}.bin")
    os.truncate("headless.idx", 20)
    os.truncate("shortened.bin", 20)
    shutil.copy("ids.idx", "lonely.idx")
    return tmp_path
