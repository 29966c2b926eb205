"""What a mixture of experts can be besides a small Mixtral: one option of the language, or a few that meet.

Changes of the pieces of `small_models.small_text`, by name.
"""

from __future__ import annotations

DEEPSEEK = (
    "sigmoid | correction_bias(update: 0.01) | groups(2, keep: 1, by: top2_sum, fill: zero)"
    " | top(2) | renormalize(eps: 1e-20) | scale(2.5)"
)

MOE_VARIANTS: dict[str, dict[str, str]] = {
    # --- routers ---
    "sigmoid": {"router": "sigmoid | top(2) | renormalize(eps: 0.1)"},
    "sigmoid after top": {"router": "top(1) | sigmoid", "balance": "z_loss(0.01)"},
    "sqrt softplus": {"router": "sqrt_softplus | top(2) | renormalize(minimum: 2) | scale(1.5)"},
    "logits scaled and capped": {
        "router": "scale(3) | softcap(0.5) | scale(2) | softmax | top(2)",
        "balance": "aux_loss(0.02) + z_loss(0.01)",
    },
    "DeepSeek-V3": {
        "moe": "shared: 2 of swiglu(6),",
        "router": DEEPSEEK,
        "balance": "sequence_aux_loss(0.02)",
    },
    "best of groups": {"experts": "6", "router": "softmax | groups(3, keep: 2) | top(3)"},
    "sinkhorn": {"router": "sinkhorn(iterations: 4) | groups(2, keep: 1, fill: zero) | top(2) | softmax"},
    "sparsemixer": {"router": "sparsemixer(2, jitter: 0.4)"},
    "round robin": {"router": "softmax | round_robin(3)", "experts": "5"},
    "p-norm": {"router": "softmax | top(3) | renormalize(p: 2.5)"},
    "expert scale": {"router": "softmax | top(2) | renormalize | expert_scale | scale(0.5)"},
    "router bias": {"moe": "router_bias: true,", "router": "top(2) | softmax"},
    "balance over the batch": {
        "balance": "aux_loss(0.02, over: batch)",
        "micro_batches": "3",
        "sequences": "6",
    },
    "balance of layers over the batch": {
        "balance": "aux_loss(0.02, per: layer, over: batch, choices: softmax)",
        "micro_batches": "2",
        "sequences": "6",
    },
    # --- choices that are not sent ---
    "capacity": {"router": "softmax | top(2) | capacity(0.6)"},
    "identity": {"moe": "identity: 3,", "experts": "5", "router": "softmax | top(3) | scale(1.5)"},
    "identity and capacity": {
        "experts": "5",
        "network": "swiglu(12, bias: true)",
        "moe": "identity: 1,",
        "router": "softmax | top(2) | capacity(0.7)",
    },
    "padded capacity": {
        "experts": "5",
        "network": "swiglu(12, bias: true)",
        "moe": "expert_norm: layer_norm(),",
        "router": "softmax | top(2) | capacity(0.7, pad: true)",
    },
    # --- experts ---
    "gpt-oss": {
        "experts": "4",
        "network": "swiglu(12, bias: true, clamp: 0.2, alpha: 1.7, offset: 1)",
        "moe": "router_bias: true,",
        "router": "top(2) | softmax",
    },
    "biases of few rows": {
        "experts": "5",
        "network": "mlp(12, act: relu2, bias: true)",
        "router": "softmax | top(1)",
    },
    "gelu": {
        "experts": "4",
        "network": "geglu(12, clamp_after: 0.1)",
        "moe": "shared: 1 of mlp(8, act: gelu, bias: true), combine: average,",
    },
    "weighed input": {
        "experts": "5",
        "network": "swiglu(12, bias: true)",
        "moe": "weigh: input, shared: 1 of swiglu(8),",
        "router": "top(2) | sigmoid | capacity(0.8)",
    },
    "latent": {
        "experts": "5",
        "network": "mlp(12, act: relu)",
        "moe": "latent: 8, latent_norm: norm, expert_norm: layer_norm(eps: 1e-3), shared: 1 of swiglu(8),",
        "router": "sigmoid | correction_bias | top(2) | renormalize | capacity(0.8)",
    },
    # --- losses ---
    "choices of softmax": {
        "router": "sigmoid | correction_bias | top(2) | renormalize",
        "balance": "aux_loss(0.02, choices: softmax)",
    },
    "all losses": {
        "moe": "identity: 2,",
        "router": "softmax | top(2)",
        "balance": "aux_loss(0.02, per: layer) + sequence_aux_loss(0.03) + z_loss(0.01)",
        "micro_batches": "2",
        "sequences": "6",
    },
    "unlike layers": {
        "layers": "3",
        "experts": "match layer { 0 => 4, _ => 5 }",
        "balance": "aux_loss(0.02, per: layer)",
    },
}
