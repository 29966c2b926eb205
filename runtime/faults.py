"""Named points at which a run can be made to fail, for tests and drills. Nothing happens without a hook."""

from __future__ import annotations

from collections.abc import Callable

_hooks: list[Callable[[str], None]] = []


def fault_point(name: str) -> None:
    """The run has come to the point `name`, such as `checkpoint.before_rename`, on whatever thread."""
    for hook in _hooks:
        hook(name)


def set_hook(hook: Callable[[str], None] | None) -> None:
    """From now on every point calls `hook` with its name, and no other; None ends that."""
    _hooks[:] = [hook] if hook is not None else []
