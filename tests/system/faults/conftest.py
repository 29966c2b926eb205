"""The stage of the fault matrix, made once."""

from __future__ import annotations

import pytest

from system.faults.play import Stage


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("faults"))
