"""Families whose routers take a softmax or a sigmoid and nothing else, with grouped-query attention."""

from __future__ import annotations

from .family import Family

LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
PLAIN = {"num_experts": 8, "num_experts_per_tok": 2}
SMALL = PLAIN | {"moe_intermediate_size": 48}
SHARED = SMALL | {"shared_expert_intermediate_size": 80}

FAMILIES = {
    "mixtral": Family("Mixtral", "mixtral_8x7b", LOCAL),
    "mixtral-window": Family("Mixtral", "mixtral_8x7b", LOCAL | {"sliding_window": 8}),
    "qwen2_moe": Family("Qwen2Moe", "qwen2_57b_a14b", SHARED),
    "qwen2_moe-sparse": Family(
        "Qwen2Moe", "qwen2_57b_a14b", SHARED | {"decoder_sparse_step": 2, "norm_topk_prob": True}
    ),
    "qwen3_moe": Family("Qwen3Moe", "qwen3_30b_a3b", SMALL),
    "qwen3_moe-dense": Family(
        "Qwen3Moe",
        "qwen3_30b_a3b",
        SMALL | {"head_dim": 24, "mlp_only_layers": [0], "norm_topk_prob": True},
    ),
    "olmoe": Family("Olmoe", "olmoe_1b_7b", PLAIN),
    "olmoe-clip": Family("Olmoe", "olmoe_1b_7b", PLAIN | {"clip_qkv": 0.5}),
}
