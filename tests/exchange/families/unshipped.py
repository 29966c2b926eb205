"""Families that moec does not ship: their texts are beside the tests."""

from __future__ import annotations

from .family import Family

HUNYUAN = {"num_experts": 8, "moe_topk": 3}
NTK = {"rope_type": "dynamic", "rope_theta": 10_000.0, "alpha": 100.0, "factor": 1.0}
# The experts' output is normed: with a small eps the norm would undo what multiplies all of it.
DOTS = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "n_shared_experts": 2,
    "num_key_value_heads": 4, "first_k_dense_replace": 1, "norm_topk_prob": True,
    "routed_scaling_factor": 1.7, "max_window_layers": 4,
}  # fmt: skip
KOLIBRI = {
    "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80, "head_dim": 24, "sliding_window": 8,
    "rms_norm_eps": 0.1,
}  # fmt: skip
LAGUNA = {
    "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80, "head_dim": 24, "sliding_window": 8,
    "num_attention_heads_per_layer": [6, 8, 8, 6],
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
SLIDING = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
YARN = {
    "rope_type": "yarn", "rope_theta": 500_000.0, "partial_rotary_factor": 0.5, "factor": 4.0,
    "original_max_position_embeddings": 16, "beta_fast": 8.0, "beta_slow": 1.0,
}  # fmt: skip

FAMILIES = {
    "hunyuan_v1_moe": Family(
        "HunYuanMoEV1", "hunyuan_a13b.moe", HUNYUAN | {"head_dim": 24, "rope_parameters": NTK}
    ),
    "hunyuan_v1_moe-biased": Family(
        "HunYuanMoEV1",
        "hunyuan_a13b.moe",
        HUNYUAN
        | {
            "head_dim": 16,
            "rope_parameters": NTK | {"alpha": 3.5},
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "dots1": Family("Dots1", "dots_llm1.moe", DOTS),
    "dots1-tied": Family(
        "Dots1",
        "dots_llm1.moe",
        DOTS
        | {
            "num_key_value_heads": 2,
            "first_k_dense_replace": 0,
            "n_shared_experts": 1,
            "norm_topk_prob": False,
            "routed_scaling_factor": 0.7,
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
    # Plain rotations, and a number of experts for each layer.
    "hunyuan_v1_moe-lists": Family(
        "HunYuanMoEV1",
        "hunyuan_v1_moe.moe",
        HUNYUAN
        | {
            "moe_topk": [3, 2, 3, 2],
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
    "laguna": Family(
        "Laguna",
        "laguna.moe",
        LAGUNA | {"moe_routed_scaling_factor": 1.7, "moe_router_logit_softcapping": 2.0},
    ),
    "laguna-yarn": Family(
        "Laguna",
        "laguna_yarn.moe",
        LAGUNA
        | {
            "gating": "per-element",
            "moe_routed_scaling_factor": 1.3,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "mlp_layer_types": ["sparse", "sparse", "dense", "sparse"],
            "rope_parameters": {"full_attention": YARN, "sliding_attention": SLIDING},
        },
    ),
}
