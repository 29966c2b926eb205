"""Mutations of mixtures: one option of a router, of experts or of a loss changed; and who does not see it."""

from __future__ import annotations

from .measure import CLEAR as CLEAR
from .measure import Row as Row
from .options import uncovered as uncovered
from .survivors import REASONS as REASONS
from .survivors import Reason as Reason
