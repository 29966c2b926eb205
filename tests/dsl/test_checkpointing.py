"""What a text says of checkpoints, and the facts by which two texts are told apart later."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsl_texts import SMALL, load
from moec import models
from moec.dsl import compare, spec
from moec.dsl.compare import facts


def saving(*overrides: str, text: str = SMALL) -> spec.Checkpointing | None:
    return load(text, *overrides).train.checkpoint


def test_checkpoints_are_none_unless_a_text_says_saved() -> None:
    assert saving() is None
    assert saving(text=SMALL + "train { checkpoint = none }\n") is None
    assert saving(text=SMALL + "train { checkpoint = saved }\n") == spec.Checkpointing(1000, 3)
    assert saving(text=SMALL + "train { checkpoint = saved(every: 7, keep: 1) }\n") == spec.Checkpointing(
        7, 1
    )


def test_a_path_into_it_works_where_nothing_was_written() -> None:
    assert saving("train.checkpoint.every=100") == spec.Checkpointing(100, 3)
    assert saving("train.checkpoint.keep=9", "train.checkpoint.every=5") == spec.Checkpointing(5, 9)
    written = SMALL + "train { checkpoint = saved(every: 7, keep: 1) }\n"
    assert saving("train.checkpoint.every=100", text=written) == spec.Checkpointing(100, 1)
    assert saving("train.checkpoint=none", text=written) is None
    off = SMALL + "train { checkpoint = none }\n"
    assert saving("train.checkpoint.every=100", text=off) == spec.Checkpointing(100, 3)


def test_facts_leave_out_where_and_in_what_form_a_model_runs() -> None:
    plain = facts(load(SMALL))
    moved = facts(load(SMALL, "parallel.shard=2", "memory.recompute=full", "precision.compute=bf16"))
    assert moved == plain
    assert plain["width"] == "64"
    assert plain["train.checkpoint"] == "none"
    assert not [path for path in plain if path.startswith(("parallel", "precision", "memory"))]


@pytest.mark.parametrize(
    "override",
    ["width=32", "layers=3", "experts.router.top=1", "attention.rope.theta=5e5", "train.seed=3", "vocab=100",
     "train.optimizer.lr=1", "norm.eps=1e-3", "init.std=0.1", "experts.balance.aux_loss=0.5"],
)  # fmt: skip
def test_facts_tell_apart_whatever_a_comparison_does(override: str) -> None:
    one, two = load(SMALL), load(SMALL, override)
    assert compare.compare(one, two)
    before, after = facts(one), facts(two)
    changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    assert changed
    assert any(path.rpartition(": ")[2] == override.partition("=")[0] for path in changed), changed


@pytest.mark.parametrize("name", ["deepseek_v3", "llama4_scout", "gpt_oss_20b", "tiny"])
def test_facts_are_those_of_the_model_however_it_is_written(name: str) -> None:
    """A spec and its resolved text; layers of one kind are told together, so a large model has few."""
    path, text = models.read(name) or (Path(), "")
    one = load(text)
    found = facts(one)
    assert facts(load(one.text)) == found, path
    assert len(found) < 400
    assert all(isinstance(value, str) for value in found.values())
