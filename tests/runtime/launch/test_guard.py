"""A failing rank ends the job: soon, with one message and with its exit code, on Open MPI and on MPICH."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moec.runtime.errors import InputOutputError, NumericalError
from moec.runtime.guard import describe, exit_code_of, run_rank
from moec.runtime.launch import discover
from moec.runtime.mpirun import command
from mpi_job import MPIS, JobResult, Mpi, interpreter, job, run

FAILING = Path(__file__).with_name("failing.py")
both = pytest.mark.parametrize("mpi", MPIS)


def fail(scenario: str, mpi: Mpi, transport: str = "mpi", world: int = 2) -> JobResult:
    """A job that must end by itself, leaving no process behind."""
    result = job(world, [FAILING, scenario, transport], mpi=mpi, timeout_s=60)
    assert not result.timed_out, result.output
    assert result.survivors == 0
    return result


def messages(result: JobResult) -> list[str]:
    return re.findall(r"moec: error.*", result.output)


@pytest.mark.mpi
@both
def test_success_is_silent(mpi: Mpi) -> None:
    result = fail("success", mpi)
    assert (result.rc, result.output) == (0, "")


@pytest.mark.mpi
@both
def test_a_bug_on_one_rank_ends_all_with_70_and_one_traceback(mpi: Mpi) -> None:
    result = fail("one_bug", mpi)
    assert result.rc == 70
    assert messages(result) == ["moec: error on rank 1: Traceback (most recent call last):"]
    assert result.output.count("ZeroDivisionError: a bug") == 1


@pytest.mark.mpi
@pytest.mark.parametrize(("mpi", "transport"), [("openmpi", "mpi"), ("mpich", "mpi"), ("openmpi", "gloo")])
def test_a_failure_on_one_rank_names_operation_and_origin(mpi: Mpi, transport: str) -> None:
    result = fail("one_failure", mpi, transport)
    assert result.rc == 87
    assert messages(result) == ["moec: error on rank 1: loss is nan"]
    assert "\n  during all_reduce of gradients\n  from tiny.moe:7\n" in result.output
    assert "Traceback" not in result.output


@pytest.mark.mpi
@both
@pytest.mark.parametrize("scenario", ["all_alike", "all_before"])
def test_a_failure_on_all_ranks_is_told_once(mpi: Mpi, scenario: str) -> None:
    """Both after the ranks have met, and before."""
    result = fail(scenario, mpi)
    assert result.rc == 1
    (message,) = messages(result)
    assert message.startswith("moec: error on all 2 ranks: no")


@pytest.mark.mpi
@both
def test_different_failures_are_told_once_each(mpi: Mpi) -> None:
    result = fail("all_but_one_alike", mpi, world=3)
    assert result.rc == 1
    assert sorted(messages(result)) == ["moec: error on rank 1: other", "moec: error on ranks 0, 2: alike"]


@pytest.mark.mpi
@both
def test_a_rank_that_fails_before_the_others_meet_it_ends_them(mpi: Mpi) -> None:
    result = fail("one_before", mpi)
    assert result.rc == 1
    assert messages(result) == ["moec: error on rank 1: no such file on this machine"]


@pytest.mark.mpi
@both
@pytest.mark.parametrize(("scenario", "rc"), [("one_code", 75), ("one_exit", 3)])
def test_a_rank_that_leaves_with_a_code_ends_the_others_with_it(mpi: Mpi, scenario: str, rc: int) -> None:
    result = fail(scenario, mpi)
    assert result.rc == rc
    assert messages(result) == [f"moec: error on rank 1: left with exit code {rc}"]


@pytest.mark.mpi
@both
def test_a_code_that_all_ranks_leave_with_is_no_error(mpi: Mpi) -> None:
    result = fail("all_codes", mpi)
    assert result.rc == 75
    assert not messages(result)


@pytest.mark.mpi
@both
def test_a_thread_can_end_the_job_while_all_ranks_hang(mpi: Mpi) -> None:
    assert fail("abort_from_a_thread", mpi).rc == 86


@pytest.mark.mpi
def test_gloo_gives_up_on_a_stalled_peer_and_names_the_collective() -> None:
    result = fail("one_stalls", "openmpi", "gloo")
    assert result.rc == 88
    (message,) = messages(result)
    assert message.startswith("moec: error on rank 0: all_reduce: ")
    assert "Timed out" in message


@pytest.mark.mpi
@pytest.mark.parametrize(("launcher", "library"), [("openmpi", "MPICH"), ("mpich", "Open MPI")])
def test_the_mpirun_of_another_mpi_is_found_out_once_and_by_name(launcher: Mpi, library: str) -> None:
    foreign = interpreter("mpich" if launcher == "openmpi" else "openmpi")
    line, environment = command(2, [foreign, str(FAILING), "success", "mpi"], interpreter(launcher))
    result = run(line, environment, timeout_s=60)
    assert result.rc == 78, result.output
    (message,) = messages(result)
    assert message.startswith("moec: error on all 2 ranks: ")
    assert library in message
    assert str(Path(interpreter(launcher)).parent) in message  # the launcher's path
    assert "mpirun of the MPI that mpi4py uses" in message


def test_messages_cannot_steer_the_terminal() -> None:
    assert describe(InputOutputError("no file \x1b[31mred\r\nhere")) == "no file ?[31mred?\nhere"


def test_exit_codes_are_those_of_the_error() -> None:
    assert exit_code_of(NumericalError("nan")) == 87
    assert exit_code_of(FileNotFoundError("x")) == 74
    assert exit_code_of(KeyboardInterrupt()) == 130
    assert exit_code_of(ZeroDivisionError()) == 70


def test_an_environment_that_cannot_be_read_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "first")
    assert run_rank(lambda: discover().rank) == 78
    assert "OMPI_COMM_WORLD_RANK is 'first'" in capsys.readouterr().err


def test_alone_a_failure_is_told_without_a_rank(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise NumericalError("loss is nan", origin="tiny.moe:7")

    assert run_rank(main) == 87
    assert capsys.readouterr().err == "moec: error: loss is nan\n  from tiny.moe:7\n"
