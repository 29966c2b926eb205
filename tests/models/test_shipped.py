"""The shipped models against transformers: totals, names and shapes of tensors, and config.json both ways."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

from moec import dsl, models
from moec.dsl.parameters import count, model_parameters
from moec.dsl.weightmap.shapes import combined

# What the papers and model cards say: (total, active).
PUBLISHED = {
    "mixtral_8x7b": (46_702_792_704, 12_879_925_248),
    "qwen3_30b_a3b": (30_532_122_624, 3_353_032_704),
    "qwen2_57b_a14b": (57_408_658_944, 14_249_270_784),
    "olmoe_1b_7b": (6_919_161_856, 1_282_017_280),
}
HUGGINGFACE = {
    "mixtral_8x7b": ("MixtralConfig", "MixtralForCausalLM"),
    "tiny": ("MixtralConfig", "MixtralForCausalLM"),
    "qwen3_30b_a3b": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM"),
    "qwen2_57b_a14b": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM"),
    "olmoe_1b_7b": ("OlmoeConfig", "OlmoeForCausalLM"),
}
SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "mixtral_8x7b": {**SIZES, "num_local_experts": 4, "sliding_window": 8},
    "qwen3_30b_a3b": {
        **SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16,
        "mlp_only_layers": [0],
    },
    "qwen2_57b_a14b": {
        **SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2,
    },
    "olmoe_1b_7b": {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "clip_qkv": 0.5},
}  # fmt: skip


def _load(name: str, *overrides: str) -> dsl.Spec:
    return dsl.load(name, overrides, find_model=models.read, shipped=models.names())


def _huggingface(name: str, config: dict[str, Any]) -> tuple[Any, Any]:
    """(config, model on the meta device) of transformers."""
    config_class, model_class = (getattr(transformers, part) for part in HUGGINGFACE[name])
    made = config_class(**config)
    with torch.device("meta"):
        return made, model_class(made)


def test_the_list_of_models() -> None:
    assert set(models.names()) == {*PUBLISHED, "tiny"}
    assert models.read("missing") is None
    assert models.read("../dsl/grammar.lark") is None
    for alias, name in models.ALIASES.items():
        assert models.read(alias) == models.read(name)


@pytest.mark.parametrize("name", models.names())
def test_every_model_names_its_paper(name: str) -> None:
    text = (models.read(name) or ("", ""))[1]
    assert re.match(r"# .*\bet al\., .*, 20\d\d", text)


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones(name: str) -> None:
    assert count(_load(name).model) == PUBLISHED[name]


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_totals_are_those_of_transformers(name: str) -> None:
    """transformers builds the model from the config.json we export, at full size, on the meta device."""
    spec = _load(name)
    _, model = _huggingface(name, json.loads(json.dumps(dsl.checkpoint_config(spec))))
    assert count(spec.model)[0] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_tensors_and_config_are_those_transformers_saves(name: str, tmp_path: Path) -> None:
    """Of a saved checkpoint, config.json gives the model and the weight map gives all of its tensors."""
    config_class, model_class = (getattr(transformers, part) for part in HUGGINGFACE[name])
    model_class(config_class(**SMALL[name])).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    spec = dsl.spec_from_config(config, models.read, models.names())

    shapes = {n: p.shape for region, p in model_parameters(spec.model) for n in p.names(region)}
    assert spec.checkpoint is not None
    ours = {
        tensor.name: combined(tensor.forms, [shapes[name] for name in tensor.parameters])
        for tensor in spec.checkpoint.tensors
    }
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        saved = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    assert ours == saved

    exported = json.loads(json.dumps(dsl.checkpoint_config(spec)))
    again = config_class(**exported).to_dict()
    ignored = re.compile(r".*_token_id|dtype|transformers_version|router_z_loss_coef|head_dim|architectures")
    for key, value in config_class(**config).to_dict().items():
        assert ignored.fullmatch(key) or again[key] == value, key


def test_tiny_is_a_run_of_a_byte_model() -> None:
    spec = _load("tiny")
    assert spec.model.vocab >= 257
    assert spec.train.sequence <= spec.model.context
    assert count(spec.model)[0] < 5_000_000
