"""run, verify, batches: what ranks do, and starting them on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from moec import models
from moec.cli.compiling import compile_to
from moec.cli.language import AsJson, Overrides
from moec.runtime.errors import EnvironmentMismatch, UserError

Target = Annotated[
    str,
    typer.Argument(metavar="BUNDLE|SPEC", help="A bundle; or a .moe file or shipped model, compiled first."),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Text file, folder, .jsonl[:field], Megatron .bin/.idx, or builtin:python-docs.",
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
Processes = Annotated[
    int | None, typer.Option("-n", "--processes", min=1, help="Start this many ranks here, through mpirun.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(run)
    app.command()(verify)
    app.command()(batches)


def run(
    target: Target,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Default: runs/<name>. An earlier run there moves to DIR/previous-<time it started>.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Stop after this many steps.")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init", metavar="DIR|hf:DIR", help="Start from moec's weights, or a published checkpoint."
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    end_of_document: EndOfDocument = None,
    transport: Transport = None,
    processes: Processes = None,
    overrides: Overrides = None,
    resume: Resume = False,
    strict_resume: StrictResume = False,
) -> int:
    """Train. Under mpirun this is one rank; with -n, or from a spec, it starts the ranks itself."""
    if strict_resume and not resume:
        raise typer.BadParameter("--strict-resume goes with --resume")
    out = out or Path("runs") / _name(target)

    def train(bundle: Path) -> int:
        from moec.runtime.run import RunOptions, run_training

        return run_training(
            RunOptions(
                bundle,
                data,
                out,
                steps,
                init,
                tokenizer,
                transport,
                end_of_document,
                resume=resume,
                strict_resume=strict_resume,
            )
        )

    if not _launched():
        _check_paths(data, out, init, tokenizer, end_of_document)
    arguments = ["--data", data, "--out", str(out)]
    for option, value in (
        ("--steps", steps),
        ("--init", init),
        ("--tokenizer", tokenizer),
        ("--end-of-document", end_of_document),
    ):
        arguments += [option, str(value)] if value is not None else []
    arguments += [
        option for option, given in (("--resume", resume), ("--strict-resume", strict_resume)) if given
    ]
    ranks = _Ranks("run", arguments, processes, transport)
    code = ranks.carry_out(train, target, overrides, out)
    if code and not _launched():
        _record_end(out, code)
    return code


def verify(
    target: Target,
    transport: Transport = None,
    processes: Processes = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> int:
    """Compare the ranks of this plan, on a small model of the same kind, with one rank, in float64."""
    import tempfile

    def compare(bundle: Path) -> int:
        from moec.cli.verifying import verify_ranks

        return verify_ranks(bundle, transport, as_json)

    ranks = _Ranks("verify", ["--json"] if as_json else [], processes, transport)
    with tempfile.TemporaryDirectory(prefix="moec-verify-") as scratch:
        return ranks.carry_out(compare, target, overrides, Path(scratch))


def batches(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    data: Data,
    steps: Annotated[int, typer.Option("--steps", min=1, help="How many steps, from the first.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="A .safetensors file.")],
    tokenizer: Tokenizer = None,
    end_of_document: EndOfDocument = None,
) -> int:
    """Write the exact tokens of the first steps: `tokens`, `targets`, int64 (steps, sequences, length)."""
    from moec.runtime.abi.bundle import read_manifest
    from moec.runtime.data.export import write_batches
    from moec.runtime.data.source import open_stream
    from moec.runtime.data.tokenizer import open_tokenizer
    from moec.runtime.schedule import steps_to_do

    manifest = read_manifest(bundle)
    training = manifest.training
    if training.steps is not None:
        steps_to_do(steps, training.steps)
    write_batches(
        out,
        open_stream(data, open_tokenizer(tokenizer, end_of_document), manifest.vocab),
        sequence=training.sequence,
        batch_sequences=training.batch_sequences,
        seed=training.seed,
        epochs=training.epochs,
        steps=steps,
    )
    print(f"written to {out}")
    return 0


def _name(target: str) -> str:
    return Path(target).name.removesuffix(".moe")


def _check_paths(
    data: str, out: Path, init: str | None, tokenizer: str | None, end_of_document: str | None
) -> None:
    """Refuse a slip in a path before anything is compiled or started; ranks look closer."""
    from moec.runtime.data.source import check_exists
    from moec.runtime.data.tokenizer import open_tokenizer

    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: a folder is expected")
    check_exists(data)
    open_tokenizer(tokenizer, end_of_document)
    if init is not None and not Path(init.removeprefix("hf:")).is_dir():
        raise UserError(f"--init {init}: there is no such folder")


def _record_end(out: Path, code: int) -> None:
    """Give a run that was killed, and could say nothing itself, its verdict."""
    from moec.runtime.record.recorder import STATUS
    from moec.runtime.record.status import mark_failed

    mark_failed(out / STATUS, code, f"the ranks ended with exit code {code}, and said no more")


def _launched() -> bool:
    """Whether a launcher started this process as a rank."""
    from moec.runtime.launch import discover

    return discover().kind != "single"


def _as_rank(main: Callable[[], int]) -> int:
    from moec.runtime.guard import run_rank

    return run_rank(main)


def _is_bundle(target: str) -> bool:
    """Whether a path is meant for a bundle: a folder, unless a shipped model has its name."""
    path = Path(target)
    return (path / "manifest.json").is_file() or (path.is_dir() and models.read(target) is None)


@dataclass(frozen=True)
class _Ranks:
    """A command that ranks do: its name and `arguments` for a rank beside the bundle, and what -n says."""

    command: str
    arguments: list[str]
    processes: int | None
    transport: str | None

    def carry_out(
        self, work: Callable[[Path], int], target: str, overrides: list[str] | None, folder: Path
    ) -> int:
        """Do `work` on a bundle: as a rank of a job that was launched, on ranks started here, or alone.

        `target` is the bundle, or a spec that is compiled into `folder` first.
        """
        if _launched():
            return _as_rank(lambda: work(self._launched_bundle(target, overrides)))
        bundle = self._compiled(target, overrides, folder)
        ranks = self._ranks_to_start(bundle, compiled_here=bundle != Path(target))
        return _as_rank(lambda: work(bundle)) if ranks is None else self._start(ranks, bundle)

    def _launched_bundle(self, target: str, overrides: list[str] | None) -> Path:
        """The bundle of a rank that a launcher started: it can only be there already."""
        if self.processes is not None:
            raise UserError("-n starts ranks, and these are started already: leave it out under mpirun")
        if not _is_bundle(target):
            raise UserError(
                f"under mpirun, give a bundle: `moec compile {target} -o BUNDLE` makes one; "
                f"or let `moec {self.command} {target} -n N` start the ranks"
            )
        _refuse_overrides(overrides)
        return Path(target)

    def _compiled(self, target: str, overrides: list[str] | None, folder: Path) -> Path:
        if _is_bundle(target):
            _refuse_overrides(overrides)
            return Path(target)
        print(compile_to(target, folder / "bundle", overrides, self.processes), file=sys.stderr)
        return folder / "bundle"

    def _ranks_to_start(self, bundle: Path, compiled_here: bool) -> int | None:
        """How many to start; a bundle for several waits for its mpirun, or for -n."""
        from moec.runtime.abi.bundle import read_manifest

        world = read_manifest(bundle).world
        if self.processes not in (None, world):
            raise EnvironmentMismatch(
                f"{bundle} is for {world} rank{'s' * (world > 1)} and -n asks for {self.processes}: "
                f"give -n {world}, or compile again for {self.processes}"
            )
        if world > 1 and self.processes is None and not compiled_here:
            raise EnvironmentMismatch(
                f"{bundle} is for {world} ranks: start them with `mpirun -n {world} moec {self.command} "
                f"{bundle} ...`, or on this machine with -n {world}"
            )
        return world if world > 1 else None

    def _start(self, ranks: int, bundle: Path) -> int:
        """Run `moec` on ranks of this machine."""
        from moec.runtime.mpirun import start

        if sys.stdout.isatty():  # ranks write into a pipe: tell rank 0 that somebody watches
            os.environ.setdefault("MOEC_TERMINAL", "1")
            os.environ.setdefault("COLUMNS", str(os.get_terminal_size().columns))
        chosen = ["--transport", self.transport] if self.transport else []
        command = [sys.executable, "-m", "moec", self.command, str(bundle), *self.arguments, *chosen]
        return start(ranks, command)


def _refuse_overrides(overrides: list[str] | None) -> None:
    if overrides:
        raise UserError("--set changes a spec: this is a bundle, which is compiled already")
