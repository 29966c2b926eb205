"""Two jobs on one machine at the same time do not meet, whatever carries their data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mpi_job import job
from system.command_line import status
from system.faults.play import Stage, is_same


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize("transports", [("gloo", "gloo"), ("mpi", "gloo")], ids="+".join)
def test_two_jobs_at_a_time(stage: Stage, tmp_path: Path, transports: tuple[str, str]) -> None:
    """Both come to what one comes to alone."""
    whole = stage.whole()
    outs = [tmp_path / str(index) for index in range(2)]
    lines = [
        stage.line((), out, "--transport", transport) for out, transport in zip(outs, transports, strict=True)
    ]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda line: job(2, line), lines))
    for result, out in zip(done, outs, strict=True):
        assert (result.rc, result.survivors) == (0, 0), result.output
        assert status(out)["state"] == "complete"
        assert is_same(out, whole)
