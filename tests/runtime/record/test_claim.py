"""A folder belongs to one run at a time, and is free as soon as the process that held it is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moec.runtime.record.claim import LOCK, Claim, OccupiedError, check_free

HOLDER = """
import sys, time, pathlib
from moec.runtime.record.claim import Claim
with Claim(pathlib.Path(sys.argv[1])) as claim:
    claim.take()
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    with Claim(tmp_path) as first:
        first.take()
        first.take()  # it has it
        with Claim(tmp_path) as second, pytest.raises(OccupiedError, match="another run is at work in"):
            second.take(0.2)
        assert (tmp_path / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []
    check_free(tmp_path, 0)


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OccupiedError):
            check_free(tmp_path, 0)
        process.kill()
        process.wait()
    assert (tmp_path / LOCK).is_file()
    check_free(tmp_path, 0)


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    check_free(tmp_path / "run", 0)
    assert not (tmp_path / "run").exists()
