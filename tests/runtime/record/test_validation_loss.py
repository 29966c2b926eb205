"""The loss of held-out data in the metrics, and on the terminal."""

from __future__ import annotations

import math

from moec.runtime.record.metrics import StepMetrics, line_of, metrics_of
from moec.runtime.record.progress import line, summary
from moec.runtime.record.tally import Tally


def step(number: int, **validation: float) -> StepMetrics:
    return StepMetrics(
        step=number, loss=3.0, grad_norm=1.0, lr=1e-3, tokens=8, tokens_per_s=8.0, step_s=1.0,
        validation_loss=validation,
    )  # fmt: skip


def test_it_is_written_where_there_is_one_and_read_back() -> None:
    assert b"validation_loss" not in line_of(step(0))
    told = step(1, held=2.5, other=math.inf)
    back = metrics_of(line_of(told), "here").validation_loss
    assert back["held"] == 2.5
    assert math.isnan(back["other"])  # JSON has no infinity
    assert metrics_of(line_of(step(0)), "here").validation_loss == {}


def test_the_newest_one_stays_on_the_terminal() -> None:
    tally = Tally(9)
    tally.add(step(0))
    assert "held-out" not in line(tally)
    tally.add(step(1, held=2.5))
    tally.add(step(2))
    assert "held-out 2.5000" in line(tally)
    assert "held-out loss 2.5000  held" in summary(tally, 1.0, {}, {})
