"""Every wrong text under errors/ holds one mistake, and stands beside the message it is answered with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moec import dsl, models
from moec.dsl import catalogue

ERRORS = Path(__file__).parent / "errors"
CASES = sorted(ERRORS.glob("*/*.moe"))


def _errors(case: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dsl.Diagnostic, ...]:
    monkeypatch.chdir(case.parent)  # so that messages hold no path of this machine
    with pytest.raises(dsl.SourceErrors) as caught:
        dsl.load(Path(case.name), find_model=models.read, shipped=models.names())
    return caught.value.diagnostics


@pytest.mark.parametrize("case", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_message(case: Path, golden: Callable[[str, Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    golden(dsl.render_text(_errors(case, monkeypatch)), case.with_suffix(".err"))


def test_every_message_fits_a_terminal() -> None:
    for case in CASES:
        for line in case.with_suffix(".err").read_text(encoding="utf-8").splitlines():
            assert len(line) <= 80, (case, line)
            assert line.isprintable(), (case, line)


def test_no_message_without_its_text() -> None:
    assert {case.with_suffix(".err") for case in CASES} == set(ERRORS.glob("*/*.err"))


def test_almost_every_code_is_shown_by_a_text() -> None:
    """What is left out cannot be reached from one file: overrides, config.json, unreadable files."""
    shown = "".join(case.with_suffix(".err").read_text(encoding="utf-8") for case in CASES)
    missing = {kind.code for kind in catalogue.ALL if f"error[{kind.code}]" not in shown}
    elsewhere = (
        catalogue.NOT_TEXT, catalogue.CONFIG_MISMATCH, catalogue.CONFIG_MISSING, catalogue.CONFIG_UNKNOWN,
        catalogue.CONFIG_VALUE, catalogue.NO_MAP, catalogue.BAD_OVERRIDE, catalogue.UNKNOWN_PATH,
    )  # fmt: skip
    assert missing == {kind.code for kind in elsewhere}, os.linesep.join(sorted(missing))
