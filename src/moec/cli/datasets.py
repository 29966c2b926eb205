"""batches, tokenize: the data of runs, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moec.cli.run_options import Data, EndOfDocument, Tokenizer


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
    from moec.runtime.record.live import reading_bar

    options = TokenizeOptions(tuple(data), tokenizer, end_of_document, processes)
    with reading_bar(check_text(data)) as show:
        done = tokenize_to(out, options, lambda p: show(p.read_bytes, documents=p.documents, tokens=p.tokens))
    print(f"{done.documents:,} documents, {done.tokens:,} tokens: written to {out}.bin and {out}.idx")
    return 0
