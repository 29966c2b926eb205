"""The figures of a run that people look at, and how they are written."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from moec.runtime.record.metrics import StepMetrics

_RECENT = 16  # steps that the time left is estimated from


@dataclass(frozen=True)
class Figure:
    """A piece of a line. Where the line is too long, the figures of the lowest `weight` go first."""

    text: str
    weight: int


class Tally:
    """What the steps so far add up to."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.first: StepMetrics | None = None
        self.last: StepMetrics | None = None
        self.validation: Mapping[str, float] = {}
        self._recent_s: deque[float] = deque(maxlen=_RECENT)
        self._tokens_per_s = array("d")

    def add(self, metrics: StepMetrics) -> None:
        """One step more."""
        self.first = self.first or metrics
        self.last = metrics
        self.validation = metrics.validation_loss or self.validation
        self._recent_s.append(metrics.step_s)
        self._tokens_per_s.append(metrics.tokens_per_s)

    @property
    def done(self) -> int:
        """How many steps of the whole run are over, those of earlier runs among them."""
        return self.last.step + 1 if self.last else 0

    @property
    def count(self) -> int:
        """How many steps were added."""
        return len(self._tokens_per_s)

    @property
    def loss_change(self) -> float:
        """From the first step that was added to the last."""
        return self.last.loss - self.first.loss if self.first and self.last else 0.0

    @property
    def median_tokens_per_s(self) -> float:
        """Over all steps, so that a slow first one does not count."""
        return median(self._tokens_per_s) if self._tokens_per_s else 0.0

    @property
    def left_s(self) -> float:
        """How long the rest will take, if it goes on as in the last few steps."""
        return median(self._recent_s) * (self.steps - self.done) if self._recent_s else 0.0


def worst_load(expert_load: Mapping[str, Sequence[int]]) -> tuple[float, str] | None:
    """(imbalance, name) of the MoE whose busiest expert is furthest above the mean; None without any choice.

    1 is even; as many as there are experts means that one of them got everything.
    """
    ratios = [
        (max(counts) * len(counts) / sum(counts), name) for name, counts in expert_load.items() if sum(counts)
    ]
    return max(ratios, default=None)


def loss_figure(tally: Tally) -> Figure:
    """The loss of the last step, and how far it is from the first."""
    loss = tally.last.loss if tally.last else 0.0
    change = f" ({number(tally.loss_change, '+')})" if tally.count > 1 else ""
    return Figure(f"loss {number(loss)}{change}", 9)


def speed_figures(tally: Tally) -> list[Figure]:
    """Learning rate, tokens a second and, if the peak is known, its share of that, of the last step."""
    if tally.last is None:
        return []
    return [
        Figure(f"lr {tally.last.lr:.1e}", 3),
        Figure(f"{amount(tally.last.tokens_per_s)} tok/s", 6),
        *([Figure(f"{100 * tally.last.mfu:.1f}% of peak", 2)] if tally.last.mfu is not None else []),
    ]


def validation_figures(tally: Tally) -> list[Figure]:
    """The newest loss of every set of held-out data; the first set is the most important one."""
    losses = enumerate(tally.validation.values())
    return [Figure(f"{'' if i else 'held-out '}{number(loss)}", 8 if i == 0 else 2) for i, loss in losses]


def load_figures(tally: Tally, *, named: bool) -> list[Figure]:
    """The worst imbalance of the last step, with the MoE's name if `named`, and the choices without room."""
    worst = worst_load(tally.last.expert_load) if tally.last else None
    if worst is None:
        return []
    dropped = sum(tally.last.dropped_choices.values()) if tally.last else 0
    return [
        Figure(f"load {worst[0]:.1f}x", 5),
        *([Figure(f"in {worst[1]}", 1)] if named else []),
        *([Figure(f"dropped {amount(dropped)}", 2)] if dropped else []),
    ]


def fitted(figures: Sequence[Figure], width: int) -> str:
    """The figures in one line of at most `width` characters, without the least important if it must be."""
    kept = list(figures)
    while sum(len(figure.text) + 2 for figure in kept) - 2 > width and len(kept) > 1:
        kept.remove(min(kept, key=lambda figure: figure.weight))
    return "  ".join(figure.text for figure in kept)[:width]


def number(value: float, sign: str = "") -> str:
    """2.34561 -> `2.3456`, 1e40 -> `1.000e+40`; `sign` "+" shows it always."""
    return format(value, f"{sign}.4f" if abs(value) < 1e5 else f"{sign}.3e")


def amount(count: float) -> str:
    """12345.6 -> `12.3k`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """3754 -> `1:02:34`, 94 -> `1:34`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
