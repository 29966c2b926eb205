"""A look at a run in words: lines for people, and data for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from moec.runtime.errors import printable
from moec.runtime.record.metrics import StepMetrics
from moec.runtime.record.tally import amount, duration, number

from .look import Look, meaning

_MOST_CHECKPOINTS = 5  # that are named


def lines(look: Look) -> list[str]:
    """What `moec status` prints."""
    rows = [("run", str(look.out)), ("state", state_text(look)), *_progress(look)]
    if look.checkpoints:
        rows.append(("checkpoints", _checkpoints(look.checkpoints)))
    if look.status.exit_code:
        rows.append(("exit code", f"{look.status.exit_code}: {meaning(look.status.exit_code)}"))
    if look.status.reason:
        rows.append(("reason", look.status.reason))
    return [
        f"{what:<12}{text}"
        for what, said in rows
        for text in [printable(said).replace("\n", "\n" + " " * 12)]
    ]


def data(look: Look) -> dict[str, Any]:
    """The same for `--json`. Times are seconds; what is not known, or not finite, is null."""
    status, last = look.status, look.recent[-1] if look.recent else None
    return {
        "run": str(look.out),
        "state": status.state,
        "probably_dead": look.probably_dead,
        "silent_s": look.silent_s,
        "step": look.done,
        "steps": status.steps,
        "loss": _finite(look.loss),
        "tokens_per_s": _finite(last.tokens_per_s if last else None),
        "step_s": _finite(look.step_s),
        "left_s": look.left_s,
        "mfu": _finite(last.mfu if last else None),
        "checkpoints": sorted(look.checkpoints),
        "exit_code": status.exit_code,
        "exit_meaning": None if status.exit_code is None else meaning(status.exit_code),
        "reason": status.reason,
        "world": status.world,
        "bundle": status.bundle,
        "started": status.started,
        "updated": status.updated,
    }


def state_text(look: Look) -> str:
    """The state, and for one that goes on its last sign of life."""
    if look.silent_s is None:
        return look.status.state
    if look.probably_dead:
        return f"running, it says, but probably dead: no sign of life for {time_text(look.silent_s)}"
    return f"running, last sign of life {time_text(look.silent_s)} ago"


def speed_texts(step: StepMetrics) -> list[str]:
    """How fast a step was, in several measures."""
    found = [f"{_amount(step.tokens_per_s)} tok/s", f"{step.step_s:.3g} s a step"]
    if step.flops_per_s is not None:
        found.append(f"{_amount(step.flops_per_s)}FLOP/s")
    if step.mfu is not None:
        found.append(f"{100 * step.mfu:.1f}% of the peak")
    return found


def time_text(seconds: float | None) -> str:
    """`1:34`, or `?` for what is no time."""
    return duration(seconds) if seconds is not None and 0 <= seconds < 1e10 else "?"


def _progress(look: Look) -> Iterator[tuple[str, str]]:
    share = f" ({100 * look.done // look.status.steps}%)" if look.status.steps > 0 else ""
    left = f", {time_text(look.left_s)} left" if look.left_s is not None and not look.probably_dead else ""
    yield "step", f"{look.done}/{look.status.steps}{share}{left}"
    if look.loss is not None:
        yield "loss", number(look.loss)
    if look.recent:
        last = look.recent[-1]
        for name, loss in last.validation_loss.items():
            yield "held-out", f"{number(loss)}  {name}"
        yield "speed", ", ".join(speed_texts(last))


def _checkpoints(steps: Sequence[int]) -> str:
    newest = sorted(steps)[-_MOST_CHECKPOINTS:]
    return f"{len(steps)}: {'... ' if len(steps) > len(newest) else ''}steps {', '.join(map(str, newest))}"


def _amount(count: float) -> str:
    return amount(count) if math.isfinite(count) else str(count)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
