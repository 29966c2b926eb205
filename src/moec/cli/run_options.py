"""Options that several commands share: data, and how ranks are started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DATA_HELP = (
    "PATH or WEIGHT*PATH, several times for a mixture: text file, folder, .jsonl[:field], "
    ".parquet[:column], Megatron .bin/.idx, or builtin:python-docs."
)

Data = Annotated[list[str], typer.Option("--data", metavar="[WEIGHT*]PATH", help=DATA_HELP)]
Validation = Annotated[
    list[str] | None,
    typer.Option(
        "--validation",
        metavar="PATH",
        help="Held-out data, evaluated as `train.validation` says; several times for several sets.",
    ),
]
Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", metavar="PATH", help="A tokenizer.json; bytes without it.")
]
EndOfDocument = Annotated[
    str | None,
    typer.Option(
        "--end-of-document",
        metavar="TOKEN",
        help="The tokenizer's token between documents, as text or id. Default: <|endoftext|> and the like.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Default: runs/<name>. An earlier run there moves to DIR/previous-<time it started>.",
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Stop after this many steps.")]
Init = Annotated[
    str | None,
    typer.Option(
        "--init", metavar="DIR|hf:DIR", help="Start from moec's weights, or a published checkpoint."
    ),
]
Target = Annotated[
    str,
    typer.Argument(metavar="BUNDLE|SPEC", help="A bundle; or a .moe file or shipped model, compiled first."),
]
Transport = Annotated[
    Literal["self", "mpi", "gloo", "nccl"] | None,
    typer.Option("--transport", help="What carries data between ranks. Default: mpi, or self for one rank."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on from the newest whole checkpoint in DIR, if there is any."),
]
StrictResume = Annotated[
    bool, typer.Option("--strict-resume", help="With --resume: stop (76) if the newest is damaged.")
]
InitFrom = Annotated[
    Literal["all", "rank0"] | None,
    typer.Option(
        "--init-from",
        help="Who reads --init: every rank, or rank 0 alone, which sends to each what is its own.",
    ),
]
Processes = Annotated[
    int | None, typer.Option("-n", "--processes", min=1, help="Start this many ranks here, through mpirun.")
]
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="S",
        help="Seconds without progress after which a run ends with 86; or step=S,setup=S,checkpoint=S. "
        "Default: step=600,setup=1800,checkpoint=1800.",
    ),
]
Elastic = Annotated[
    bool,
    typer.Option(
        "--elastic",
        help="Go on without ranks that are lost, from the newest checkpoint (Open MPI with ULFM).",
    ),
]
FaultInjection = Annotated[
    bool,
    typer.Option("--enable-fault-injection", help="Let the faults happen that MOEC_FAULT names."),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="FIRST..LAST",
        help="Trace these steps, numbered from 0, into DIR/profile/trace.json, for Perfetto.",
    ),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="NAME[:ARG]",
        help="Tell a tracker of the run: tensorboard[:FOLDER], or one of a package. Several times.",
    ),
]
PeakFlops = Annotated[
    float | None,
    typer.Option(
        "--peak-flops",
        metavar="N",
        help="What the device of a rank can do, in operations a second. Default: measured, on a CPU.",
    ),
]


def repeated(option: str, values: list[str] | None) -> list[str]:
    """An option with each of its values, for the command line of a rank."""
    return [word for value in values or () for word in (option, value)]
