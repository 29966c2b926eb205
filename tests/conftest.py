"""Options and fixtures of all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


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
