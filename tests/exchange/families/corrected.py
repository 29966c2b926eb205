"""Families whose routers choose by corrected scores or from groups, or whose attention is latent."""

from __future__ import annotations

from .family import Family

LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 40, "kv_lora_rank": 24, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 12,
}  # fmt: skip
ROUTED = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "first_k_dense_replace": 1,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip
V3 = LATENT | ROUTED | {"n_group": 4, "topk_group": 2, "rope_parameters": YARN}
KIMI = LATENT | ROUTED | {
    "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827,
    "rope_parameters": YARN | {"rope_theta": 50_000.0, "factor": 32.0, "beta_fast": 1.0},
}  # fmt: skip
MOONLIGHT = LATENT | ROUTED | {
    "q_lora_rank": None, "n_shared_experts": 2, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446,
    "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
}  # fmt: skip
V2 = LATENT | ROUTED | {
    "n_shared_experts": 2, "n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 1.7, "rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
}  # fmt: skip
LITE = V2 | {"q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1}
GLM = ROUTED | {"head_dim": 24, "attention_bias": True, "use_qk_norm": True, "routed_scaling_factor": 1.7}
MINIMAX = {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 24, "rotary_dim": 12}

FAMILIES: dict[str, Family] = {
    "deepseek_v3": Family("DeepseekV3", "deepseek_v3", V3),
    "deepseek_v3-biased": Family(
        "DeepseekV3",
        "deepseek_v3",
        V3
        | {
            "attention_bias": True,
            "first_k_dense_replace": 2,
            "n_group": 2,
            "topk_group": 1,
            "n_shared_experts": 2,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
            "tie_word_embeddings": True,
            "rope_parameters": YARN | {"beta_fast": 8.0, "mscale": 0.7, "mscale_all_dim": 1.3},
        },
    ),
    "deepseek_v3-direct": Family("DeepseekV3", "deepseek_v3", V3 | {"q_lora_rank": None}),
    "kimi_k2": Family("DeepseekV3", "kimi_k2", KIMI),
    "moonlight": Family("DeepseekV3", "moonlight_16b_a3b", MOONLIGHT),
    "moonlight-latent": Family(
        "DeepseekV3",
        "moonlight_16b_a3b",
        MOONLIGHT | {"q_lora_rank": 40, "first_k_dense_replace": 0, "n_group": 4, "topk_group": 3},
    ),
    "deepseek_v2": Family("DeepseekV2", "deepseek_v2", V2),
    "deepseek_v2-biased": Family(
        "DeepseekV2", "deepseek_v2", V2 | {"n_group": 2, "topk_group": 1, "attention_bias": True}
    ),
    "deepseek_v2-direct": Family(
        "DeepseekV2", "deepseek_v2", V2 | {"q_lora_rank": None, "n_shared_experts": 1}
    ),
    "deepseek_v2_lite": Family("DeepseekV2", "deepseek_v2_lite", LITE),
    "deepseek_v2_lite-biased": Family(
        "DeepseekV2",
        "deepseek_v2_lite",
        LITE
        | {
            "attention_bias": True,
            "q_lora_rank": 40,
            "n_group": None,
            "topk_group": None,
            "norm_topk_prob": True,
        },
    ),
    "glm4_moe": Family("Glm4Moe", "glm4_moe", GLM),
    "glm4_moe-groups": Family(
        "Glm4Moe",
        "glm4_moe",
        GLM
        | {
            "attention_bias": False,
            "n_group": 4,
            "topk_group": 2,
            "n_shared_experts": 2,
            "norm_topk_prob": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
            "tie_word_embeddings": True,
        },
    ),
    "glm4_5_air": Family("Glm4Moe", "glm4_5_air", GLM | {"use_qk_norm": False, "routed_scaling_factor": 1.0}),
    "minimax_m2": Family("MiniMaxM2", "minimax_m2", MINIMAX),
    "minimax_m2-whole": Family(
        "MiniMaxM2",
        "minimax_m2",
        MINIMAX | {"rotary_dim": 24, "router_aux_loss_coef": 0.02, "tie_word_embeddings": True},
    ),
}
