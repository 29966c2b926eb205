"""`moec show SPEC --layer N`: the layer in full, its numbers those of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import dsl_generated as generated
from dsl_texts import load
from moec import models
from moec.cli.main import run
from moec.dsl import spec as m
from moec.dsl.layer_view import data, layer_view, text
from moec.dsl.parameters import count, layer_parameters

GOLDENS = Path(__file__).parent / "inspecting"
CASES = {
    "tiny": 0,
    "qwen2_57b_a14b": 3,
    "gpt_oss_20b": 1,
    "longcat_flash": 27,
    "cohere2_moe": 3,
    "mimo_v2_flash": 1,
}


def model(name: str) -> m.ModelSpec:
    return load(f"use {name}\n").model


@pytest.mark.parametrize("name", CASES)
def test_text(name: str, golden: Callable[[str, Path], None]) -> None:
    shown = text(layer_view(model(name), CASES[name]))
    assert all(line == line.rstrip() for line in shown.splitlines())
    golden(shown, GOLDENS / f"layer_{name}.txt")


@pytest.mark.parametrize("name", models.names())
def test_parameters_are_those_of_the_model(name: str) -> None:
    """Over all layers and with both ends they are all there are."""
    spec = model(name)
    total = sum(layer_view(spec, index).counts[0] for index in range(len(spec.layers)))
    inside = sum(prod(p.stored_shape) for layer in spec.layers for p in layer_parameters(layer, spec.width))
    assert total == inside < count(spec)[0]


@pytest.mark.parametrize("name", models.names())
def test_equal_layers_are_named(name: str) -> None:
    spec = model(name)
    for index in {0, len(spec.layers) // 2, len(spec.layers) - 1}:
        same = layer_view(spec, index).same
        assert index in same
        assert all(spec.layers[other] == spec.layers[index] for other in same)
        assert len(same) == spec.layers.count(spec.layers[index])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(generated.models())
def test_shapes_agree_with_parameters(written: str) -> None:
    """A linear's weight has as many rows as its value has elements a token."""
    spec = load(written).model
    for index in range(len(spec.layers)):
        view = layer_view(spec, index)
        shapes = {value.name: value.shape for _, values in view.values for value in values}
        rows = {parameter.path: parameter.shape[0] for parameter in view.parameters}
        checked = 0
        for path, size in rows.items():
            name = path.replace("expert.{}", "expert").replace("router", "logits")
            if (
                name in shapes
                and len(rows)
                and path.rpartition(".")[2] in ("q", "k", "v", "gate", "up", "router")
            ):
                assert prod(n for n in shapes[name] if isinstance(n, int)) == size, path
                checked += 1
        assert checked >= 3
        assert all(shapes[equation.target] == ("T", spec.width) for equation in view.layer.equations)
        assert text(view)


@pytest.mark.parametrize("name", CASES)
def test_data_says_the_same(name: str) -> None:
    view = layer_view(model(name), CASES[name])
    plain: dict[str, Any] = json.loads(json.dumps(data(view)))
    shown = text(view)
    assert all(equation["text"] in shown for equation in plain["equations"])
    assert all(parameter["name"] in shown for parameter in plain["parameters"])
    assert plain["total"] == view.counts[0]
    assert {value["name"] for one in plain["equations"] for value in one["values"]} >= {"x"}


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "tiny", "--layer", "1"]) == 0
    assert capsys.readouterr().out == text(layer_view(model("tiny"), 1))
    assert run(["show", "tiny", "--layer", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layer"] == 1
    assert run(["show", "tiny", "--layer", "0", "--set", "experts.experts=3"]) == 0
    assert "experts:     3 of swiglu(" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--layer", "4"], "the last is 3"),
        (["--layer", "-1"], "the last is 3"),
        (["--layer", "1", "--stage", "plan"], "model alone"),
        (["--layer", "1", "--ranks", "2"], "model alone"),
        (["--json"], "goes with --layer"),
    ],
)
def test_refusals(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "tiny", *arguments]) == 1
    assert why in " ".join(capsys.readouterr().err.split())
