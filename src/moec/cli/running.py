"""run, verify: what ranks do, and starting them on this machine."""

from __future__ import annotations

from pathlib import Path

import typer

from moec.cli.asked import Asked
from moec.cli.ending import verdict_of_ranks
from moec.cli.language import AsJson, Overrides
from moec.cli.ranks import Ranks, launched
from moec.cli.replanning import replanned_in
from moec.cli.run_options import (
    Data,
    Elastic,
    EndOfDocument,
    FaultInjection,
    Init,
    InitFrom,
    Out,
    PeakFlops,
    Processes,
    Profile,
    Resume,
    Steps,
    StrictResume,
    Target,
    Timeout,
    Tokenizer,
    Trackers,
    Transport,
    Validation,
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(run)
    app.command()(verify)


def run(
    target: Target,
    data: Data,
    out: Out = None,
    steps: Steps = None,
    init: Init = None,
    init_from: InitFrom = None,
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
    asked = Asked(
        data,
        out or Path("runs") / _name(target),
        steps,
        init,
        init_from,
        tokenizer,
        end_of_document,
        transport,
        resume,
        strict_resume,
        validation or [],
        timeout,
        enable_fault_injection,
        profile,
        tracker or [],
        peak_flops,
        elastic,
    )
    return _run(asked, target, processes, overrides)


def _run(asked: Asked, target: str, processes: int | None, overrides: list[str] | None) -> int:
    def train(bundle: Path) -> int:
        from moec.runtime.run import run_training

        return run_training(asked.options(bundle), replanned_in(asked.out) if asked.elastic else None)

    asked.check()
    if not launched():
        asked.check_paths()
    ranks = Ranks("run", asked.words(), processes, asked.transport, asked.elastic)
    code = ranks.carry_out(train, target, overrides, asked.out)
    return code if launched() else verdict_of_ranks(asked.out, code, asked.elastic)


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
