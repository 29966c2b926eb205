"""What many system tests start from, made once: a text, bundles for one and two ranks, and a finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from system.command_line import MODEL, ON_TWO, sets, succeed

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
