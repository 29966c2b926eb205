"""What a run does about losses and gradients that are not sound: stop, skip the step, or go back.

Whatever is done, the step has updated nothing: the step program itself judges, by losses and norm that are
the same on all ranks (`machine_ops.sound`), so that all ranks come to the same without a word. A spike is a
loss above `factor` times the median of the last losses that were sound; where it is only warned of, it does
update.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from statistics import median

from moec.runtime.abi.manifest import OnNonfinite, OnSpike, Training
from moec.runtime.errors import NumericalError, RuntimeFailure
from moec.runtime.loop import Companion, Wish
from moec.runtime.training import StepResult, Trainer

WINDOW = 64
"""So many losses the median is of."""

LEAST = 16
"""With fewer, nothing is taken for a spike."""


class Numerics(Companion):
    """Comes before whatever saves the state. All ranks do the same.

    `rewind` loads the newest checkpoint and returns its step; `rewound` is told of it; `trace` finds what is
    not finite, as text, the same on all ranks; `say` is for warnings.
    """

    def __init__(
        self,
        trainer: Trainer,
        training: Training,
        *,
        rewind: Callable[[], int],
        rewound: Callable[[int], None],
        trace: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        self._trainer, self._nonfinite, self._spike = trainer, training.nonfinite, training.spike
        self._rewind, self._rewound, self._trace, self._say = rewind, rewound, trace, say
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._times = {"nonfinite": 0, "spike": 0}

    def before_step(self, step: int) -> None:
        """See `Companion`: a spike that is more than warned of must not update."""
        held = self._spike.kind in ("skip", "rewind")
        self._trainer.loss_limit = self._limit() if held else math.inf

    def after_step(self, result: StepResult) -> Wish | None:
        """See `Companion`.

        Raises:
            NumericalError: the policy is to stop, or it has been applied as often as it may be.
        """
        if bad := _not_finite(result):
            return self._apply("nonfinite", self._nonfinite, bad, result)
        loss, limit = result.losses["loss"], self._limit()
        if not result.updated:
            return self._apply("spike", self._spike, self._spiked(loss, result.step), result)
        if self._spike.kind == "warn" and loss > limit:
            self._say(self._spiked(loss, result.step))
        self._losses.append(loss)
        return None

    def _limit(self) -> float:
        if len(self._losses) < LEAST:
            return math.inf
        return self._spike.factor * median(self._losses)

    def _spiked(self, loss: float, step: int) -> str:
        usual = median(self._losses)
        return f"loss is {loss:.4g} in step {step}, {loss / usual:.1f} times the median of the last losses"

    def _apply(self, name: str, policy: OnNonfinite | OnSpike, bad: str, result: StepResult) -> Wish | None:
        self._times[name] += 1
        found = self._trace() if name == "nonfinite" else ""
        if policy.kind == "stop":
            raise NumericalError(f"{bad}{found}", operation="step")
        if self._times[name] > policy.most:
            text = f"train.{name} = {policy.kind}(most: {policy.most}) allows no more"
            raise NumericalError(f"{bad}{found}\n  {text}", operation="step")
        often = f"{self._times[name]} of at most {policy.most}"
        if policy.kind == "skip":
            self._say(f"{bad}: the step is skipped ({often}){found}")
            return None
        return self._go_back(result.step, bad, f"({often}){found}")

    def _go_back(self, step: int, bad: str, rest: str) -> Wish:
        """The batch that was bad, and those before it since the checkpoint, are not used again."""
        following = self._trainer.batch_of(step) + 1
        try:
            start = self._rewind()
        except RuntimeFailure as error:
            message = f"{bad}, and there is no going back: {error}"
            raise NumericalError(message, operation="step") from error
        self._trainer.pass_over(following - self._trainer.batch_of(start))
        self._rewound(start)
        self._say(f"{bad}: the run goes back to step {start}, and on with batch {following} {rest}")
        return Wish("rewind", bad, start)


def _not_finite(result: StepResult) -> str:
    """Which number is not finite, as text; empty where all are."""
    entropies = {f"entropy of {moe}": number for moe, number in result.entropy.items()}
    for name, number in {**result.losses, "grad_norm": result.grad_norm, **entropies}.items():
        if not math.isfinite(number):
            return f"{name} is {number} in step {result.step}"
    return ""
