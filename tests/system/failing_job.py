"""A rank of `moec` that fails as it is told: `failing_job.py SCENARIO ARGUMENT...`; for `test_failing_ranks`.

Every `RANK` in the arguments becomes the rank's number.
"""

from __future__ import annotations

import sys
from typing import Any

from moec.cli.main import run
from moec.runtime.abi.instructions import INSTRUCTIONS
from moec.runtime.errors import InputOutputError
from moec.runtime.launch import discover
from moec.runtime.training import StepResult, Trainer

STEP = 3  # the step in which ranks fail
BAD = 1  # the rank that fails, where one does
OPERATION = "moec.expert_mm"

_step = Trainer.step


def one_fails(trainer: Trainer, step: int) -> StepResult:
    if step == STEP and discover().rank == BAD:
        raise InputOutputError("the disk is gone", operation="step", origin="tiny.moe:12")
    return _step(trainer, step)


def all_fail(trainer: Trainer, step: int) -> StepResult:
    if step == STEP:
        raise InputOutputError("the disk is gone")
    return _step(trainer, step)


def break_operation() -> None:
    """On one rank an operation breaks down; others wait for this rank in the collective that follows."""
    works = INSTRUCTIONS[OPERATION]
    calls = 0

    def breaks(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 6 * STEP:
            raise RuntimeError("no memory is left")
        return works(*arguments)

    INSTRUCTIONS[OPERATION] = breaks


def main() -> int:
    scenario, *arguments = sys.argv[1:]
    rank = discover().rank
    if scenario == "one fails":
        Trainer.step = one_fails  # type: ignore[method-assign,assignment]
    elif scenario == "all fail":
        Trainer.step = all_fail  # type: ignore[method-assign,assignment]
    elif scenario == "an operation fails" and rank == BAD:
        break_operation()
    return run([argument.replace("RANK", str(rank)) for argument in arguments])


if __name__ == "__main__":
    sys.exit(main())
