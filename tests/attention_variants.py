"""What attention, positions and norms can be besides those of a small Mixtral: a few options that meet.

Changes of the pieces of `small_models.small_text`, by name.
"""

from __future__ import annotations

_YARN = "yarn(theta: 100, factor: 4, original: 6, mscale: 0.7, mscale_all_dim: 0.8, layout: interleaved)"

ATTENTION_VARIANTS: dict[str, dict[str, str]] = {
    "sinks in a window": {
        "attention": "sinks: true, window: 3, out_bias: true, rope: rope(theta: 100, fraction: 0.5)"
    },
    "chunks": {
        "attention": "chunk: 4, temperature: log_temperature(scale: 0.3, period: 2), "
        "rope: ntk_rope(alpha: 3), qk_norm: per_head(rms_norm(weight: none), after_rope: true)"
    },
    "softcap": {"attention": "softcap: 0.2, scale: 0.7, sinks: true, gate: head_gate"},
    "wide values": {
        "attention": "value_dim: 6, value_scale: 0.7, gate: element_gate(act: softplus, bias: true), "
        "rope: longrope(short: [1, 2], long: [3, 4], original: 4)"
    },
    "latent attention": {
        "mixer": "mla",
        "heads": "heads: 4, q_rank: 7, kv_rank: 6, nope_dim: 6, rope_dim: 4, v_dim: 5",
        "attention": f"latent_scale: true, bias: true, rope: {_YARN}",
    },
    "latent keys": {
        "mixer": "mla",
        "heads": "heads: 2, kv_rank: 5, nope_dim: 4, rope_dim: 2, v_dim: 4, norm: layer_norm()",
        "attention": "rope: none, sinks: true, gate: element_gate()",
    },
    "layer norm": {"norm": "layer_norm(eps: 1e-5)", "attention": "qk_norm: per_head(norm)"},
    "offset norm": {"norm": "rms_norm(eps: 1e-5, weight: offset)", "attention": "qk_norm: full_width(norm)"},
    "bare norm": {"norm": "layer_norm(weight: none, bias: false)"},
}
