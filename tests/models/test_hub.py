"""The config.json that came with published weights, in the words of its time, is the shipped model."""

from __future__ import annotations

from typing import Any

import pytest

from moec import dsl, models
from moec.dsl.spec import Gqa, LongRope, ModelSpec


def _shipped(name: str) -> ModelSpec:
    return dsl.load(name, (), models.read, models.names()).model


def _factors() -> LongRope:
    attention = next(
        c.component for c in _shipped("phimoe").layers[0].calls() if isinstance(c.component, Gqa)
    )
    assert attention.rope is not None
    assert isinstance(attention.rope.scaling, LongRope)
    return attention.rope.scaling


COMMON = {
    "initializer_range": 0.02, "output_router_logits": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0", "use_cache": True,
}  # fmt: skip
USUAL = COMMON | {"attention_dropout": 0.0, "hidden_act": "silu"}
GPT_OSS = USUAL | {
    "architectures": ["GptOssForCausalLM"], "attention_bias": True, "eos_token_id": 200002,
    "experts_per_token": 4, "head_dim": 64, "hidden_size": 2880, "initial_context_length": 4096,
    "intermediate_size": 2880, "max_position_embeddings": 131072, "model_type": "gpt_oss",
    "num_attention_heads": 64, "num_experts_per_tok": 4, "num_key_value_heads": 8, "pad_token_id": 199999,
    "rms_norm_eps": 1e-05, "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128,
    "swiglu_limit": 7.0, "tie_word_embeddings": False, "vocab_size": 201088,
    "rope_scaling": {
        "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
        "rope_type": "yarn", "truncate": False,
    },
}  # fmt: skip
DEEPSEEK = USUAL | {
    "attention_bias": False, "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1,
    "kv_lora_rank": 512, "max_position_embeddings": 163840, "moe_layer_freq": 1, "pretraining_tp": 1,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rope_theta": 10000, "seq_aux": True,
    "tie_word_embeddings": False, "v_head_dim": 128,
}  # fmt: skip
YARN = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
DEEPSEEK_V2 = DEEPSEEK | {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "first_k_dense_replace": 1,
    "n_shared_experts": 2, "norm_topk_prob": False, "num_experts_per_tok": 6, "rms_norm_eps": 1e-06,
    "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}, "scoring_func": "softmax",
    "vocab_size": 102400,
}  # fmt: skip
DEEPSEEK_V3 = DEEPSEEK | {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "norm_topk_prob": True,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip
GLM = USUAL | {
    "architectures": ["Glm4MoeForCausalLM"], "attention_bias": True,
    "eos_token_id": [151329, 151336, 151338], "head_dim": 128, "max_position_embeddings": 131072,
    "model_type": "glm4_moe", "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": True,
    "num_attention_heads": 96, "num_experts_per_tok": 8, "num_key_value_heads": 8,
    "num_nextn_predict_layers": 1, "pad_token_id": 151329, "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 1000000, "tie_word_embeddings": False,
    "topk_group": 1, "vocab_size": 151552,
}  # fmt: skip
ATTENTION = ["sliding_attention", "full_attention"]
"""Of gpt-oss, in turns."""

THREE_OF_FOUR = ["sliding_attention"] * 3 + ["full_attention"]

CONFIGS: dict[str, dict[str, Any]] = {
    "flex_olmo": USUAL | {
        "architectures": ["FlexOlmoForCausalLM"], "attention_bias": False, "eos_token_id": 100257,
        "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096,
        "model_type": "flex_olmo", "norm_topk_prob": False, "num_attention_heads": 32, "num_experts": 7,
        "num_experts_per_tok": 5, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "pad_token_id": 100277, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000,
        "router_aux_loss_coef": 0.01, "tie_word_embeddings": False, "vocab_size": 100352,
    },
    "granitemoe": USUAL | {
        "architectures": ["GraniteMoeForCausalLM"], "attention_bias": False,
        "attention_multiplier": 0.015625, "bos_token_id": 0, "embedding_multiplier": 12.0,
        "eos_token_id": 0, "hidden_size": 1536, "intermediate_size": 512, "logits_scaling": 6.0,
        "max_position_embeddings": 4096, "model_type": "granitemoe", "num_attention_heads": 24,
        "num_experts_per_tok": 8, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "num_local_experts": 40, "pad_token_id": 0, "residual_multiplier": 0.22, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 10000, "router_aux_loss_coef": 0.001,
        "tie_word_embeddings": True, "vocab_size": 49152,
    },
    "dbrx": COMMON | {
        "architectures": ["DbrxForCausalLM"], "d_model": 6144, "emb_pdrop": 0.0, "max_seq_len": 32768,
        "model_type": "dbrx", "n_heads": 48, "n_layers": 40, "resid_pdrop": 0.0,
        "tie_word_embeddings": False, "vocab_size": 100352,
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "model_type": "", "rope_theta": 500000},
        "ffn_config": {
            "ffn_hidden_size": 10752, "model_type": "", "moe_jitter_eps": None, "moe_loss_weight": 0.05,
            "moe_num_experts": 16, "moe_top_k": 4, "ffn_act_fn": {"name": "silu"},
            "moe_normalize_expert_weights": 1, "uniform_expert_assignment": False,
        },
    },
    # Its window, as long as the longest sequence, is left out.
    "phimoe": USUAL | {
        "architectures": ["PhiMoEForCausalLM"], "attention_bias": True, "hidden_dropout": 0.0,
        "hidden_size": 4096, "input_jitter_noise": 0.01, "intermediate_size": 6400, "lm_head_bias": True,
        "max_position_embeddings": 131072, "model_type": "phimoe", "num_attention_heads": 32,
        "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "num_local_experts": 16, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "router_aux_loss_coef": 0.0, "router_jitter_noise": 0.01,
        "tie_word_embeddings": False, "vocab_size": 32064,
        "rope_scaling": {
            "long_factor": list(_factors().long), "long_mscale": 1.243163121016122,
            "original_max_position_embeddings": 4096, "short_factor": list(_factors().short),
            "short_mscale": 1.243163121016122, "type": "longrope",
        },
    },
    "ernie4_5_moe": COMMON | {
        "architectures": ["Ernie4_5_MoeForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 2560, "intermediate_size": 12288,
        "max_position_embeddings": 131072, "model_type": "ernie4_5_moe", "moe_intermediate_size": 1536,
        "moe_k": 6, "moe_layer_end_index": 27, "moe_layer_interval": 1, "moe_layer_start_index": 1,
        "moe_num_experts": 64, "moe_num_shared_experts": 2, "num_attention_heads": 20,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "pad_token_id": 0, "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0, "tie_word_embeddings": True, "use_bias": False, "vocab_size": 103424,
    },
    "afmoe": USUAL | {
        "architectures": ["AfmoeForCausalLM"], "global_attn_every_n_layers": 4, "head_dim": 128,
        "hidden_size": 2048, "intermediate_size": 6144, "layer_types": THREE_OF_FOUR * 8,
        "load_balance_coeff": 0.001, "max_position_embeddings": 131072, "model_type": "afmoe",
        "moe_intermediate_size": 1024, "mup_enabled": True, "n_group": 1, "num_attention_heads": 32,
        "num_dense_layers": 2, "num_expert_groups": 1, "num_experts": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 32, "num_key_value_heads": 4, "num_limited_groups": 1,
        "num_shared_experts": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000,
        "route_norm": True, "route_scale": 2.826, "score_func": "sigmoid", "sliding_window": 2048,
        "tie_word_embeddings": False, "topk_group": 1, "use_grouped_mm": True, "vocab_size": 200192,
        "auto_map": {"AutoConfig": "configuration_afmoe.AfmoeConfig"},
    },
    "longcat_flash": COMMON | {
        "architectures": ["LongcatFlashForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attention_method": "MLA", "bos_token_id": 1, "eos_token_id": 2, "expert_ffn_hidden_size": 2048,
        "ffn_hidden_size": 12288, "hidden_size": 6144, "kv_lora_rank": 512,
        "max_position_embeddings": 131072, "mla_scale_kv_lora": True, "mla_scale_q_lora": True,
        "model_type": "longcat_flash", "moe_topk": 12, "n_routed_experts": 512,
        "num_attention_heads": 64, "num_layers": 28, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05, "rope_theta": 10000000.0,
        "routed_scaling_factor": 6.0, "v_head_dim": 128, "vocab_size": 131072, "zero_expert_num": 256,
        "zero_expert_type": "identity",
    },
    # The weights of V3 and of MiniMax-M2 are quantised, which is left out.
    "deepseek_v2": DEEPSEEK_V2 | {
        "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_group": 8,
        "n_routed_experts": 160, "num_attention_heads": 128, "num_hidden_layers": 60,
        "num_key_value_heads": 128, "q_lora_rank": 1536, "routed_scaling_factor": 16.0, "topk_group": 3,
        "topk_method": "group_limited_greedy",
    },
    "deepseek_v2_lite": DEEPSEEK_V2 | {
        "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_group": 1,
        "n_routed_experts": 64, "num_attention_heads": 16, "num_hidden_layers": 27,
        "num_key_value_heads": 16, "q_lora_rank": None, "routed_scaling_factor": 1.0, "topk_group": 1,
        "topk_method": "greedy",
    },
    "deepseek_v3": DEEPSEEK_V3 | {
        "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432,
        "moe_intermediate_size": 2048, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
        "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
        "rms_norm_eps": 1e-06, "rope_scaling": YARN, "routed_scaling_factor": 2.5, "topk_group": 4,
        "vocab_size": 129280,
    },
    # Its model_type is "kimi_k2" in code that comes with it.
    "kimi_k2": DEEPSEEK_V3 | {
        "first_k_dense_replace": 1, "hidden_size": 7168, "intermediate_size": 18432,
        "max_position_embeddings": 131072, "moe_intermediate_size": 2048, "n_group": 1,
        "n_routed_experts": 384, "n_shared_experts": 1, "num_attention_heads": 64,
        "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 64,
        "num_nextn_predict_layers": 0, "q_lora_rank": 1536, "rms_norm_eps": 1e-06,
        "rope_scaling": YARN | {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0}, "rope_theta": 50000.0,
        "routed_scaling_factor": 2.827, "topk_group": 1, "vocab_size": 163840,
    },
    "moonlight_16b_a3b": DEEPSEEK_V3 | {
        "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 11264,
        "max_position_embeddings": 8192, "moe_intermediate_size": 1408, "n_group": 1,
        "n_routed_experts": 64, "n_shared_experts": 2, "num_attention_heads": 16, "num_experts_per_tok": 6,
        "num_hidden_layers": 27, "num_key_value_heads": 16, "num_nextn_predict_layers": 0,
        "q_lora_rank": None, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 50000.0,
        "routed_scaling_factor": 2.446, "topk_group": 1, "vocab_size": 163840,
    },
    "glm4_moe": GLM | {
        "first_k_dense_replace": 3, "hidden_size": 5120, "intermediate_size": 12288,
        "moe_intermediate_size": 1536, "n_routed_experts": 160, "num_hidden_layers": 92,
        "routed_scaling_factor": 2.5, "use_qk_norm": True,
    },
    "glm4_5_air": GLM | {
        "first_k_dense_replace": 1, "hidden_size": 4096, "intermediate_size": 10944,
        "moe_intermediate_size": 1408, "n_routed_experts": 128, "num_hidden_layers": 46,
        "routed_scaling_factor": 1.0, "use_qk_norm": False,
    },
    "minimax_m2": USUAL | {
        "architectures": ["MiniMaxM2ForCausalLM"], "attn_type_list": [1] * 62, "head_dim": 128,
        "hidden_size": 3072, "intermediate_size": 1536, "layernorm_full_attention_beta": 1.0,
        "layernorm_linear_attention_beta": 1.0, "layernorm_mlp_beta": 1.0, "max_position_embeddings": 196608,
        "mlp_intermediate_size": 8192, "model_type": "minimax_m2", "mtp_transformer_layers": 1,
        "num_attention_heads": 48, "num_experts_per_tok": 8, "num_hidden_layers": 62,
        "num_key_value_heads": 8, "num_local_experts": 256, "num_mtp_modules": 3, "qk_norm_type": "per_layer",
        "rms_norm_eps": 1e-06, "rope_theta": 5000000, "rotary_dim": 64, "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0, "scoring_func": "sigmoid", "shared_intermediate_size": 0,
        "shared_moe_mode": "sigmoid", "sliding_window": None, "tie_word_embeddings": False, "use_mtp": True,
        "use_qk_norm": True, "use_routing_bias": True, "vocab_size": 200064,
    },
    "gpt_oss_20b": GPT_OSS
    | {"num_hidden_layers": 24, "num_local_experts": 32, "layer_types": ATTENTION * 12},
    "gpt_oss_120b": GPT_OSS
    | {"num_hidden_layers": 36, "num_local_experts": 128, "layer_types": ATTENTION * 18},
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_config_is_the_shipped_model(name: str) -> None:
    spec = dsl.spec_from_config(CONFIGS[name], models.read, models.names())
    assert spec.model.layers == _shipped(name).layers
    sizes = ("vocab", "width", "context", "embed", "head", "init_std")
    assert {k: getattr(spec.model, k) for k in sizes} == {k: getattr(_shipped(name), k) for k in sizes}
