"""run, verify, batches: what ranks do, and starting them on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from moec.cli.compiling import compile_to
from moec.cli.language import Overrides

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
Transport = Annotated[
    str | None,
    typer.Option("--transport", help="self, mpi, gloo or nccl. Default: mpi, or self for one rank."),
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
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: runs/<name>.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Stop after this many steps.")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init", metavar="DIR|hf:DIR", help="Start from moec's weights, or a published checkpoint."
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    transport: Transport = None,
    processes: Processes = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Not supported yet.")] = False,
) -> int:
    """Train. Under mpirun this is one rank; with -n, or from a spec, it starts the ranks itself."""
    if resume:
        raise typer.BadParameter(
            "--resume is not supported yet: a run saves its weights at the end, and no state"
        )
    out = out or Path("runs") / _name(target)
    bundle = _bundle(target, out, overrides, processes)
    world = _world(bundle)
    if _must_start_ranks(target, processes, world):
        arguments = ["run", str(bundle), "--data", data, "--out", str(out)]
        for option, value in (("--steps", steps), ("--init", init), ("--tokenizer", tokenizer)):
            arguments += [option, str(value)] if value is not None else []
        return _start(processes or world, arguments, transport)
    from moec.runtime.guard import run_rank
    from moec.runtime.run import RunOptions, run_training

    options = RunOptions(bundle, data, out, steps, init, tokenizer, transport)
    return run_rank(lambda: run_training(options))


def verify(
    target: Target,
    transport: Transport = None,
    processes: Processes = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Compare the ranks of this plan, on a small model of the same kind, with one rank, in float64."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="moec-verify-") as scratch:
        bundle = _bundle(target, Path(scratch), overrides, processes)
        world = _world(bundle)
        if _must_start_ranks(target, processes, world):
            return _start(
                processes or world, ["verify", str(bundle), *(["--json"] if as_json else [])], transport
            )
        from moec.cli.verifying import verify_ranks
        from moec.runtime.guard import run_rank

        return run_rank(lambda: verify_ranks(bundle, transport, as_json))


def batches(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    data: Data,
    steps: Annotated[int, typer.Option("--steps", min=1, help="How many steps, from the first.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="A .safetensors file.")],
    tokenizer: Tokenizer = None,
) -> int:
    """Write the exact tokens of the first steps: `tokens`, `targets`, int64 (steps, sequences, length)."""
    from moec.runtime.abi.bundle import read_manifest
    from moec.runtime.data.export import write_batches
    from moec.runtime.data.source import open_stream
    from moec.runtime.data.tokenizer import open_tokenizer

    manifest = read_manifest(bundle)
    training = manifest.training
    write_batches(
        out,
        open_stream(data, open_tokenizer(tokenizer), manifest.vocab),
        sequence=training.sequence,
        batch_sequences=training.batch_sequences,
        seed=training.seed,
        epochs=training.epochs,
        steps=steps,
    )
    return 0


def _name(target: str) -> str:
    return Path(target).name.removesuffix(".moe")


def _bundle(target: str, out: Path, overrides: list[str] | None, processes: int | None) -> Path:
    """The bundle to run: `target` itself, or what it compiles to, in `out`."""
    if (Path(target) / "manifest.json").is_file() or (Path(target).is_dir() and not overrides):
        if overrides:
            raise typer.BadParameter("--set changes a spec: this is a bundle, which is compiled already")
        return Path(target)
    if _launched():
        raise typer.BadParameter(
            "under mpirun, give a bundle: run `moec compile` first, or start `moec run SPEC -n N`"
        )
    print(compile_to(target, out / "bundle", overrides, processes))
    return out / "bundle"


def _world(bundle: Path) -> int:
    from moec.runtime.abi.bundle import read_manifest

    return read_manifest(bundle).world


def _launched() -> bool:
    """Whether a launcher started this process as a rank."""
    from moec.runtime.launch import discover

    return discover().kind != "single"


def _must_start_ranks(target: str, processes: int | None, world: int) -> bool:
    """Ranks are started for -n, and for a spec that wants more than one; a bundle waits for its mpirun."""
    if _launched():
        return False
    if processes is not None:
        return processes > 1 or world > 1
    return world > 1 and not (Path(target) / "manifest.json").is_file()


def _start(ranks: int, arguments: list[str], transport: str | None) -> int:
    """Run `moec` with these arguments on ranks of this machine."""
    from moec.runtime.mpirun import start

    if sys.stdout.isatty():  # ranks write into a pipe: tell rank 0 that somebody watches
        os.environ.setdefault("MOEC_TERMINAL", "1")
        os.environ.setdefault("COLUMNS", str(os.get_terminal_size().columns))
    chosen = ["--transport", transport] if transport else []
    return start(ranks, [sys.executable, "-m", "moec", *arguments, *chosen])
