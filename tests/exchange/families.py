"""Small checkpoints of the supported families, as transformers saves them, and what it computes with them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import transformers

VOCAB, SEQUENCES, SEQUENCE = 128, 2, 16

# Without pad_token_id: transformers gives the embedding of a padding token no gradient.
BASE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
PLAIN = {"num_experts": 8, "num_experts_per_tok": 2}
SMALL = PLAIN | {"moe_intermediate_size": 48}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", LOCAL),
    "mixtral-window": ("Mixtral", LOCAL | {"sliding_window": 8}),
    "qwen2_moe": ("Qwen2Moe", SMALL | {"shared_expert_intermediate_size": 80}),
    "qwen2_moe-sparse": (
        "Qwen2Moe",
        SMALL | {"shared_expert_intermediate_size": 80, "decoder_sparse_step": 2, "norm_topk_prob": True},
    ),
    "qwen3_moe": ("Qwen3Moe", SMALL),
    "qwen3_moe-dense": ("Qwen3Moe", SMALL | {"head_dim": 24, "mlp_only_layers": [0], "norm_topk_prob": True}),
    "olmoe": ("Olmoe", PLAIN),
    "olmoe-clip": ("Olmoe", PLAIN | {"clip_qkv": 0.5}),
}
"""Name -> classes of transformers, and settings: each family plain, and with what else it can do."""


@dataclass(frozen=True)
class Published:
    """A checkpoint, and what its model makes of `ids` (B, S): logits (B, S, vocab), losses, gradients."""

    directory: Path
    model: transformers.PreTrainedModel
    ids: Tensor
    logits: Tensor
    loss: float
    aux_loss: float
    gradients: dict[str, Tensor]


def make_model(name: str, dtype: torch.dtype = torch.float32) -> transformers.PreTrainedModel:
    """A model with random weights, norms and biases included, so that none is hidden by its start."""
    stem, settings = FAMILIES[name]
    config = getattr(transformers, f"{stem}Config")(**BASE | settings)
    config._attn_implementation = config._experts_implementation = "eager"
    model = getattr(transformers, f"{stem}ForCausalLM")(config).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.copy_(_drawn(parameter_name, parameter.shape, random))
    return model.to(dtype)


def _drawn(name: str, shape: torch.Size, random: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=random)
    if len(shape) > 1:
        return normal * (1.0 if "embed" in name else 0.8 / math.sqrt(shape[-1]))
    return 1 + 0.1 * normal if "norm" in name else 0.2 * normal


def publish(name: str, directory: Path) -> Published:
    """Save a model with transformers, and run and differentiate it."""
    model = make_model(name)
    model.save_pretrained(directory / "checkpoint")
    ids = torch.randint(VOCAB, (SEQUENCES, SEQUENCE), generator=torch.Generator().manual_seed(1))
    out = model(ids, labels=ids, output_router_logits=True, use_cache=False)
    out.loss.backward()
    gradients = _saved_gradients(name, model, directory / "gradients")
    return Published(
        directory / "checkpoint",
        model,
        ids,
        out.logits.detach(),
        out.loss.item(),
        out.aux_loss.item(),
        gradients,
    )


def _saved_gradients(name: str, model: transformers.PreTrainedModel, directory: Path) -> dict[str, Tensor]:
    """Gradients under the names of the checkpoint: saved as if they were the weights."""
    twin = make_model(name)
    for theirs, parameter in zip(twin.parameters(), model.parameters(), strict=True):
        theirs.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    twin.save_pretrained(directory)
    return load_file(directory / "model.safetensors")
