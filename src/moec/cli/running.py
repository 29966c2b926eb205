"""run, verify: what ranks do, and starting them on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moec.cli.ending import verdict_of_ranks
from moec.cli.language import AsJson, Overrides
from moec.cli.ranks import Ranks, launched
from moec.cli.replanning import replanned_in
from moec.cli.run_options import (
    Data,
    Elastic,
    EndOfDocument,
    FaultInjection,
    InitFrom,
    PeakFlops,
    Processes,
    Profile,
    Resume,
    StrictResume,
    Target,
    Timeout,
    Tokenizer,
    Trackers,
    Transport,
    Validation,
    repeated,
)
from moec.runtime.errors import UserError


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(run)
    app.command()(verify)


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
    init_from: InitFrom = "all",
    tokenizer: Tokenizer = None,
    end_of_document: EndOfDocument = None,
    transport: Transport = None,
    processes: Processes = None,
    overrides: Overrides = None,
    resume: Resume = False,
    strict_resume: StrictResume = False,
    validation: Validation = None,
    timeout: Timeout = None,
    enable_fault_injection: FaultInjection = False,
    profile: Profile = None,
    tracker: Trackers = None,
    peak_flops: PeakFlops = None,
    elastic: Elastic = False,
) -> int:
    """Train. Under mpirun this is one rank; with -n, or from a spec, it starts the ranks itself."""
    from moec.runtime.observe_options import parse_observing

    if strict_resume and not resume:
        raise typer.BadParameter("--strict-resume goes with --resume")
    out = out or Path("runs") / _name(target)

    observing = parse_observing(profile, tuple(tracker or ()), peak_flops)

    def train(bundle: Path) -> int:
        from moec.runtime.run import RunOptions, run_training
        from moec.runtime.watchdog.limits import Limits, parse_limits

        return run_training(
            RunOptions(
                bundle,
                tuple(data),
                out,
                steps,
                init,
                tokenizer,
                transport,
                end_of_document,
                resume=resume,
                strict_resume=strict_resume,
                init_from=init_from,
                validation=tuple(validation or ()),
                limits=parse_limits(timeout) if timeout else Limits(),
                inject_faults=enable_fault_injection,
                observing=observing,
            ),
            replanned_in(out) if elastic else None,
        )

    if not launched():
        _check_paths(data, validation or [], out, init, tokenizer, end_of_document)
    arguments = [*repeated("--data", data), *repeated("--validation", validation), "--out", str(out)]
    arguments += repeated("--tracker", tracker)
    for option, value in (
        ("--steps", steps),
        ("--init", init),
        ("--init-from", init_from),
        ("--tokenizer", tokenizer),
        ("--end-of-document", end_of_document),
        ("--timeout", timeout),
        ("--profile", profile),
        ("--peak-flops", peak_flops),
    ):
        arguments += [option, str(value)] if value is not None else []
    flags = {
        "--resume": resume,
        "--strict-resume": strict_resume,
        "--enable-fault-injection": enable_fault_injection,
        "--elastic": elastic,
    }
    arguments += [option for option, given in flags.items() if given]
    ranks = Ranks("run", arguments, processes, transport, elastic)
    code = ranks.carry_out(train, target, overrides, out)
    return code if launched() else verdict_of_ranks(out, code, elastic)


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

    ranks = Ranks("verify", ["--json"] if as_json else [], processes, transport)
    with tempfile.TemporaryDirectory(prefix="moec-verify-") as scratch:
        return ranks.carry_out(compare, target, overrides, Path(scratch))


def _name(target: str) -> str:
    return Path(target).name.removesuffix(".moe")


def _check_paths(
    data: list[str],
    validation: list[str],
    out: Path,
    init: str | None,
    tokenizer: str | None,
    end_of_document: str | None,
) -> None:
    """Refuse a slip in a path before anything is compiled or started; ranks look closer."""
    from moec.runtime.data.source import check_data
    from moec.runtime.data.tokenizer import open_tokenizer

    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: a folder is expected")
    check_data(data, validation)
    open_tokenizer(tokenizer, end_of_document)
    if init is not None and not Path(init.removeprefix("hf:")).is_dir():
        raise UserError(f"--init {init}: there is no such folder")
