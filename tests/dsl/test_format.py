"""The formatter: canonical, idempotent, changes no meaning and loses no comment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dsl_texts import SMALL, load, tree
from moec import dsl, models
from moec.dsl.parameters import count

FORMAT = Path(__file__).parent / "format"
TEXTS = {
    **{
        path.stem: path.read_text(encoding="utf-8")
        for path in sorted(Path(__file__).parent.glob("texts/*.moe"))
    },
    **{name: (models.read(name) or ("", ""))[1] for name in models.names()},
}


@pytest.mark.parametrize("path", sorted(FORMAT.glob("*.moe")), ids=lambda p: p.stem)
def test_golden(path: Path, golden: Callable[[str, Path], None]) -> None:
    golden(dsl.format_text(path.read_text(encoding="utf-8")), path.with_suffix(".out"))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_formatting_is_idempotent_and_keeps_the_tree(text: str) -> None:
    once = dsl.format_text(text)
    assert dsl.format_text(once) == once
    assert tree(once) == tree(text)


@pytest.mark.parametrize("name", models.names())
def test_shipped_models_are_canonical(name: str) -> None:
    text = TEXTS[name]
    assert dsl.format_text(text) == text


def test_every_comment_survives_where_comments_can_stand() -> None:
    text = (FORMAT / "comments.moe").read_text(encoding="utf-8")
    once = dsl.format_text(text)
    assert _comments(once) == _comments(text)
    assert dsl.format_text(once) == once
    assert tree(once) == tree(text)


def _comments(text: str) -> list[str]:
    return sorted(line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line)


@pytest.mark.parametrize("name", models.names())
def test_explicit_text_means_the_same(name: str) -> None:
    """Every default in full: nothing changes, and nothing is left to fill in."""
    spec = dsl.load(name, find_model=models.read)
    text = dsl.explicit_text(spec)
    again = dsl.load_text(text)
    assert (again.model, again.train, again.parallel) == (spec.model, spec.train, spec.parallel)
    assert (again.precision, again.memory, again.checkpoint) == (spec.precision, spec.memory, spec.checkpoint)
    assert dsl.explicit_text(again) == text
    of_gqa = ("kv_heads:", "head_dim:", "qk_norm:") if "gqa(" in text else ("q_rank:", "nope_dim:")
    for setting in (*of_gqa, "window:", "betas:", "recompute", "micro_batches"):
        assert setting in text


def test_explicit_text_of_epochs_has_no_steps() -> None:
    text = dsl.explicit_text(load(SMALL + "train { epochs = 2 }\n"))
    assert "epochs" in text
    assert "steps" not in text


def test_the_summary_counts() -> None:
    spec = load(SMALL)
    total, active = count(spec.model)
    found = dsl.summary(spec)
    assert (found["parameters"], found["active_parameters"], found["layers"]) == (total, active, 2)
    assert f"{total:,}" in dsl.summary_text(spec)
    assert dsl.summary(load("use tiny"))["tensors"] == 3 + 4 * (7 + 3 * 8)
