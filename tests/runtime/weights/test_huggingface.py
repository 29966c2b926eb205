"""Published checkpoints: read through a map of names, and refused where they are not as expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from moec.runtime.abi.weight_map import WeightMap
from moec.runtime.errors import IntegrityError, UserError
from moec.runtime.weights.huggingface import HuggingFaceReader

TENSORS = {
    "model.embed_tokens.weight": torch.randn(4, 2),
    "model.layers.0.norm.weight": torch.randn(2),
    "model.layers.0.rotary.inv_freq": torch.randn(1),
}
NAMES = {"embed": "model.embed_tokens.weight", "layers.0.norm": "model.layers.0.norm.weight"}
IGNORED = ("model.layers.{}.rotary.inv_freq",)
MAP = WeightMap(NAMES, (), IGNORED)
INDEX = "model.safetensors.index.json"


def single(directory: Path, tensors: dict[str, Tensor] = TENSORS) -> Path:
    save_file(tensors, directory / "model.safetensors")
    return directory


def sharded(directory: Path, change: Callable[[dict[str, Any]], object] = lambda index: None) -> Path:
    """One file per tensor, and the index, changed."""
    weight_map = {}
    for number, (name, tensor) in enumerate(TENSORS.items(), 1):
        weight_map[name] = f"model-0000{number}-of-00003.safetensors"
        save_file({name: tensor}, directory / weight_map[name])
    index = {"metadata": {"total_size": 44}, "weight_map": weight_map}
    change(index)
    (directory / INDEX).write_text(json.dumps(index))
    return directory


@pytest.mark.parametrize("lay_out", [single, sharded])
def test_tensors_are_read_by_our_names(tmp_path: Path, lay_out: Callable[[Path], Path]) -> None:
    reader = HuggingFaceReader(lay_out(tmp_path), MAP)
    reader.check_against({"embed": (4, 2), "layers.0.norm": (2,)}, torch.float32)
    assert list(reader.names()) == list(NAMES)
    for name, tensor in NAMES.items():
        assert reader.shape(name) == TENSORS[tensor].shape
        count = TENSORS[tensor].numel()
        assert torch.equal(reader.read(name, 1, count - 1), TENSORS[tensor].flatten()[1:])


def test_what_transformers_saves_in_shards_is_read(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_local_experts=4,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    model = MixtralForCausalLM(config).bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    weight_map = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    assert len(set(weight_map.values())) > 1
    reader = HuggingFaceReader(tmp_path, WeightMap({f"our.{name}": name for name in weight_map}, (), ()))
    embed = reader.read("our.model.embed_tokens.weight", 0, 50 * 16)
    assert torch.equal(embed.view(50, 16), model.model.embed_tokens.weight)
    assert reader.dtype("our.lm_head.weight") == torch.bfloat16


def test_missing_and_extra_tensors_are_listed(tmp_path: Path) -> None:
    names = {**NAMES, "logits": "lm_head.weight"}
    with pytest.raises(IntegrityError) as failure:
        HuggingFaceReader(single(tmp_path), WeightMap(names, (), ()))
    message = str(failure.value)
    assert "no tensor 'lm_head.weight', which is logits" in message
    extra = f"'model.layers.0.rotary.inv_freq' of {tmp_path}/model.safetensors"
    assert f"{extra} is neither mapped to a parameter nor ignored" in message


def test_a_pattern_matches_numbers_and_nothing_else(tmp_path: Path) -> None:
    """Neither the dots nor the braces of a pattern are those of a regular expression, nor is a star."""
    for pattern in (
        "model.layers.{}.rotary.inv_fre", "model.{}.0.rotary.inv_freq", ".{}", "model.layers.1*",
        "model.layers.*.rotary.inv_freq",
    ):  # fmt: skip
        with pytest.raises(IntegrityError, match="neither mapped"):
            HuggingFaceReader(single(tmp_path), WeightMap(NAMES, (), (pattern,)))
    long = {**TENSORS, f"x.{'1' * 900}": torch.ones(1)}
    with pytest.raises(IntegrityError, match="neither mapped"):
        HuggingFaceReader(single(tmp_path, long), WeightMap(NAMES, (), (*IGNORED, "x." + "{}" * 30 + "y")))


def test_a_star_at_the_end_matches_any_rest(tmp_path: Path) -> None:
    further = {**TENSORS, "model.layers.61.a.0.b": torch.ones(1), "model.layers.61.\n": torch.ones(1)}
    for pattern in ("model.layers.61.*", "model.layers.{}.*", "model.layers.6*"):
        reader = HuggingFaceReader(single(tmp_path, further), WeightMap(NAMES, (), (*IGNORED, pattern)))
        assert set(reader.names()) == set(NAMES)
    with pytest.raises(IntegrityError, match=r"'model.layers.61.a.0.b' .* neither mapped"):
        HuggingFaceReader(tmp_path, WeightMap(NAMES, (), (*IGNORED, "model.layers.6.*")))


def test_shapes_and_dtypes_are_named_in_both_languages(tmp_path: Path) -> None:
    reader = HuggingFaceReader(single(tmp_path), MAP)
    with pytest.raises(
        IntegrityError, match=r"'model.embed_tokens.weight' of .*model.safetensors has shape \(4, 2\), "
    ):
        reader.check_against({"embed": (2, 4), "layers.0.norm": (2,)})
    with pytest.raises(
        IntegrityError, match=r"'model.*' of .*model.safetensors is float32, bfloat16 is needed"
    ):
        reader.check_against({"embed": (4, 2), "layers.0.norm": (2,)}, torch.bfloat16)


def test_quantised_tensors_are_refused_unless_they_are_ignored(tmp_path: Path) -> None:
    """An 8-bit float means nothing without its scale, so it is not cast either."""
    quantised = {**TENSORS, "model.embed_tokens.weight": torch.randn(4, 2).to(torch.float8_e4m3fn)}
    reader = HuggingFaceReader(single(tmp_path, quantised), MAP)
    with pytest.raises(IntegrityError, match="has dtype F8_E4M3, which cannot be read"):
        reader.check_against({"embed": (4, 2), "layers.0.norm": (2,)}, torch.float32, cast=True)
    with pytest.raises(IntegrityError, match="has dtype F8_E4M3"):
        reader.read("embed", 0, 1)
    rest = HuggingFaceReader(
        tmp_path, WeightMap({"layers.0.norm": NAMES["layers.0.norm"]}, (), (*IGNORED, NAMES["embed"]))
    )
    rest.check_against({"layers.0.norm": (2,)}, torch.float32)


def put(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda index: index["weight_map"].update({key: value})


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a path": (put("x", "../model.safetensors"), r"'\.\./model.safetensors' is not the name"),
    "an absolute path": (put("x", "/etc/passwd"), "'/etc/passwd' is not the name"),
    "a path downwards": (put("x", "a/b.safetensors"), "is not the name"),
    "a pickle": (put("x", "pytorch_model.bin"), "'pytorch_model.bin' is not the name"),
    "no text": (put("x", 3), "the file of 'x' is no text"),
    "no such file": (put("x", "gone.safetensors"), "gone.safetensors is missing: the index names it"),
    "not in its file": (
        put("x", "model-00001-of-00003.safetensors"),
        "00001.* has no tensor 'x', which the index",
    ),
    "in another file": (
        put("model.embed_tokens.weight", "model-00002-of-00003.safetensors"),
        "00002.* has no tensor 'model.embed_tokens.weight'",
    ),
    "no map": (lambda index: index.pop("weight_map"), "has no weight_map"),
    "a map that is a list": (lambda index: index.update(weight_map=[]), "has no weight_map"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_index_is_refused(tmp_path: Path, case: str) -> None:
    change, message = HOSTILE[case]
    with pytest.raises(IntegrityError, match=message):
        HuggingFaceReader(sharded(tmp_path, change), MAP)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    name = "model.layers.0.norm.weight"
    both = {name: TENSORS[name], "model.embed_tokens.weight": TENSORS["model.embed_tokens.weight"]}
    save_file(both, sharded(tmp_path) / "model-00001-of-00003.safetensors")
    with pytest.raises(IntegrityError, match=f"00001.* has a tensor '{name}', which the index does not say"):
        HuggingFaceReader(tmp_path, MAP)


def test_an_index_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    with pytest.raises(IntegrityError, match="twice"):
        HuggingFaceReader(tmp_path, MAP)


def test_a_directory_without_safetensors_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has neither model\.safetensors nor"):
        HuggingFaceReader(tmp_path / "none", MAP)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickles, which are never read: save it again as safetensors"):
        HuggingFaceReader(tmp_path, MAP)
