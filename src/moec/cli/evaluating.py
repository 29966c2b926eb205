"""eval: the loss of a model on data."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from moec.cli.language import AsJson, Overrides
from moec.cli.ranks import Ranks, launched
from moec.cli.run_options import Data, EndOfDocument, Processes, Tokenizer, Transport, repeated
from moec.runtime.errors import UserError

MODEL, WEIGHTS = "model.moe", "weights"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(name="eval")(evaluate)


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|DIR|BUNDLE|SPEC", help="A run, what `moec import` made, a bundle, or a .moe file."
        ),
    ],
    data: Data,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="DIR|hf:DIR", help="Default: those of the run, or beside model.moe."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="DIR|RUN", help="A checkpoint instead of weights; of a run, its newest."
        ),
    ] = None,
    batches: Annotated[
        int | None, typer.Option("--batches", min=1, help="No more than so many batches. Default: all data.")
    ] = None,
    tokenizer: Tokenizer = None,
    end_of_document: EndOfDocument = None,
    transport: Transport = None,
    processes: Processes = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> int:
    """Loss, perplexity and load of experts on data, with no update. Under mpirun this is one rank."""
    if weights is not None and checkpoint is not None:
        raise typer.BadParameter("--weights and --checkpoint: the parameters are in one of them")
    if not launched():
        _check_paths(data, tokenizer, end_of_document)
        target, weights, checkpoint = _found(target, weights, checkpoint)

    def work(bundle: Path) -> int:
        from moec.runtime.evaluate_run import EvaluateOptions, run_evaluation
        from moec.runtime.feeding import DataOptions

        of_data = DataOptions(tuple(data), tokenizer, end_of_document)
        return run_evaluation(
            EvaluateOptions(bundle, of_data, weights, checkpoint, batches, transport, as_json)
        )

    arguments = repeated("--data", data) + (["--json"] if as_json else [])
    for option, value in (
        ("--weights", weights),
        ("--checkpoint", checkpoint),
        ("--batches", batches),
        ("--tokenizer", tokenizer),
        ("--end-of-document", end_of_document),
    ):
        arguments += [option, str(value)] if value is not None else []
    with tempfile.TemporaryDirectory(prefix="moec-eval-") as scratch:
        ranks = Ranks("eval", arguments, processes, transport)
        return ranks.carry_out(work, target, overrides, Path(scratch))


def _check_paths(data: list[str], tokenizer: str | None, end_of_document: str | None) -> None:
    from moec.runtime.data.source import check_data
    from moec.runtime.data.tokenizer import open_tokenizer

    check_data(data)
    open_tokenizer(tokenizer, end_of_document)


def _found(target: str, weights: str | None, checkpoint: Path | None) -> tuple[str, str | None, Path | None]:
    """What is compiled or loaded, and where parameters are: in a run, its weights or newest checkpoint."""
    folder = Path(target)
    of_model = folder / MODEL
    if not of_model.is_file() or (folder / "manifest.json").is_file():
        if weights is None and checkpoint is None:
            raise UserError(
                f"{target} has no parameters: give --weights or --checkpoint, or name a run or an import"
            )
        return target, weights, checkpoint
    if weights is None and checkpoint is None:
        weights, checkpoint = _of_run(folder)
    return str(of_model), weights, checkpoint


def _of_run(run: Path) -> tuple[str | None, Path | None]:
    from moec.runtime.record.recorder import CHECKPOINTS, STATUS
    from moec.runtime.record.status import read_status

    state = read_status(run / STATUS).state if (run / STATUS).is_file() else "complete"
    if state == "complete" and (run / WEIGHTS).is_dir():
        return str(run / WEIGHTS), None
    if (run / CHECKPOINTS).is_dir():
        return None, run
    raise UserError(f"{run} has no weights and no checkpoint: by its {STATUS} it is {state}")
