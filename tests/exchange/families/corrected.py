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
V2 = LATENT | ROUTED | {
    "n_shared_experts": 2, "n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 1.7, "rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
}  # fmt: skip
GLM = ROUTED | {"head_dim": 24, "attention_bias": True, "use_qk_norm": True, "routed_scaling_factor": 1.7}
MINIMAX = {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 24, "rotary_dim": 12}

FAMILIES: dict[str, Family] = {
    "deepseek_v3": Family("DeepseekV3", "deepseek_v3", V3),
    "kimi_k2": Family("DeepseekV3", "kimi_k2", KIMI),
    "deepseek_v2": Family("DeepseekV2", "deepseek_v2", V2),
    "glm4_moe": Family("Glm4Moe", "glm4_moe", GLM),
    "minimax_m2": Family("MiniMaxM2", "minimax_m2", MINIMAX),
}
