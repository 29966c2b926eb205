"""Validation during a run: the loss of held-out data, as `train.validation` asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .abi.manifest import Manifest
from .errors import UserError
from .evaluation import Evaluator
from .feeding import DataOptions, make_loader, open_data
from .job import Job
from .loop import Companion
from .state import TrainState


@dataclass(frozen=True)
class ValidationOptions:
    """The sets that the user gave, each named by its path, and how their text becomes tokens."""

    sets: tuple[str, ...]
    tokenizer: str | None = None
    end_of_document: str | None = None


def check_validation(manifest: Manifest, sets: Sequence[str]) -> None:
    """Sets are given if and only if the model's text says when they are evaluated. Raises UserError."""
    asked = manifest.training.validation is not None
    if sets and not asked:
        raise UserError(
            "--validation is given, and train.validation is none: say when it is evaluated, "
            "with --set 'train.validation=evaluated(every: 500)'"
        )
    if asked and not sets:
        raise UserError(
            "train.validation evaluates held-out data: give it with --validation PATH, "
            "or --set train.validation=none"
        )
    if twice := next((one for one in sets if list(sets).count(one) > 1), None):
        raise UserError(f"--validation {twice} is given twice")


class Validator(Companion):
    """Evaluates each set after every so many steps and after the last; called on all ranks.

    Raises:
        UserError, InputOutputError, IntegrityError: a set cannot be read, or is shorter than one sequence.
        EnvironmentMismatch: it is not the same on all ranks.
    """

    def __init__(self, job: Job, state: TrainState, options: ValidationOptions, steps: int) -> None:
        manifest = job.bundle.manifest
        check_validation(manifest, options.sets)
        self._when, self._last = manifest.training.validation, steps - 1
        self._evaluators: dict[str, Evaluator] = {}
        for path in options.sets:
            given = DataOptions((f"1*{path}",), options.tokenizer, options.end_of_document)
            data = open_data(given, job, f"held-out data {path}")
            loader = make_loader(data, manifest, job.transport.rank, epochs=1)
            batches = self._when.batches if self._when else None
            self._evaluators[path] = Evaluator(job, loader, lambda: list(state.parameters.values()), batches)

    def losses_after(self, step: int) -> dict[str, float]:
        """The loss of every set, if it is time after `step`; otherwise nothing."""
        due = self._when is not None and ((step + 1) % self._when.every == 0 or step == self._last)
        if not due:
            return {}
        return {name: evaluator.evaluate().loss for name, evaluator in self._evaluators.items()}

    def close(self) -> None:
        """End the threads that prepare batches."""
        for evaluator in self._evaluators.values():
            evaluator.loader.close()
