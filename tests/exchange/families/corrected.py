"""Families whose routers choose by corrected scores or from groups, or whose attention is latent."""

from __future__ import annotations

from .family import Family

FAMILIES: dict[str, Family] = {}
