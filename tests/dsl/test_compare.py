"""`moec diff`: nothing for one meaning, something for another, whatever the layout of the text."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import dsl_generated as generated
from dsl_again import again
from dsl_texts import SMALL, edited, load
from moec import dsl, models
from moec.cli.main import run
from moec.dsl import spec as m
from moec.dsl.compare import compare, data, text
from moec.dsl.parameters import count

GOLDENS = Path(__file__).parent / "inspecting"


def shipped(name: str, *overrides: str) -> m.Spec:
    return dsl.load(name, overrides, find_model=models.read, shipped=models.names())


# --- one meaning ---


@pytest.mark.parametrize("name", models.names())
def test_other_layouts_of_a_text_have_no_differences(name: str) -> None:
    spec = shipped(name)
    for other in (dsl.explicit_text(spec), spec.text, _shuffled(spec.text), spec.text.replace("    ", "\t")):
        found = compare(spec, load(other))
        assert not found
        assert text(found) == ""


def _shuffled(written: str) -> str:
    """Bindings and rules of a weight map in another order."""
    lines = written.split("\n")
    order = random.Random(1)
    for start in ("checkpoint",):
        first = next((i for i, line in enumerate(lines) if line.startswith(start)), None)
        if first is not None:
            last = next(
                i for i in range(first + 1, len(lines)) if "=" not in lines[i] or not lines[i].endswith('"')
            )
            rules = lines[first + 1 : last]
            order.shuffle(rules)
            lines[first + 1 : last] = rules
    return "\n".join(lines)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(generated.models())
def test_an_explicit_text_has_no_differences(written: str) -> None:
    spec = load(written)
    assert not compare(spec, load(dsl.explicit_text(spec)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(generated.models(), generated.models())
def test_no_differences_means_equal(one: str, other: str) -> None:
    before, after = load(one), load(other)
    same = (before.model, before.train, before.checkpoint) == (after.model, after.train, after.checkpoint)
    assert bool(compare(before, after)) != same
    assert not compare(before, before)


# --- another meaning: every field of every specification matters ---


def changed(node: Any) -> Iterator[tuple[str, Any]]:
    """The node with one value changed, for every value inside of it that takes part in equality."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        for one in dataclasses.fields(node):
            if one.compare:
                for path, value in changed(getattr(node, one.name)):
                    yield f"{one.name}.{path}", dataclasses.replace(node, **{one.name: value})
    elif isinstance(node, tuple):
        for index, item in enumerate(node[:40]):
            for path, value in changed(item):
                yield f"{index}.{path}", (*node[:index], value, *node[index + 1 :])
    elif isinstance(node, bool):
        yield "", not node
    elif isinstance(node, int | float):
        yield "", node + 1
    elif isinstance(node, str):
        other = OTHER_WORDS.get(node)
        yield from ((("", other),) if other is not None else ())


OTHER_WORDS = {
    "scale": "offset", "offset": "scale", "half": "interleaved", "interleaved": "half", "model": "layer",
    "router": "softmax", "output": "input", "silu": "gelu_tanh", "max": "top2_sum", "minus_inf": "zero",
    "head": "full", "element": "head", "sigmoid": "softplus", "none": "full",
}  # fmt: skip


@pytest.mark.parametrize("name", models.names())
def test_every_value_of_a_model_matters(name: str) -> None:
    spec = shipped(name)
    seen = 0
    for kind in set(spec.model.layers):
        for path, other in changed(kind):
            if not _can_be(other, spec.model):
                continue
            layers = tuple(other if layer is kind else layer for layer in spec.model.layers)
            after = dataclasses.replace(spec, model=dataclasses.replace(spec.model, layers=layers))
            assert compare(spec, after), path
            seen += 1
    assert seen > 20


def _can_be(layer: m.Layer, model: m.ModelSpec) -> bool:
    """Whether a text can mean every component of the layer."""
    try:
        return all(again(x, model.width, model.context) == x for x in {c.component for c in layer.calls()})
    except (dsl.SourceErrors, KeyError):
        return False


@pytest.mark.parametrize("part", ["parallel", "precision", "memory", "train"])
def test_every_setting_matters(part: str) -> None:
    spec = load(SMALL, "train.nonfinite=skip(most: 2)", "train.spike=skip(factor: 4, most: 2)")
    found = list(changed(getattr(spec, part)))
    for path, other in found:
        assert compare(spec, dataclasses.replace(spec, **{part: other})), path
    assert found or part == "precision"


@pytest.mark.parametrize(
    "model",
    [
        {"name": "other"}, {"vocab": 9}, {"width": 9}, {"context": 9}, {"init_std": 0.5},
        {"embed": m.Embed(2.0)}, {"head": m.Head(m.Var("x"))},
    ],
)  # fmt: skip
def test_every_part_of_a_model_matters(model: dict[str, Any]) -> None:
    spec = load(SMALL)
    assert compare(spec, dataclasses.replace(spec, model=dataclasses.replace(spec.model, **model)))


def test_a_weight_map_matters() -> None:
    spec = shipped("tiny")
    checkpoint = spec.checkpoint
    assert checkpoint is not None
    for other in (
        None,
        dataclasses.replace(checkpoint, ignored=("a",)),
        dataclasses.replace(checkpoint, config=checkpoint.config[1:]),
        dataclasses.replace(checkpoint, groups=checkpoint.groups[1:]),
    ):
        change = compare(spec, dataclasses.replace(spec, checkpoint=other)).weight_map
        assert change is not None
        assert change.before == checkpoint.tensor_count


# --- what is said ---


def test_paths_are_those_of_overrides() -> None:
    """Each value that differs can be set by the path it is said by."""
    spec = load(SMALL)
    for path, value in (
        ("attention.kv_heads", "4"),
        ("attention.rope.theta", "1_000_000"),
        ("experts.experts", "8"),
        ("experts.experts.width", "32"),
        ("experts.router.top", "1"),
        ("norm.eps", "0.1"),
        ("train.steps", "7"),
        ("train.optimizer.lr", "1"),
        ("width", "128"),
        ("parallel.expert", "2"),
    ):
        after = load(SMALL, f"{path}={value}")
        changes = {change.path: change for change in compare(spec, after).values}
        assert changes[path].after == value
        assert changes[path].layers is None


def test_layers_are_said_by_range() -> None:
    base = edited(SMALL, "layers 2", "layers 8").replace("kv_heads: 2", "kv_heads: 2, window: %s")
    before = load(base % "none")
    after = load(base % "match layer { every(4) => none, _ => 16 }")
    (change,) = compare(before, after).values
    assert (change.path, change.before, change.after) == ("attention.window", "none", "16")
    assert change.layers == (0, 1, 2, 4, 5, 6)
    assert "(layers 0..3, 4..7)" in text(compare(before, after))


def test_parameters_that_appear_and_disappear() -> None:
    before, after = load(SMALL), load(SMALL, "attention.qk_norm=per_head(norm)", "width=128")
    found = compare(before, after)
    assert [one.path for one in found.added if one.path.endswith("_norm")] == [
        "layers[i].attention.q_norm", "layers[i].attention.k_norm"
    ]  # fmt: skip
    assert sum(x.elements for x in found.added) - sum(x.elements for x in found.removed) == (
        count(after.model)[0] - count(before.model)[0]
    )


def test_a_renamed_binding_is_another_component() -> None:
    """Names are in checkpoints."""
    found = compare(load(SMALL), load(SMALL.replace("experts(", "other(").replace("experts  ", "other  ")))
    assert {change.path for change in found.values} == {"equation 2", "experts", "other"}


CASES = {
    "qwen_mixtral": (["qwen3_30b_a3b"], ["mixtral_8x7b"]),
    "dense_layers": (["qwen3_30b_a3b"], ["qwen3_30b_a3b", "dense_layers=[0, 3]", "layers=50"]),
    "run": (
        ["tiny"],
        ["tiny", "train.steps=7", "train.optimizer.lr=1e-2", "parallel.expert=2", "checkpoint=none"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_text(case: str, golden: Callable[[str, Path], None]) -> None:
    before, after = (shipped(name, *overrides) for name, *overrides in CASES[case])
    golden(text(compare(before, after)), GOLDENS / f"diff_{case}.txt")


@pytest.mark.parametrize("case", CASES)
def test_data_says_the_same(case: str) -> None:
    before, after = (shipped(name, *overrides) for name, *overrides in CASES[case])
    found = compare(before, after)
    plain: dict[str, Any] = json.loads(json.dumps(data(found)))
    assert plain["equal"] is False
    assert [one["path"] for one in plain["values"]] == [one.path for one in found.values]
    assert len(plain["parameters"]["added"]) == len(found.added)
    assert plain["parameters"]["total"] == [count(before.model)[0], count(after.model)[0]]
    assert (plain["weight_map"] is None) == (found.weight_map is None)


# --- the command ---


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 the same, 1 different, 2 wrong: those of diff(1)."""
    (tmp_path / "same.moe").write_text("use tiny # a comment\n", encoding="utf-8")
    (tmp_path / "wrong.moe").write_text("use tiny\nmodel { vocab = x }\n", encoding="utf-8")
    assert run(["diff", "tiny", str(tmp_path / "same.moe")]) == 0
    assert capsys.readouterr().out == ""
    assert run(["diff", "tiny", "mixtral_8x7b"]) == 1
    assert "vocab" in capsys.readouterr().out
    assert run(["diff", "tiny", str(tmp_path / "wrong.moe")]) == 2
    assert "MOE" in capsys.readouterr().err
    assert run(["diff", "--json", "tiny", "tiny"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True


def test_bundles_are_not_supported_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    assert run(["diff", str(tmp_path), "tiny"]) == 1
    assert "not supported yet" in capsys.readouterr().err
