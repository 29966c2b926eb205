"""The shipped models: totals of papers, model cards and transformers; what a file of them looks like."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from math import prod
from typing import Any

import pytest
import torch
import transformers

from exchange.families import FAMILIES
from moec import dsl, models
from moec.dsl.parameters import count, model_parameters

LINES_WITHOUT_MAP = 60


@dataclass(frozen=True)
class Card:
    """Parameters, and what paper or model card says of them, in billions to the digits it gives.

    `said` are total and active ones, "23e1" for 230 to tens. Of embedding and output so many as `untabled`
    are not counted as active. `beside` what the model has are parameters that the total counts, too: an
    encoder of images; less those that it does not count.
    """

    total: int
    active: int
    said: tuple[str, str | None]
    untabled: int = 0
    beside: int = 0


GLM_FURTHER = 3_988_069_632 - 2 * 151_552 * 5120
"""The layer of GLM-4.5 that predicts a further token; the paper counts neither embedding nor output."""

PUBLISHED = {
    "afmoe": Card(26_123_974_400, 3_474_732_800, ("26", "3")),
    "cohere2_moe": Card(218_254_938_112, 24_981_409_792, ("218", "25")),
    "dbrx": Card(131_596_523_520, 36_469_708_800, ("132", "36")),
    "ernie4_5_moe": Card(21_825_437_888, 3_352_150_208, ("21", "3")),
    "deepseek_v2": Card(235_741_434_880, 21_375_800_320, ("236", "21")),
    "deepseek_v2_lite": Card(15_706_484_224, 2_661_150_208, ("15.7", "2.4"), untabled=1),
    "deepseek_v3": Card(671_026_419_200, 37_552_297_472, ("671", "37")),
    "flex_olmo": Card(33_270_665_216, 24_613_621_760, ("33", None)),
    "glm4_5_air": Card(106_852_251_264, 13_424_129_664, ("106", "12"), untabled=2),
    "glm4_moe": Card(352_797_829_024, 33_632_266_144, ("355", "32"), untabled=2, beside=GLM_FURTHER),
    "gpt_oss_120b": Card(116_829_156_672, 5_711_982_912, ("116.8", "5.1"), untabled=1),
    "gpt_oss_20b": Card(20_914_757_184, 4_187_440_704, ("20.9", "3.6"), untabled=1),
    "granitemoe": Card(3_298_788_864, 882_869_760, ("3.3", "0.8"), untabled=1),
    "granitemoeshared": Card(6_370_887_168, 1_086_064_128, ("7", "1")),
    "kimi_k2": Card(1_026_408_232_448, 32_861_500_928, ("10e2", "32")),
    "llama4_scout": Card(107_769_861_120, 17_172_894_720, ("109", "17"), beside=871_932_416),
    "longcat_flash": Card(560_664_980_480, 27_954_818_048, ("560", "27"), untabled=1),
    "mimo_v2_flash": Card(308_778_780_864, 15_445_936_320, ("309", "15")),
    "minimax_m2": Card(228_689_764_864, 11_030_553_088, ("23e1", "10"), untabled=1),
    "mixtral_8x7b": Card(46_702_792_704, 12_879_925_248, ("46.7", "12.9")),
    "moonlight_16b_a3b": Card(
        15_960_110_208, 2_914_776_192, ("15.29", "2.24"), untabled=2, beside=-2 * 163_840 * 2048
    ),
    "olmoe_1b_7b": Card(6_919_161_856, 1_282_017_280, ("6.9", "1.3")),
    "phimoe": Card(41_873_153_344, 6_640_999_744, ("41.9", "6.6")),
    "qwen2_57b_a14b": Card(57_408_658_944, 14_249_270_784, ("57.4", "14.2")),
    "qwen3_30b_a3b": Card(30_532_122_624, 3_353_032_704, ("30.5", "3.3")),
}


def _load(name: str, *overrides: str) -> dsl.Spec:
    return dsl.load(name, overrides, find_model=models.read, shipped=models.names())


def _last_digit(number: Decimal) -> Decimal:
    """What one more in the last digit adds."""
    return Decimal((0, (1,), int(number.as_tuple().exponent)))


def _huggingface(config: dict[str, Any]) -> transformers.PreTrainedModel:
    """The model of a config.json, on the meta device."""
    known = dict(json.loads(json.dumps(config)))
    made = transformers.AutoConfig.for_model(known.pop("model_type"), **known)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(made)  # type: ignore[no-untyped-call]
    assert isinstance(model, transformers.PreTrainedModel)
    return model


def test_the_list_of_models() -> None:
    assert set(models.names()) == {*PUBLISHED, "tiny"}
    assert models.read("missing") is None
    assert models.read("../dsl/grammar.lark") is None
    for alias, name in models.ALIASES.items():
        assert models.read(alias) == models.read(name)


@pytest.mark.parametrize("name", models.names())
def test_every_model_names_its_paper(name: str) -> None:
    text = (models.read(name) or ("", ""))[1]
    comment = " ".join(re.findall(r"^# ?(.*)$", text[: text.index("\nmodel ")], re.MULTILINE))
    assert re.match(r".+\b(et al\.|Team|Research|\w*AI), .+, 20\d\d\b", comment)


@pytest.mark.parametrize("name", models.names())
def test_a_model_is_read_in_a_minute(name: str) -> None:
    text = (models.read(name) or ("", ""))[1]
    assert text[: text.index("\ncheckpoint ")].count("\n") <= LINES_WITHOUT_MAP


def test_every_model_has_rows_in_the_table_of_families() -> None:
    """One for each model_type: models that differ in sizes only share them."""
    types = {name: dsl.checkpoint_config(_load(name))["model_type"] for name in models.names()}
    assert {types[family.model] for family in FAMILIES.values() if family.spec is None} == set(types.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones(name: str) -> None:
    card, model = PUBLISHED[name], _load(name).model
    total, active = count(model)
    assert (total, active) == (card.total, card.active)
    active -= card.untabled * model.vocab * model.width
    for number, said in zip((total + card.beside, active), card.said, strict=True):
        assert said is None or abs(Decimal(number) / 10**9 - Decimal(said)) < _last_digit(Decimal(said))


@pytest.mark.parametrize("name", models.names())
def test_totals_are_those_of_transformers(name: str) -> None:
    """transformers builds the model from the config.json we export, at full size, on the meta device.

    Parameters that it has and does not use are the blanks of the weight map.
    """
    spec = _load(name)
    model = _huggingface(dsl.checkpoint_config(spec))
    stored = (p for _, p in model_parameters(spec.model) if p.trained)
    trained = sum(prod(parameter.stored_shape) for parameter in stored)
    assert spec.checkpoint is not None
    unused = sum(len([*blank.tensors()]) * prod(blank.shape) for blank in spec.checkpoint.blanks)
    assert trained + unused == sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )


def test_tiny_is_a_run_of_a_byte_model() -> None:
    spec = _load("tiny")
    assert spec.model.vocab >= 257
    assert spec.train.sequence <= spec.model.context
    assert count(spec.model)[0] < 5_000_000
