"""Families whose layers differ in more than their feed-forward network, or have several networks."""

from __future__ import annotations

from .family import Family

ERNIE = {
    "moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 48, "moe_num_shared_experts": 2,
}  # fmt: skip
# The experts' output is normed: with a small eps the norm would undo what multiplies all of it.
AFMOE = {
    "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "num_shared_experts": 1,
    "head_dim": 24, "sliding_window": 8, "route_scale": 1.7, "num_dense_layers": 1, "mup_enabled": True,
    "rms_norm_eps": 0.1,
}  # fmt: skip
MIMO = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48,
    "num_key_value_heads": 1, "head_dim": 24, "v_head_dim": 16, "sliding_window": 7,
}  # fmt: skip
LONGCAT = {
    "num_layers": 3, "ffn_hidden_size": 96, "expert_ffn_hidden_size": 48,
    "n_routed_experts": 8, "zero_expert_num": 4, "moe_topk": 3, "q_lora_rank": 40, "kv_lora_rank": 24,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "head_dim": 8, "v_head_dim": 12,
}  # fmt: skip
LONGCAT_OTHERS = ("intermediate_size", "num_hidden_layers", "num_key_value_heads")


FAMILIES = {
    "ernie4_5_moe": Family("Ernie4_5_Moe", "ernie4_5_moe", ERNIE),
    "ernie4_5_moe-tied": Family(
        "Ernie4_5_Moe", "ernie4_5_moe", ERNIE | {"moe_norm_min": 0.4, "tie_word_embeddings": True}
    ),
    # Experts in layers 1 and 3: not in 5, which is behind the last one.
    "ernie4_5_moe-biased": Family(
        "Ernie4_5_Moe",
        "ernie4_5_moe",
        ERNIE
        | {
            "num_hidden_layers": 6,
            "moe_layer_interval": 2,
            "moe_layer_end_index": 3,
            "moe_num_shared_experts": 1,
            "moe_norm_min": 0.6,
            "use_bias": True,
        },
    ),
    "afmoe": Family("Afmoe", "afmoe", AFMOE),
    "afmoe-shared": Family(
        "Afmoe",
        "afmoe",
        AFMOE
        | {
            "num_shared_experts": 3,
            "num_dense_layers": 0,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "longcat_flash": Family("LongcatFlash", "longcat_flash", LONGCAT, without=LONGCAT_OTHERS),
    "longcat_flash-biased": Family(
        "LongcatFlash",
        "longcat_flash",
        LONGCAT | {"zero_expert_num": 0, "attention_bias": True, "tie_word_embeddings": True},
        without=LONGCAT_OTHERS,
    ),
    "mimo_v2_flash": Family("MiMoV2Flash", "mimo_v2_flash", MIMO),
    "mimo_v2_flash-lists": Family(
        "MiMoV2Flash",
        "mimo_v2_flash",
        MIMO
        | {
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
            "mlp_layer_types": ["sparse", "dense", "sparse", "sparse"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.7},
                "sliding_attention": {
                    "rope_type": "default",
                    "rope_theta": 1e3,
                    "partial_rotary_factor": 1.0,
                },
            },
            "attention_bias": True,
            "attention_value_scale": 0.5,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": False,
            "routed_scaling_factor": 2.5,
            "tie_word_embeddings": True,
        },
    ),
}
