"""Checkpoints are made and imported once, when the first test asks for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from exchange.families import Published, publish, read_in


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Published]:
    """Checkpoints by the names of `FAMILIES`. Nobody changes them."""
    return cache(lambda name: publish(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def imported(
    published: Callable[[str], Published], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """What `moec import` makes of them."""

    def make(name: str) -> Path:
        out = tmp_path_factory.mktemp(name) / "imported"
        read_in(name, published(name).directory, out)
        return out

    return cache(make)
