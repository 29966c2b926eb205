"""`moec check` without the library of the command line says what the command says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moec.cli import entry, main

WRONG = "use tiny\nmodel { vocab = wide }\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["tiny"],
        ["tiny", "--json"],
        ["--json", "tiny", "--set", "width=64"],
        ["tiny", "--set=width=64", "--set", "experts.experts=3"],
        ["tiny", "--set", "width=wide"],
        ["no_such_model"],
        ["no/such.moe", "--json"],
        ["wrong.moe"],
        ["wrong.moe", "--json"],
    ],
)
def test_it_says_the_same(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.moe").write_text(WRONG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert entry.plain_check(["check", *arguments]) is not None
    quick = (entry.run(["check", *arguments]), capsys.readouterr())
    full = (main.run(["check", *arguments]), capsys.readouterr())
    assert quick == full


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["fmt", "tiny"], ["check"], ["check", "a", "b"], ["check", "tiny", "--set"], ["check", "--help"],
        ["check", "tiny", "--jso"], ["check", "tiny", "--settle=1"], ["check", "-h"], ["check", "--", "tiny"],
    ],
)  # fmt: skip
def test_what_is_not_plain_goes_the_long_way(arguments: list[str]) -> None:
    assert entry.plain_check(arguments) is None


def test_it_loads_little() -> None:
    program = """
import sys
from moec.cli.entry import run
assert run(["check", "tiny"]) == 0
heavy = {"typer", "pydantic", "rich", "torch", "numpy", "mpi4py"} & sys.modules.keys()
assert not heavy, heavy
assert run(["models"]) == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
