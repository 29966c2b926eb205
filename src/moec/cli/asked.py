"""What a command line asks of `moec run`: checked here, carried out here or by ranks that are started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from moec.cli.run_options import repeated
from moec.runtime.errors import UserError

if TYPE_CHECKING:
    from moec.runtime.observe_options import Observing
    from moec.runtime.run import RunOptions


@dataclass(frozen=True)
class Asked:
    """The options of `moec run`, as they were given."""

    data: list[str]
    out: Path
    steps: int | None
    init: str | None
    init_from: Literal["all", "rank0"] | None
    tokenizer: str | None
    end_of_document: str | None
    transport: str | None
    resume: bool
    strict_resume: bool
    validation: list[str]
    timeout: str | None
    faults: bool
    profile: str | None
    trackers: list[str]
    peak_flops: float | None
    elastic: bool

    def check(self) -> None:
        """Refuse what does not go together."""
        if self.strict_resume and not self.resume:
            raise typer.BadParameter("--strict-resume goes with --resume")
        if self.init_from is not None and self.init is None:
            raise typer.BadParameter("--init-from goes with --init")
        self.observing()

    def check_paths(self) -> None:
        """Refuse a slip in a path before anything is compiled or started; ranks look closer."""
        from moec.runtime.data.source import check_data
        from moec.runtime.data.tokenizer import open_tokenizer
        from moec.runtime.record.claim import check_free

        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: a folder is expected")
        check_data(self.data, self.validation)
        open_tokenizer(self.tokenizer, self.end_of_document)
        if self.init is not None and not Path(self.init.removeprefix("hf:")).is_dir():
            raise UserError(f"--init {self.init}: there is no such folder")
        check_free(self.out)

    def observing(self) -> Observing:
        """What is looked at in the run."""
        from moec.runtime.observe_options import parse_observing

        return parse_observing(self.profile, tuple(self.trackers), self.peak_flops)

    def options(self, bundle: Path) -> RunOptions:
        """For a rank in this process."""
        from moec.runtime.run import RunOptions
        from moec.runtime.watchdog.limits import Limits, parse_limits

        return RunOptions(
            bundle,
            tuple(self.data),
            self.out,
            self.steps,
            self.init,
            self.tokenizer,
            self.transport,
            self.end_of_document,
            resume=self.resume,
            strict_resume=self.strict_resume,
            init_from=self.init_from or "all",
            validation=tuple(self.validation),
            limits=parse_limits(self.timeout) if self.timeout else Limits(),
            inject_faults=self.faults,
            observing=self.observing(),
        )

    def words(self) -> list[str]:
        """The same for the command line of a rank that is started."""
        found = [*repeated("--data", self.data), *repeated("--validation", self.validation)]
        found += ["--out", str(self.out), *repeated("--tracker", self.trackers)]
        for option, value in (
            ("--steps", self.steps),
            ("--init", self.init),
            ("--init-from", self.init_from),
            ("--tokenizer", self.tokenizer),
            ("--end-of-document", self.end_of_document),
            ("--timeout", self.timeout),
            ("--profile", self.profile),
            ("--peak-flops", self.peak_flops),
        ):
            found += [option, str(value)] if value is not None else []
        flags = {
            "--resume": self.resume,
            "--strict-resume": self.strict_resume,
            "--enable-fault-injection": self.faults,
            "--elastic": self.elastic,
        }
        return found + [option for option, given in flags.items() if given]
