"""Options and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# A commit passes or fails, however often it is tested: examples are drawn from the test itself.
# MOEC_SEARCH=1 draws others each time, to look for what these do not find.
settings.register_profile("same", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("search" if os.environ.get("MOEC_SEARCH") else "same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="write expected outputs anew instead of comparing"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Path], None]:
    """Compare a text with the file that holds the expected one, or write that file under --update-goldens."""

    def check(text: str, expected: Path) -> None:
        if request.config.getoption("--update-goldens"):
            expected.write_text(text, encoding="utf-8")
            return
        assert expected.exists(), f"{expected} is missing; run with --update-goldens and read the diff"
        assert text == expected.read_text(encoding="utf-8")

    return check
