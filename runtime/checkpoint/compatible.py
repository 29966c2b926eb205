"""Whether a run can go on from a checkpoint, and what is different where it cannot.

The layout may be another: ranks, degrees, micro-batches, formats of numbers, what is kept in memory. The
model may not, nor what decides which sample comes when: sequence, batch, seed, documents, and the data. What
changes how training goes on but not what it has done (rate, schedule, optimizer) is told, and taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moec.runtime.abi.bundle import Manifest
from moec.runtime.errors import UserError
from moec.runtime.state import parameter_prefix

from .manifest import CheckpointManifest

ORDER = ("train.sequence", "train.batch", "train.seed", "train.documents")
"""What decides, with the data, which sample comes when."""

FREE = ("train.steps", "train.epochs", "train.micro_batches", "train.checkpoint", "train.validation",
        "train.nonfinite", "train.spike")  # fmt: skip
"""What may change without a word."""

NAME = "model"
"""The path of a model's name, which has no meaning."""

_SHOWN = 6


def check_compatible(saved: CheckpointManifest, bundle: Manifest, data: str | None, where: str) -> list[str]:
    """A run of `bundle`, on data of that fingerprint (None: it does not matter), can go on from `saved`.

    Returns what is different and taken, as sentences.

    Raises:
        UserError: another model, or another order of samples; it names what differs.
    """
    changes = dict(_changes(saved.facts, bundle.facts))
    refused = {path: change for path, change in changes.items() if _refused(path)}
    if refused:
        others = [path for path in refused if path not in ORDER]
        what = "another model" if others else "samples in another order"
        raise UserError(f"{where} is of {what}:\n{_listed(refused)}\n{_advice(bool(others))}")
    check_parameters(saved, bundle, where)
    if data is not None and data != saved.data.fingerprint:
        raise UserError(
            f"{where} is of a run on other data, of which it has seen {saved.data.sequences} sequences: "
            f"give the same --data.\n{_advice(False)}"
        )
    taken = {path: change for path, change in changes.items() if path != NAME and not path.startswith(FREE)}
    return [
        f"{path} was {_value(old)}, and is {_value(new)} from now on" for path, (old, new) in taken.items()
    ]


def _changes(
    before: Mapping[str, str], after: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str | None, str | None]]]:
    for path in dict.fromkeys((*before, *after)):
        if before.get(path) != after.get(path):
            yield path, (before.get(path), after.get(path))


def _refused(path: str) -> bool:
    return path.startswith(ORDER) or (path != NAME and not path.startswith("train."))


def _listed(changes: Mapping[str, tuple[str | None, str | None]]) -> str:
    lines = [
        f"  {path}: {_value(old)} there, {_value(new)} here"
        for path, (old, new) in [*changes.items()][:_SHOWN]
    ]
    more = len(changes) - _SHOWN
    return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))


def _value(text: str | None) -> str:
    return "absent" if text is None else text if len(text) <= 80 else f"{text[:77]}..."


def _advice(model: bool) -> str:
    if model:
        return "Give another --out, or leave out --resume, to train this one from the start."
    return (
        "A run goes on with the same samples in the same order. To train its weights further on others, "
        "`moec checkpoint convert` makes weights for --init."
    )


def check_parameters(saved: CheckpointManifest, bundle: Manifest, where: str) -> None:
    """The same facts make the same parameters; a file may have been made by other means."""
    here = {
        name: (slot.shape, buffer.trained)
        for state, buffer in bundle.states().items()
        for slot in buffer.slots
        for name in slot.names(parameter_prefix(state))
    }
    there = {name: (parameter.shape, parameter.trained) for name, parameter in saved.parameters.items()}
    if here != there:
        name = min(n for n in {*here, *there} if here.get(n) != there.get(n))
        raise UserError(
            f"{where} is of another model: {name} is {there.get(name)} there, {here.get(name)} here"
        )
