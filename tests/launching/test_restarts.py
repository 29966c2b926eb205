"""What a script does when the ranks end: who is asked to go on, how often, and what the job's own code is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launching.scripts import Stubs, ran_with, start
from moec.launching.request import Allocation, Scheduler, Start

SCHEDULERS: tuple[Scheduler, ...] = ("slurm", "pbs", "lsf", "mpirun")


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    (tmp_path / "work").mkdir()
    return Stubs(tmp_path)


def described(stubs: Stubs, scheduler: Scheduler) -> Start:
    starter = "srun" if scheduler == "slurm" else "mpirun"
    return start(starter=starter, folder=str(stubs.folder / "work"), script=str(stubs.folder / "job.sh"))


def job(scheduler: Scheduler, **changed: int) -> Allocation:
    return Allocation(scheduler, 1, 2, "name", **{"most_restarts": 2, **changed})  # type: ignore[arg-type]


def launched(calls: list[list[str]]) -> int:
    return len(ran_with(calls, "srun")) + len(ran_with(calls, "mpirun"))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("code", [0, 1, 70, 74, 76, 86, 87, 88, 137])
def test_only_an_early_stop_goes_on(stubs: Stubs, scheduler: Scheduler, code: int) -> None:
    """A failure would come again, and a run that is done is done."""
    ran = stubs.run(job(scheduler), described(stubs, scheduler), CODES=str(code))
    assert ran.code == code
    assert len(ran.calls) == launched(ran.calls) == 1


def test_slurm_puts_the_job_back_and_stops_at_the_limit(stubs: Stubs) -> None:
    for restarts, requeued in (("", True), ("1", True), ("2", False), ("3", False)):
        restarted = {"SLURM_RESTART_COUNT": restarts} if restarts else {}
        ran = stubs.run(job("slurm"), described(stubs, "slurm"), CODES="75", **restarted)
        assert ran.code == 75
        assert ran_with(ran.calls, "scontrol") == ([["requeue", "7"]] if requeued else [])
        assert ("after 2 restarts" in ran.said) == (not requeued)


def test_pbs_submits_a_successor_that_knows_how_many_there_were(stubs: Stubs) -> None:
    ran = stubs.run(job("pbs"), described(stubs, "pbs"), CODES="75")
    assert ran.code == 75
    assert ran_with(ran.calls, "qsub") == [["-v", "MOEC_RESTARTS=1", str(stubs.folder / "job.sh")]]
    ran = stubs.run(job("pbs"), described(stubs, "pbs"), CODES="75", MOEC_RESTARTS="1")
    assert ran_with(ran.calls, "qsub") == [["-v", "MOEC_RESTARTS=2", str(stubs.folder / "job.sh")]]
    ran = stubs.run(job("pbs"), described(stubs, "pbs"), CODES="75", MOEC_RESTARTS="2")
    assert ran_with(ran.calls, "qsub") == []


def test_lsf_takes_75_for_its_queue_until_the_limit(stubs: Stubs) -> None:
    codes = [stubs.run(job("lsf"), described(stubs, "lsf"), CODES="75").code for _ in range(3)]
    assert codes == [75, 75, 1]


def test_mpirun_starts_again_by_itself_until_it_is_done_or_at_the_limit(stubs: Stubs) -> None:
    ran = stubs.run(job("mpirun"), described(stubs, "mpirun"), CODES="75 75 0")
    assert (ran.code, launched(ran.calls)) == (0, 3)
    ran = stubs.run(job("mpirun"), described(stubs, "mpirun"), CODES="75 75 75 0")
    assert (ran.code, launched(ran.calls)) == (75, 3)
    ran = stubs.run(job("mpirun"), described(stubs, "mpirun"), CODES="75 87 0")
    assert (ran.code, launched(ran.calls)) == (87, 2)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_without_requeue_an_early_stop_stays_one(stubs: Stubs, scheduler: Scheduler) -> None:
    ran = stubs.run(job(scheduler, most_restarts=0), described(stubs, scheduler), CODES="75 0")
    assert ran.code == 75
    assert len(ran.calls) == launched(ran.calls) == 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    ("verdict", "launcher", "becomes"),
    [
        ("75", "137", 75),  # a rank that leaves first, and the others are killed for it
        ("88", "0", 88),  # MPICH and a lost rank
        ("0", "137", 0),  # with --elastic, the others went on and are done
        ("null", "0", 88),
        ("null", "9", 9),
    ],
)
def test_the_verdict_of_the_run_counts_more_than_the_launchers_code(
    stubs: Stubs, scheduler: Scheduler, verdict: str, launcher: str, becomes: int
) -> None:
    out = stubs.folder / "work/runs/tiny"
    ran = stubs.run(
        job(scheduler, most_restarts=0),
        described(stubs, scheduler),
        CODES=verdict,
        VERDICT=str(out),
        LIES=launcher,
    )
    assert ran.code == becomes


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_verdict_of_an_earlier_start_does_not_count(stubs: Stubs, scheduler: Scheduler) -> None:
    """Ranks that fail before they can say so would be started again and again."""
    out = stubs.folder / "work/runs/tiny"
    out.mkdir(parents=True)
    (out / "run_status.json").write_text('{\n "exit_code": 75,\n "reason": ""\n}\n')
    ran = stubs.run(job(scheduler), described(stubs, scheduler), CODES="127")
    assert ran.code == 127
    assert len(ran.calls) == 1


# --- signals ---


def signalled(stubs: Stubs, allocation: Allocation, number: int, code: str = "75") -> int:
    """Start a script whose ranks wait for USR1, send the script a signal, and return its code."""
    (stubs.folder / "record").unlink(missing_ok=True)
    environment = stubs.environment(WAITING="yes", READY=str(stubs.folder / "ready"), CODES=code)
    script = stubs.write(allocation, described(stubs, allocation.scheduler))
    with subprocess.Popen(["bash", script], env=environment, stdout=subprocess.DEVNULL) as process:
        until((stubs.folder / "ready").exists)
        os.kill(process.pid, number)
        return process.wait(30)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("timed", [False, True])
def test_usr1_reaches_the_ranks_and_their_code_comes_back(
    stubs: Stubs, scheduler: Scheduler, timed: bool
) -> None:
    """Whatever stands between, and with nobody killed."""
    time_s = {"time_s": 3600} if timed else {}
    assert signalled(stubs, job(scheduler, most_restarts=0, **time_s), signal.SIGUSR1) == 75


def test_term_ends_a_script_without_a_scheduler_and_nothing_is_started_again(stubs: Stubs) -> None:
    assert signalled(stubs, job("mpirun"), signal.SIGTERM, code="75 0") == 75
    assert launched(stubs.calls()) == 1


@pytest.mark.parametrize("scheduler", ["pbs", "mpirun"])
def test_where_nobody_else_does_the_script_sends_the_signal_before_its_time_is_over(
    stubs: Stubs, scheduler: Scheduler
) -> None:
    """Ranks that hear nothing leave with 99 after ten seconds."""
    allocation = job(scheduler, time_s=181, lead_s=180)
    ran = stubs.run(allocation, described(stubs, scheduler), CODES="75 75", WAITING="yes")
    assert ran.code == 75
    assert launched(ran.calls) == 1
    assert len(ran_with(ran.calls, "qsub")) == (scheduler == "pbs")


@pytest.mark.parametrize("scheduler", ["pbs", "mpirun"])
def test_logs_are_appended_to(stubs: Stubs, scheduler: Scheduler) -> None:
    log = stubs.folder / "work/name.log"
    log.write_text("before\n")
    stubs.run(job(scheduler), described(stubs, scheduler), CODES="75 0")
    assert log.read_text().startswith("before\n")
    assert "stopped early and saved" in log.read_text()
