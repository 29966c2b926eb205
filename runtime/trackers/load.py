"""Finding the trackers that a user names: ours, and those that installed packages register."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from moec.runtime.errors import EnvironmentMismatch, UserError, message_of

from .api import GROUP, OpenTracker

_OURS = {"tensorboard": "moec.runtime.trackers.tensorboard"}


@dataclass(frozen=True)
class Found:
    """A tracker that was named `name`, with `argument`, and what makes it."""

    name: str
    argument: str
    open: OpenTracker


def find_tracker(text: str) -> Found:
    """The tracker of `NAME` or `NAME:ARGUMENT`.

    Raises:
        UserError: there is none of that name, or two.
        EnvironmentMismatch: it cannot be imported.
    """
    name, _, argument = text.partition(":")
    if name in _OURS:
        return Found(name, argument, import_module(_OURS[name]).open_tracker)
    entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not entries:
        raise UserError(f"--tracker {name}: there is none of that name; there are {', '.join(known())}")
    if len({entry.value for entry in entries}) > 1:
        raise UserError(
            f"--tracker {name}: {' and '.join(_where(entry) for entry in entries)} have that name"
        )
    return Found(name, argument, _loaded(entries[0]))


def check_tracker(text: str) -> None:
    """Raises as `find_tracker` does, and EnvironmentMismatch where a library that ours needs is not there."""
    find_tracker(text)
    name = text.partition(":")[0]
    if name in _OURS:
        import_module(_OURS[name]).check()


def known() -> list[str]:
    """The names there are."""
    return sorted({*_OURS, *(entry.name for entry in entry_points(group=GROUP))})


def _loaded(entry: EntryPoint) -> OpenTracker:
    try:
        found: OpenTracker = entry.load()
    except Exception as error:  # somebody else's package, at import
        raise EnvironmentMismatch(f"--tracker {entry.name}: {_where(entry)}: {message_of(error)}") from error
    if not callable(found):
        raise EnvironmentMismatch(f"--tracker {entry.name}: {_where(entry)} is no function")
    return found


def _where(entry: EntryPoint) -> str:
    return f"{entry.value} of {entry.dist.name}" if entry.dist is not None else entry.value
