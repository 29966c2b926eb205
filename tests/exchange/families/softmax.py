"""Families whose routers take a softmax or a sigmoid and nothing else, with grouped-query attention."""

from __future__ import annotations

from .family import Family

LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
PLAIN = {"num_experts": 8, "num_experts_per_tok": 2}
SMALL = PLAIN | {"moe_intermediate_size": 48}
DBRX = {"d_model": 64, "n_heads": 4, "n_layers": 4, "max_seq_len": 64}
DBRX_FFN = {"ffn_hidden_size": 48, "moe_num_experts": 8, "moe_top_k": 2}
DBRX_ATTENTION = {"kv_n_heads": 2, "clip_qkv": 0.5, "rope_theta": 10_000.0}
DBRX_OTHERS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings",
)  # fmt: skip
# The experts' output is normed: with a small eps the norm would undo what multiplies all weights of a token.
FLEX_OLMO = PLAIN | {"rms_norm_eps": 0.1}
SHARED = SMALL | {"shared_expert_intermediate_size": 80}

SHORT = [1.0, 1.1, 1.3, 1.6, 2.0, 2.5, 3.1, 3.8]
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 32,
    "short_factor": SHORT,
    "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
    "short_mscale": 1.1, "long_mscale": 1.3,
}  # fmt: skip
COHERE = PLAIN | {
    "head_dim": 16, "sliding_window": 8, "expert_selection_fn": "sigmoid", "logit_scale": 0.25,
}  # fmt: skip
LLAMA4 = LOCAL | {
    "head_dim": 16, "intermediate_size_mlp": 112, "attention_chunk_size": 8, "floor_scale": 4,
    "attn_scale": 0.3,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16,
    "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
}  # fmt: skip
GPT_OSS = LOCAL | {"head_dim": 16, "sliding_window": 8, "swiglu_limit": 0.5, "rope_parameters": YARN}
GRANITE = {
    "embedding_multiplier": 3.0, "logits_scaling": 2.0,
    "residual_multiplier": 0.5, "attention_multiplier": 0.2,
}  # fmt: skip

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
    "flex_olmo": Family("FlexOlmo", "flex_olmo", FLEX_OLMO | {"num_experts_per_tok": 3}),
    "flex_olmo-renormalized": Family("FlexOlmo", "flex_olmo", FLEX_OLMO | {"norm_topk_prob": True}),
    "phimoe": Family(
        "Phimoe",
        "phimoe",
        LOCAL | {"attention_bias": True, "lm_head_bias": True, "rope_parameters": LONGROPE},
    ),
    "phimoe-plain": Family(
        "Phimoe",
        "phimoe",
        LOCAL
        | {
            "rope_parameters": LONGROPE | {"long_mscale": 0.9, "short_mscale": 1.2},
            "router_jitter_noise": 0.1,
            "sliding_window": 8,
            "tie_word_embeddings": True,
        },
    ),
    # With frequencies that both lengths share: transformers takes the short ones for any length.
    "phimoe-long": Family(
        "Phimoe",
        "phimoe",
        LOCAL | {"rope_parameters": LONGROPE | {"original_max_position_embeddings": 8, "long_factor": SHORT}},
    ),
    "granitemoe": Family("GraniteMoe", "granitemoe", LOCAL | GRANITE | {"tie_word_embeddings": True}),
    "granitemoe-untied": Family("GraniteMoe", "granitemoe", LOCAL | GRANITE),
    "granitemoeshared": Family(
        "GraniteMoeShared", "granitemoeshared", LOCAL | GRANITE | {"shared_intermediate_size": 80}
    ),
    "dbrx-squares": Family(
        "Dbrx",
        "dbrx",
        DBRX
        | {"attn_config": DBRX_ATTENTION, "ffn_config": DBRX_FFN | {"moe_normalize_expert_weights": 2.0}},
        without=DBRX_OTHERS,
    ),
    "dbrx": Family(
        "Dbrx",
        "dbrx",
        DBRX | {"attn_config": DBRX_ATTENTION, "ffn_config": DBRX_FFN},
        without=DBRX_OTHERS,
    ),
    "cohere2_moe": Family(
        "Cohere2Moe",
        "cohere2_moe",
        COHERE | {"num_shared_experts": 2, "first_k_dense_replace": 1, "prefix_dense_intermediate_size": 112},
    ),
    "cohere2_moe-tied": Family(
        "Cohere2Moe",
        "cohere2_moe",
        COHERE
        | {
            "num_shared_experts": 1,
            "prefix_dense_intermediate_size": 112,
            "norm_topk_prob": False,
            "sliding_window_pattern": 2,
            "tie_word_embeddings": True,
        },
    ),
    "llama4": Family(
        "Llama4",
        "llama4_scout",
        LLAMA4 | {"interleave_moe_layer_step": 2, "rope_parameters": LLAMA3_ROPE},
        config_stem="Llama4Text",
    ),
    "llama4-everywhere": Family(
        "Llama4",
        "llama4_scout",
        LLAMA4
        | {
            "num_experts_per_tok": 1,
            "no_rope_layer_interval": 2,
            "rope_parameters": LLAMA3_ROPE | {"low_freq_factor": 1.0, "high_freq_factor": 1.0},
        },
        config_stem="Llama4Text",
    ),
    "gpt_oss": Family("GptOss", "gpt_oss_120b", GPT_OSS),
    "gpt_oss-full": Family(
        "GptOss",
        "gpt_oss_120b",
        GPT_OSS
        | {
            "layer_types": ["full_attention", "full_attention", "sliding_attention", "full_attention"],
            "swiglu_alpha": 1.3,
            "swiglu_limit": 1.5,
            "attention_bias": False,
            "rope_parameters": YARN | {"truncate": True, "beta_fast": 8.0},
        },
    ),
}
