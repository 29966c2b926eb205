"""What `moec watch` shows of a run: lines of text that fit a terminal."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from moec.runtime.errors import printable
from moec.runtime.record.metrics import StepMetrics
from moec.runtime.record.tally import amount, number

from .look import Look, meaning
from .plot import BLOCKS, bars, curve
from .words import speed_texts, state_text, time_text

MOST_LOSSES = 1 << 20
"""Kept for the curve."""

_CURVE_LINES = 8
_NAME = 28  # characters of the name of a MoE
_MOST_EXPERTS = 64  # whose loads are shown one by one


@dataclass
class History:
    """What a picture needs of all steps so far: the losses, and the last steps whole."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_LOSSES))
    recent: deque[StepMetrics] = field(default_factory=lambda: deque(maxlen=16))

    def add(self, steps: Sequence[StepMetrics], instead: bool) -> None:
        """Further steps, or all of them `instead` of those before."""
        if instead:
            self.losses.clear()
            self.recent.clear()
        self.losses.extend(step.loss for step in steps)
        self.recent.extend(steps)


def picture(look: Look, history: History, width: int, height: int, blocks: str = BLOCKS) -> list[str]:
    """At most `height` lines of at most `width` printable characters."""
    last = history.recent[-1] if history.recent else None
    head = [*_head(look, width, blocks), *(_speed(look, last) if last else ())]
    tail = [*_end(look)]
    shown = [*curve(list(history.losses), width, _CURVE_LINES, blocks)] if last else []
    work = [*_work(last)] if last else []
    room = height - len(head) - len(tail) - len(shown) - len(work)
    loads = _loads(last, room, width, blocks) if last else []
    found = [*head, *shown, *work, *loads, *tail]
    return [printable(line).replace("\n", " ").replace("\t", " ")[:width] for line in found[:height]]


def _head(look: Look, width: int, blocks: str) -> Iterator[str]:
    yield f"{look.out}  {state_text(look)}"
    done, steps = look.done, max(look.status.steps, 1)
    text = (
        f" {done}/{look.status.steps}  {time_text(look.left_s)} left"
        if look.left_s is not None
        else f" {done}/{look.status.steps}"
    )
    room = max(width - len(text), 1)
    full = min(round(room * done / steps), room)
    yield blocks[-1] * full + blocks[1] * (room - full) + text


def _speed(look: Look, last: StepMetrics) -> Iterator[str]:
    losses = [f"loss {number(last.loss)}"]
    losses += [f"held-out {number(loss)}" for loss in last.validation_loss.values()]
    yield "  ".join([*losses, f"lr {last.lr:.1e}", f"grad norm {last.grad_norm:.3g}", *speed_texts(last)])


def _work(last: StepMetrics) -> Iterator[str]:
    """Where time and bytes went."""
    if last.time_s and last.step_s > 0:
        shares = (f"{what} {_percent(seconds / last.step_s)}" for what, seconds in last.time_s.items())
        yield "time   " + "  ".join(shares)
    if last.bytes_sent:
        sent = (f"{axis} {_sizes(kinds)}" for axis, kinds in last.bytes_sent.items())
        yield "sent   " + "; ".join(sent)


def _loads(last: StepMetrics, room: int, width: int, blocks: str) -> list[str]:
    """A line for each MoE, for the most uneven ones where there are too many."""
    shown = sorted(last.load_imbalance, key=lambda name: last.load_imbalance[name], reverse=True)[
        : max(room, 0)
    ]
    return [_load(last, name, width, blocks) for name in last.expert_load if name in shown]


def _load(last: StepMetrics, name: str, width: int, blocks: str) -> str:
    counts = last.expert_load[name]
    text = f"load   {name[:_NAME]:<{_NAME}} {last.load_imbalance[name]:>5.1f}x"
    if name in last.router_entropy:
        text += f"  entropy {last.router_entropy[name]:.2f}"
    if last.dropped_choices.get(name):
        text += f"  dropped {amount(last.dropped_choices[name])}"
    room = min(_MOST_EXPERTS, width - len(text) - 2)
    return f"{text}  {bars(counts[:room], blocks)}" if room > 0 else text


def _end(look: Look) -> Iterator[str]:
    code = look.status.exit_code
    if code:
        yield f"exit code {code}: {meaning(code)}"
        if look.status.reason:
            yield look.status.reason.splitlines()[0]


def _sizes(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {amount(count)}B" for kind, count in kinds.items())


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if math.isfinite(share) else "?"
