"""`moec` as a user meets it, in this process or in one of its own, and what it leaves on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moec import models
from moec.cli.main import run

TINY = models.read("tiny")[1]  # type: ignore[index]
"""The text of the shipped model."""

MODEL = (
    "layers=1", "width=32", "vocab=257", "experts.experts.width=16",
    "train.sequence=16", "train.batch=4 sequences", "train.steps=10", "train.optimizer.lr=1e-2",
    "train.schedule=cosine(warmup: 2, floor: 0.1)",
)  # fmt: skip
"""The shipped `tiny`, smaller. The learning rate of its first step is 0."""

ON_TWO = ("parallel.shard=2", "parallel.expert=2")


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that was said, with line ends and runs of blanks as single blanks: messages may be wrapped."""
        return " ".join((self.out + self.err).split())


def sets(*overrides: str) -> list[str]:
    """`--set` for each."""
    return [part for override in overrides for part in ("--set", override)]


def moec(*arguments: str | Path) -> Outcome:
    """Run a command in this process, where torch is loaded already."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def succeed(*arguments: str | Path) -> Outcome:
    """The same for a command that has to succeed."""
    outcome = moec(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def moec_process(
    *arguments: str | Path, env: Mapping[str, str] | None = None, python: Sequence[str | Path] = ()
) -> Outcome:
    """Run a command in a process of its own, started by `python`, by default this interpreter."""
    line = [*map(str, python or (sys.executable,)), "-m", "moec", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    done = subprocess.run(
        line,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def losses(run_folder: Path) -> list[float]:
    return [entry["loss"] for entry in metrics(run_folder)]


def status(run_folder: Path) -> dict[str, Any]:
    """What run_status.json says."""
    found = json.loads((run_folder / "run_status.json").read_text())
    assert isinstance(found, dict)
    return found


def content(folder: Path) -> dict[str, str]:
    """Every path below a folder, hidden ones too, with the digest of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def refused(arguments: str, code: int, *words: str, **paths: Path) -> Outcome:
    """The command ends with `code`, says `words`, and leaves the working directory as it was."""
    before = content(Path())
    told = moec(*(part.format(**paths) for part in arguments.split()))
    assert told.code == code, told.err
    for word in words:
        assert word.format(**paths) in told.text, told.err
    assert "Traceback" not in told.err
    assert content(Path()) == before
    return told
