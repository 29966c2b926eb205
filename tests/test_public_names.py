"""What `import moec` gives a program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import moec


def test_every_public_name_is_there() -> None:
    assert all(getattr(moec, name) is not None for name in moec.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = moec.no_such_name


def test_from_a_text_to_a_bundle(tmp_path: Path) -> None:
    spec = moec.load("tiny", ["layers=1", "parallel.expert=2", "parallel.shard=2"])
    digest = moec.save(moec.compile_spec(spec), tmp_path / "bundle")

    assert moec.read_bundle(tmp_path / "bundle").digest == digest


def test_loading_a_text_imports_no_torch() -> None:
    code = "import sys, moec; moec.load('tiny'); assert 'torch' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
