"""Families that moec does not ship: their texts are beside the tests."""

from __future__ import annotations

from .family import Family

HUNYUAN = {"num_experts": 8, "moe_topk": 3}
NTK = {"rope_type": "dynamic", "rope_theta": 10_000.0, "alpha": 100.0, "factor": 1.0}
KOLIBRI = {
    "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80, "head_dim": 24, "sliding_window": 8,
}  # fmt: skip

FAMILIES = {
    "hunyuan_v1_moe": Family(
        "HunYuanMoEV1", "hunyuan_v1_moe.moe", HUNYUAN | {"head_dim": 24, "rope_parameters": NTK}
    ),
    "hunyuan_v1_moe-biased": Family(
        "HunYuanMoEV1",
        "hunyuan_v1_moe.moe",
        HUNYUAN
        | {
            "head_dim": 16,
            "rope_parameters": NTK | {"alpha": 3.5},
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    # Five layers: the last one sees everything.
    "kolibri1": Family(
        "Kolibri1", "kolibri1.moe", KOLIBRI | {"num_hidden_layers": 5}, without=("intermediate_size",)
    ),
    "kolibri1-renormalized": Family(
        "Kolibri1",
        "kolibri1.moe",
        KOLIBRI
        | {
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
        },
        without=("intermediate_size",),
    ),
}
