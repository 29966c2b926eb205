"""Job scripts under a real Slurm: sbatch takes them, its signals stop them, they go back, and go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import make_mpich_env
from launching.slurm import Slurm, cluster
from system.command_line import MODEL, ON_TWO, content, losses, sets, status, succeed

pytestmark = [pytest.mark.slow, pytest.mark.mpi, pytest.mark.timeout(1200)]

STEPS = 60
OPEN_MPI = (
    "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=self,sm "
    "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"
)
WAYS = {
    "srun": ("--srun", "--mpi", "openmpi"),
    "srun of MPICH": ("--srun", "--mpi", "mpich", "--python", str(make_mpich_env.PYTHON)),
    "mpirun": ("--mpirun", "--mpi", "openmpi"),
    "mpirun of MPICH": ("--mpirun", "--mpi", "mpich", "--python", str(make_mpich_env.PYTHON)),
}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle for two ranks, data, and a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("place")
    changes = (*MODEL, *ON_TWO, f"train.steps={STEPS}", "train.checkpoint=saved(every: 20, keep: 2)")
    succeed("compile", "tiny", "-o", folder / "bundle", *sets(*changes))
    (folder / "text.txt").write_text("".join(f"{n} bottles, {n * n} glasses.\n" for n in range(2000)))
    succeed(
        "run", folder / "bundle", "-n", "2", "--data", folder / "text.txt", "--out", folder / "undisturbed"
    )
    return folder


def write(place: Path, *options: str) -> Path:
    """A script for two ranks on the one node."""
    script = place / "job.sh"
    shape = ("--scheduler", "slurm", "--nodes", "1", "--ranks-per-node", "2", "--setup", OPEN_MPI)
    where = ("--chdir", str(place), "-o", str(script))
    data = ("--data", str(place / "text.txt"))
    succeed("launch", place / "bundle", *shape, *where, *options, "--", *data)
    return script


def until(what: str, holds: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def submit(slurm: Slurm, script: Path) -> str:
    """The number of the job."""
    done = slurm.run("sbatch", script, cwd=script.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def lines_of(metrics: Path) -> int:
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


# --- sbatch takes it ---

TAKEN: dict[str, tuple[str, ...]] = {
    "least": (),
    "all": (
        "--time", "1-02:03:04", "--signal-lead", "5m", "--partition", "long", "--account", "physics",
        "--name", "a.name_of-it", "--cpus-per-rank", "2", "--mem", "1G", "--bind", "socket",
        "--directive", "--comment='some words'",
    ),
    "mpirun": ("--mpirun", "--bind", "none", "--time", "90m"),
    "once": ("--no-requeue", "--time", "90m"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_sbatch_takes_the_script(slurm: Slurm, place: Path, case: str) -> None:
    """Every line of it is one that this Slurm knows, and the allocation is one that it has."""
    done = slurm.run("sbatch", "--test-only", write(place, *TAKEN[case]))
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr
    assert "using" in done.stderr


def test_sbatch_would_say_what_is_wrong(slurm: Slurm, place: Path) -> None:
    """So the test above can fail."""
    done = slurm.run("sbatch", "--test-only", write(place, "--directive", "--no-such-option"))
    assert done.returncode != 0
    done = slurm.run("sbatch", "--test-only", write(place, "--partition", "missing"))
    assert "invalid partition" in done.stderr


# --- and it does what it is for ---


@pytest.mark.parametrize("way", WAYS)
def test_a_job_that_gets_usr1_saves_goes_back_and_ends_as_if_undisturbed(
    slurm: Slurm, place: Path, way: str
) -> None:
    if "MPICH" in way:
        make_mpich_env.make()
    out = place / way.replace(" ", "_")
    job = submit(slurm, write(place, *WAYS[way], "--out", str(out), "--name", out.name, "--time", "30m"))
    log = place / f"{out.name}-{job}.log"
    told = lambda: f"{slurm.state(job)}\n{log.read_text() if log.exists() else ''}"  # noqa: E731
    until(f"steps: {told()}", lambda: lines_of(out / "metrics.jsonl") >= 3)
    done = slurm.run("scancel", "-s", "USR1", *(["-b"] if "mpirun" in way else []), job)
    assert done.returncode == 0, done.stderr
    until("requeued", lambda: slurm.state(job).endswith(" 1"))
    stopped = lines_of(out / "metrics.jsonl")
    assert 3 <= stopped < STEPS, told()
    until("complete", lambda: slurm.state(job) == "COMPLETED 1")
    assert status(out)["state"] == "complete", told()
    assert losses(out) == losses(place / "undisturbed")
    assert content(out / "weights") == content(place / "undisturbed" / "weights")
    assert "goes back into the queue" in log.read_text()


def test_the_end_of_the_time_is_told_in_time(slurm: Slurm, place: Path) -> None:
    """Slurm itself sends the signal; the job saves and goes back into the queue before it is killed."""
    long = place / "long"
    os.makedirs(long, exist_ok=True)
    changes = (*MODEL, *ON_TWO, "train.steps=1_000_000", "train.checkpoint=saved(every: 1000, keep: 2)")
    succeed("compile", "tiny", "-o", long / "bundle", *sets(*changes))
    (long / "text.txt").write_text((place / "text.txt").read_text())
    job = submit(slurm, write(long, "--time", "3m", "--signal-lead", "60s", "--out", "run"))
    until("requeued", lambda: slurm.state(job).endswith(" 1"))
    slurm.run("scancel", job)
    log = (long / f"tiny-{job}.log").read_text()
    assert "stopped early and saved" in log, log
    assert "DUE TO TIME LIMIT" not in log
    until("over", lambda: slurm.state(job).startswith("CANCELLED"))
    assert (long / "run/checkpoints/latest").is_file()
