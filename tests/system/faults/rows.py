"""The fault matrix: what is made to go wrong, what the user is to see, and what a resumed run comes to."""

from __future__ import annotations

from mpi_job import Mpi

from .play import DAMAGES, STALL_S, Row

ENDS_S = STALL_S + 30.0  # for a stall


def both(code: int) -> dict[Mpi, int]:
    """One exit code, whatever the MPI."""
    return {"openmpi": code, "mpich": code}


def killed(number: int) -> dict[Mpi, int]:
    """What the launchers make of a rank that a signal ended."""
    return {"openmpi": 128 + number, "mpich": number}


POINTS = ("write", "before_manifest", "before_rename", "before_latest", "before_prune")

INSIDE = (
    Row("1", "exception on one rank", both(70), r"error on rank 1: .*Injected", fault="raise@rank=1,step=5"),
    Row("2", "exception on all ranks", both(70), r"error on all 2 ranks: ", fault="raise@step=5"),
    Row(
        "3", "`kill -9` of a rank", killed(9), r"rank 1 is gone", verdict=88,
        fault="kill@rank=1,step=5",
    ),
    Row(
        "3", "`kill -9` of a rank, gloo", killed(9), r"rank 1 is gone", verdict=88,
        fault="kill@rank=1,step=5", transport="gloo",
    ),
    *(
        Row(
            "4" if point == "write" else "5", f"`kill -9` of rank 0 at `checkpoint.{point}`", killed(9),
            r"rank 0 is gone", verdict=88, fault=f"kill@rank=0,step=5,point=checkpoint.{point}",
        )
        for point in POINTS
    ),
    Row(
        "6", "rank stopped (SIGSTOP)", both(86),
        r"no progress for \d+ s; no sign of life from rank 1\n  rank 0: step 5, .*all_reduce over data",
        fault="stop@rank=1,step=5", within_s=ENDS_S,
    ),
    Row(
        "6", "rank stopped (SIGSTOP), gloo", both(86),
        r"no progress for \d+ s; no sign of life from rank 1\n  rank 0: step 5, .*all_reduce over data",
        fault="stop@rank=1,step=5", transport="gloo", within_s=ENDS_S,
    ),
    Row(
        "7", "rank leaves by `sys.exit(0)`", both(70),
        r"error on rank 1: left with exit code 0 before its work was done", fault="exit0@rank=1,step=5",
    ),
    Row(
        "8", "rank leaves by `os._exit(0)`", {"openmpi": 1, "mpich": 0}, r"rank 1 is gone", verdict=88,
        fault="_exit0@rank=1,step=5",
    ),
    Row(
        "9", "rank skips a collective", both(86),
        r"rank 0: step 5, step: .*all_reduce over data \(tiny\.moe:\d+\)\n"
        r"  rank 1: step 5, step > micro_batch: ",
        fault="skip_collective@rank=1,step=5", within_s=ENDS_S,
    ),
    Row(
        "10", "rank holds the interpreter's lock", both(86),
        r"no sign of life from rank 1\n  rank 0: step 5, ", fault="gil@rank=1,step=5", within_s=ENDS_S,
    ),
    Row(
        "11", "segmentation fault", killed(11), r"Fatal Python error: Segmentation fault", verdict=88,
        fault="segfault@rank=1,step=5",
    ),
    Row(
        "12", "no memory", both(71),
        r"error on rank 1: there is no memory for 268\.4 MB: .*\n  during step: .*all_reduce",
        fault="oom@rank=1,step=5",
    ),
    Row(
        "13", "disk full while saving", both(74), r"cannot|File too large",
        fault="disk_full@rank=1,step=5,point=checkpoint.write",
    ),
    Row(
        "18", "NaN in the gradient of an expert, `stop`", both(87),
        r"error on all 2 ranks: grad_norm is nan in step 5\n"
        r"  not finite: gradients of layers\.0\.experts\.expert\.4\.gate \(tiny\.moe:\d+\) on rank 1",
        fault="nan@rank=1,step=5,at=layers.0/expert_matrices",
    ),
    Row(
        "18", "infinite gradient, `skip(most: 2)`, twice", both(0),
        r"grad_norm is inf in step 6: the step is skipped \(2 of at most 2\)", state="complete", verdict=0,
        fault="inf@rank=0,step=5,times=2", sets=("train.nonfinite=skip(most: 2)",), resumes=False,
        within_s=60.0,
    ),
    Row(
        "18", "NaN three times, `skip(most: 2)`", both(87),
        r"grad_norm is nan in step 7\n.*\n  train\.nonfinite = skip\(most: 2\) allows no more",
        fault="nan@rank=1,step=5,times=3", sets=("train.nonfinite=skip(most: 2)",), resumes=False,
    ),
    Row(
        "18", "NaN, `rewind(most: 1)`", both(0),
        r"grad_norm is nan in step 5: the run goes back to step 3, and on with batch 6 \(1 of at most 1\)",
        state="complete", verdict=0, fault="nan@rank=1,step=5", sets=("train.nonfinite=rewind(most: 1)",),
        resumes=False, within_s=60.0,
    ),
    Row(
        "19", "loss spike, `rewind`", both(0), r"loss is .* in step 20, .* the run goes back to step 18",
        state="complete", verdict=0, fault="spike@step=20", resumes=False, within_s=60.0,
        sets=("train.steps=24", "train.spike=rewind(factor: 2, most: 1)"),
    ),
    Row(
        "20", "slow rank", both(0), r"warning: rank 1 is slow: \d+\.\d+ s of a step", state="complete",
        verdict=0, fault="sleep@rank=1,step=1,times=always,seconds=1.0", sets=("train.steps=24",),
        resumes=False, within_s=60.0,
    ),
    Row(
        "26", "`kill -9` of a rank, `--elastic`", both(0), r"going on with 1 of 2 ranks", state="complete",
        verdict=0, fault="kill@rank=1,step=5", arguments=("--elastic",), started=True, resumes=False,
        within_s=60.0,
    ),
)  # fmt: skip

SLOW = "sleep@rank=1,step=0,times=always,seconds=0.3"
"""A signal from outside finds the run under way, however fast the machine."""

FROM_OUTSIDE = (
    Row(
        "21", "SIGUSR1 to mpirun", both(75), r"asked to stop by SIGUSR1", state="stopped", verdict=75,
        fault=SLOW, outside="USR1",
    ),
    Row(
        "21", "SIGCONT, SIGUSR1", both(75), r"asked to stop by SIGUSR1", state="stopped", verdict=75,
        fault=SLOW, outside="CONT, USR1",
    ),
    Row(
        "22", "SIGTERM to mpirun", {"openmpi": 1, "mpich": 75},
        r"ended by SIGTERM: Open MPI's mpirun|asked to stop by SIGTERM", fault=SLOW, outside="TERM", state="",
    ),
    Row(
        "22", "SIGTERM to `moec run -n`", both(75), r"asked to stop by SIGUSR1", state="stopped", verdict=75,
        fault=SLOW, outside="TERM", started=True,
    ),
    Row(
        "24", "mpirun killed", both(-9), r"the process that started this rank is gone|", verdict=88,
        fault=SLOW, outside="KILL", state="",
    ),
    Row(
        "24", "`moec run -n` killed", both(-9), r"the process that started this rank is gone", verdict=88,
        fault=SLOW, outside="KILL", started=True,
    ),
)  # fmt: skip

DAMAGED = tuple(
    Row(
        "17" if "manifest" in damage else "15" if "byte" in damage else "16", f"checkpoint with {damage}",
        killed(9), r"rank 1 is gone", verdict=88, fault="kill@rank=1,step=8", damage=damage,
    )
    for damage in DAMAGES
)  # fmt: skip

ROWS = (*INSIDE, *FROM_OUTSIDE, *DAMAGED)
