"""Commands that ranks do: as one of them, on ranks started on this machine, or alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moec import models
from moec.cli.compiling import compile_to
from moec.runtime.errors import EnvironmentMismatch, UserError


def launched() -> bool:
    """Whether a launcher started this process as a rank."""
    from moec.runtime.launch import discover

    return discover().kind != "single"


def as_rank(main: Callable[[], int]) -> int:
    """Run `main` as one rank, whose failure is that of all; returns the exit code."""
    from moec.runtime.guard import run_rank

    return run_rank(main)


def is_bundle(target: str) -> bool:
    """Whether a path is meant for a bundle: a folder, unless a shipped model has its name."""
    path = Path(target)
    return (path / "manifest.json").is_file() or (path.is_dir() and models.read(target) is None)


@dataclass(frozen=True)
class Ranks:
    """A command that ranks do: its name and `arguments` for a rank beside the bundle, and what -n says.

    `elastic`: the job outlives a lost rank.
    """

    command: str
    arguments: list[str]
    processes: int | None
    transport: str | None
    elastic: bool = False

    def carry_out(
        self, work: Callable[[Path], int], target: str, overrides: list[str] | None, folder: Path
    ) -> int:
        """Do `work` on a bundle: as a rank of a job that was launched, on ranks started here, or alone.

        `target` is the bundle, or a spec that is compiled into `folder` first.
        """
        if launched():
            return as_rank(lambda: work(self._launched_bundle(target, overrides)))
        bundle = self._compiled(target, overrides, folder)
        ranks = self._ranks_to_start(bundle, compiled_here=bundle != Path(target))
        return as_rank(lambda: work(bundle)) if ranks is None else self._start(ranks, bundle)

    def _launched_bundle(self, target: str, overrides: list[str] | None) -> Path:
        """The bundle of a rank that a launcher started: it can only be there already."""
        if self.processes is not None:
            raise UserError("-n starts ranks, and these are started already: leave it out under mpirun")
        if not is_bundle(target):
            raise UserError(
                f"under mpirun, give a bundle: `moec compile {target} -o BUNDLE` makes one; "
                f"or let `moec {self.command} {target} -n N` start the ranks"
            )
        _refuse_overrides(overrides)
        return Path(target)

    def _compiled(self, target: str, overrides: list[str] | None, folder: Path) -> Path:
        if is_bundle(target):
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
        return start(ranks, command, saves=self.command == "run", elastic=self.elastic)


def _refuse_overrides(overrides: list[str] | None) -> None:
    if overrides:
        raise UserError("--set changes a spec: this is a bundle, which is compiled already")
