"""The fault matrix on Open MPI and MPICH: a row ends soon, says why, leaves no process, and can be resumed.

A few rows are run by `make test`; all of them by `pytest tests/system/faults -m "slow or not slow"`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mpi_job import MPIS, Mpi
from system.faults.play import Row, Seen, Stage
from system.faults.rows import ROWS

SHORT = {
    ("`kill -9` of a rank", "mpich"),
    ("SIGUSR1 to mpirun", "mpich"),
}
"""What `make test` runs."""


def cases() -> list[object]:
    return [
        pytest.param(row, mpi, id=f"{row.number} {row.title}, {mpi}", marks=_marks(row, mpi))
        for row in ROWS
        for mpi in MPIS
        if not (row.started and mpi == "mpich")  # `moec run -n` starts the environment's own
    ]


def _marks(row: Row, mpi: Mpi) -> list[pytest.MarkDecorator]:
    slow = [] if (row.title, mpi) in SHORT else [pytest.mark.slow]
    return [pytest.mark.mpi, *slow]


@pytest.mark.parametrize(("row", "mpi"), cases())
def test_a_fault(row: Row, mpi: Mpi, stage: Stage, tmp_path: Path) -> None:
    seen = stage.play(row, mpi, tmp_path / "run")
    check(row, mpi, seen)


def check(row: Row, mpi: Mpi, seen: Seen) -> None:
    """What the row promises."""
    told = seen.result.output
    assert (seen.result.timed_out, seen.result.survivors) == (False, 0), told
    # Where a rank is lost, its launcher may be faster than the rank that has noticed, or slower.
    assert seen.result.rc in {row.code[mpi], row.verdict or row.code[mpi]}, told
    assert seen.seconds < row.within_s, (seen.seconds, told)
    _check_verdict(row, mpi, seen)
    if seen.resumed is not None:
        assert seen.resumed.rc == 0, seen.resumed.output
        assert seen.same, (told, seen.resumed.output)


def _check_verdict(row: Row, mpi: Mpi, seen: Seen) -> None:
    """MPICH kills the others at once where a rank is lost: nobody can say it, but nobody says success."""
    state, unsaid = seen.status["state"], mpi == "mpich" and row.verdict == 88
    if state == "running" and unsaid:
        return
    assert re.search(row.says, seen.text, re.DOTALL), seen.text
    if row.state:
        wanted = row.code[mpi] if row.verdict is None else row.verdict
        assert (state, seen.status["exit_code"]) == (row.state, wanted), seen.text
