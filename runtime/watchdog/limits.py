"""How long a run may stand still, and what counts as standing still."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from moec.runtime.errors import UserError

SETUP, STEP, CHECKPOINT = "set-up", "step", "checkpoint"
"""What a run is at. Set-up: up to the first step. Checkpoint: writing what is left when steps are over."""


@dataclass(frozen=True)
class Limits:
    """Seconds without progress after which a run is taken to hang, by section.

    Set-up and checkpoints move data that may lie on a slow disk, and show signs of life less often.
    """

    step_s: float = 600.0
    setup_s: float = 1800.0
    checkpoint_s: float = 1800.0

    def of(self, section: str) -> float:
        """The limit of a section."""
        return {SETUP: self.setup_s, STEP: self.step_s, CHECKPOINT: self.checkpoint_s}[section]

    @property
    def longest_s(self) -> float:
        """What no section exceeds."""
        return max(self.step_s, self.setup_s, self.checkpoint_s)


_NAMES = {"step": "step_s", "setup": "setup_s", "checkpoint": "checkpoint_s"}
_FORM = "seconds, such as 300, or by section, such as step=60,setup=600,checkpoint=900"


def parse_limits(text: str) -> Limits:
    """`--timeout`: one number for all sections, or numbers of some. Raises UserError."""
    if "=" not in text:
        seconds = _seconds(text, text)
        return Limits(seconds, seconds, seconds)
    given = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip() not in _NAMES:
            raise UserError(f"--timeout {text}: give {_FORM}")
        given[_NAMES[name.strip()]] = _seconds(value, text)
    return Limits(**given)


def _seconds(value: str, text: str) -> float:
    if (
        not re.fullmatch(r"\s*\d{1,7}(\.\d{1,3})?\s*", value)
        or not math.isfinite(float(value))
        or not float(value)
    ):
        raise UserError(f"--timeout {text}: give {_FORM}")
    return float(value)
