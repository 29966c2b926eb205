"""batches, tokenize: the data of runs, as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moec.cli.run_options import Data, EndOfDocument, Tokenizer

if TYPE_CHECKING:
    from moec.runtime.data.tokenizing import Progress


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(batches)
    app.command()(tokenize)


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
    from moec.runtime.data.given import parse_data
    from moec.runtime.data.source import open_sources
    from moec.runtime.data.tokenizer import open_tokenizer
    from moec.runtime.schedule import steps_to_do

    manifest = read_manifest(bundle)
    training = manifest.training
    if training.steps is not None:
        steps_to_do(steps, training.steps)
    write_batches(
        out,
        open_sources(parse_data(data), open_tokenizer(tokenizer, end_of_document), manifest.vocab),
        sequence=training.sequence,
        batch_sequences=training.batch_sequences,
        seed=training.seed,
        epochs=training.epochs,
        steps=steps,
        separate_documents=training.documents == "separate",
    )
    print(f"written to {out}")
    return 0


def tokenize(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...", help="What --data of `moec run` takes, one after the other, but no .bin/.idx."
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="PREFIX", help="Gets PREFIX.bin and PREFIX.idx.")
    ],
    tokenizer: Tokenizer = None,
    end_of_document: EndOfDocument = None,
    processes: Annotated[
        int | None,
        typer.Option("-j", "--processes", min=1, max=1024, help="Default: as many as there are cores."),
    ] = None,
) -> int:
    """Turn text into token ids ahead of a run, which then reads them from disk."""
    from moec.runtime.data.tokenizing import TokenizeOptions, check_text, tokenize_to

    options = TokenizeOptions(tuple(data), tokenizer, end_of_document, processes)
    with _bar(check_text(data)) as show:
        done = tokenize_to(out, options, show)
    print(f"{done.documents:,} documents, {done.tokens:,} tokens: written to {out}.bin and {out}.idx")
    return 0


@contextmanager
def _bar(total_bytes: int) -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error, if that is a terminal: bytes read of all, documents and tokens."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    counts = TextColumn("{task.fields[documents]:,} documents  {task.fields[tokens]:,} tokens")
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), counts, TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total_bytes, documents=0, tokens=0)
        yield lambda p: bar.update(task, completed=p.read_bytes, documents=p.documents, tokens=p.tokens)
