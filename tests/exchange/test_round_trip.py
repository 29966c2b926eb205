"""Import and export lose nothing: the same model, the same bits, and transformers reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from exchange.families import FAMILIES, Published, make_model, read_in
from moec import dsl, models
from moec.cli.exchange.export_hf import export_checkpoint
from moec.cli.exchange.import_hf import import_checkpoint
from moec.runtime.weights.reader import WeightsReader

Publish = Callable[[str], Published]
Import = Callable[[str], Path]

IRRELEVANT = {"_name_or_path", "dtype", "transformers_version"}

UNKNOWN = {
    "attention_method", "attn_type_list", "layernorm_full_attention_beta", "layernorm_linear_attention_beta",
    "layernorm_mlp_beta", "load_balance_coeff", "mla_scale_kv_lora", "mla_scale_q_lora", "moe_layer_freq",
    "n_group", "norm_topk_prob", "qk_norm_type", "route_norm", "router_bias", "router_z_loss_coef",
    "score_func", "scoring_func", "shared_intermediate_size", "topk_group", "topk_method", "use_qk_norm",
    "use_routing_bias", "zero_expert_type",
}  # fmt: skip
"""Keys that transformers does not read, and other programs do."""


def weights_of(directory: Path) -> bytes:
    """Names, shapes, dtypes and digests of all weights."""
    WeightsReader(directory / "weights").verify()
    return (directory / "weights" / "weights.json").read_bytes()


def loaded(directory: Path) -> transformers.PreTrainedModel:
    """The model as transformers reads it, found to be complete."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(
        report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    )
    return model


def assert_same_state(found: transformers.PreTrainedModel, wanted: transformers.PreTrainedModel) -> None:
    ours, theirs = found.state_dict(), wanted.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_is_read_as_the_model_of_its_row(name: str, imported: Import) -> None:
    """Of several of one model_type the one that fits, or that has most of the values."""
    found = dsl.load(imported(name) / "model.moe").model.name
    assert found == FAMILIES[name].model.removesuffix(".moe")


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_an_export_back_bit_for_bit(
    name: str, published: Publish, imported: Import, tmp_path: Path
) -> None:
    export_checkpoint(imported(name), tmp_path / "exported")
    assert sorted(p.name for p in (tmp_path / "exported").iterdir()) == ["config.json", "model.safetensors"]
    assert_same_state(loaded(tmp_path / "exported"), published(name).model)
    with safe_open(tmp_path / "exported" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exported_config_means_the_same_model(
    name: str, published: Publish, imported: Import, tmp_path: Path
) -> None:
    export_checkpoint(imported(name), tmp_path / "exported")
    ours = transformers.AutoConfig.from_pretrained(tmp_path / "exported").to_dict()
    theirs = published(name).model.config.to_dict()
    if "head_dim" in theirs:  # none means this
        theirs["head_dim"] = theirs["head_dim"] or theirs["hidden_size"] // theirs["num_attention_heads"]
    differ = {key for key in theirs if ours.get(key) != theirs[key] and not key.endswith("_token_id")}
    checkpoint = dsl.load(imported(name) / "model.moe").checkpoint
    assert checkpoint is not None
    assert differ <= {*IRRELEVANT, *checkpoint.config_ignored}
    assert ours.keys() - theirs.keys() <= {"head_dim", *UNKNOWN}  # the first may be left out


@pytest.mark.parametrize("name", FAMILIES)
def test_importing_an_export_gives_what_was_exported(name: str, imported: Import, tmp_path: Path) -> None:
    export_checkpoint(imported(name), tmp_path / "exported")
    read_in(name, tmp_path / "exported", tmp_path / "again")
    before, after = imported(name), tmp_path / "again"
    specs = [dsl.load(directory / "model.moe") for directory in (before, after)]
    assert specs[0].model == specs[1].model
    assert specs[0].checkpoint == specs[1].checkpoint
    assert weights_of(after) == weights_of(before)


def test_a_checkpoint_in_parts_is_the_same_checkpoint(
    published: Publish, imported: Import, tmp_path: Path
) -> None:
    """Parts that we write and transformers reads, and parts that transformers writes and we read."""
    export_checkpoint(imported("olmoe"), tmp_path / "ours", part_bytes=200_000)
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    parts = [load_file(tmp_path / "ours" / file) for file in files]
    sizes = [sum(t.nbytes for t in part.values()) for part in parts]
    assert len(parts) > 5
    assert max(sizes) <= 200_000
    assert index["metadata"]["total_size"] == sum(sizes)
    assert_same_state(loaded(tmp_path / "ours"), published("olmoe").model)
    published("olmoe").model.save_pretrained(tmp_path / "theirs", max_shard_size="200KB")
    for side in ("ours", "theirs"):
        import_checkpoint(tmp_path / side, tmp_path / f"{side}-imported", find_model=models.read)
        assert weights_of(tmp_path / f"{side}-imported") == weights_of(imported("olmoe"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_keep_their_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_model("qwen3_moe", dtype)
    model.save_pretrained(tmp_path / "checkpoint")
    import_checkpoint(tmp_path / "checkpoint", tmp_path / "imported", find_model=models.read)
    reader = WeightsReader(tmp_path / "imported" / "weights")
    assert {reader.dtype(name) for name in reader.names()} == {dtype}
    export_checkpoint(tmp_path / "imported", tmp_path / "exported")
    assert_same_state(loaded(tmp_path / "exported"), model)


def test_mixed_dtypes_become_the_one_that_holds_all_values(published: Publish, tmp_path: Path) -> None:
    """bfloat16 beside a float16 and a float32 tensor: all float32, and no value changes."""
    tensors = load_file(published("mixtral").directory / "model.safetensors")
    for i, name in enumerate(sorted(tensors)):
        tensors[name] = tensors[name].to((torch.bfloat16, torch.float16, torch.float32)[i % 3])
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_bytes((published("mixtral").directory / "config.json").read_bytes())
    save_file(tensors, checkpoint / "model.safetensors")
    spec = import_checkpoint(checkpoint, tmp_path / "imported", find_model=models.read)
    reader = WeightsReader(tmp_path / "imported" / "weights")
    assert spec.checkpoint is not None
    for tensor in spec.checkpoint.tensors:
        wanted = tensors[tensor.name].float().view(-1)
        assert torch.equal(reader.read(*tensor.parameters, 0, wanted.numel()), wanted)


def test_a_model_may_come_from_a_file(published: Publish, imported: Import, tmp_path: Path) -> None:
    """`--spec`: the config sets the values of the model in the file, whatever it is called."""
    text = models.read("mixtral_8x7b")
    assert text is not None
    mine = tmp_path / "mine.moe"
    mine.write_text(text[1].replace("model mixtral_8x7b", "model mine"))
    spec = import_checkpoint(
        published("mixtral").directory, tmp_path / "imported", spec=str(mine), find_model=models.read
    )
    assert spec.model.name == "mine"
    assert dsl.load(tmp_path / "imported" / "model.moe") == spec
    assert weights_of(tmp_path / "imported") == weights_of(imported("mixtral"))


def test_an_empty_directory_may_be_filled(imported: Import, tmp_path: Path) -> None:
    export_checkpoint(imported("olmoe"), tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
