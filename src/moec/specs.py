"""Specs as users name them: a path, or a shipped model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moec import dsl, models


def load(spec: str | Path, overrides: Sequence[str] = ()) -> dsl.Spec:
    """A checked spec, from a `.moe` file or a shipped model by its name.

    `overrides` are `PATH=VALUE`, as with `--set`. Raises SourceErrors with everything that is wrong.
    """
    return dsl.load(spec, overrides, models.read, models.names())
