"""Norms, attention, feed-forward networks and the mixture of experts."""

from __future__ import annotations

from .construct import Construct, Param

_ATTEND = (
    Param("window", "count of tokens or none", "none", takes_none=True),
    Param("chunk", "count of tokens or none", "none", takes_none=True),
    Param("sinks", "true or false", "false"),
    Param("softcap", "positive number or none", "none", takes_none=True),
    Param("temperature", "log_temperature(...) or none", "none", takes_none=True, takes=("temperature",)),
    Param("scale", "positive number", "1 / sqrt(dims of a query)", derived=True),
    Param("gate", "element_gate(...), head_gate(...) or none", "none", takes_none=True, takes=("gate",)),
)
"""How queries look at keys: arguments of every kind of attention."""

_GATED = (
    Param("width", "count"),
    Param("bias", "true or false", "false"),
    Param("clamp", "positive number or none", "none", takes_none=True),
    Param("clamp_after", "positive number or none", "none", takes_none=True),
    Param("offset", "number", "0"),
)

COMPONENTS = (
    Construct(
        "rms_norm",
        "component",
        (
            Param("eps", "positive number", "1e-6"),
            Param("weight", "scale, offset or none", "scale", takes_none=True),
        ),
        meaning="x * w / sqrt(mean(x^2) + eps), w of (width,). `weight: offset` multiplies by 1 + w, "
        "`none` by nothing. Zhang and Sennrich, 2019.",
        users="nearly all; offset: qwen3_next, minimax_m3; none: llama4 (of queries and keys)",
    ),
    Construct(
        "layer_norm",
        "component",
        (
            Param("eps", "positive number", "1e-5"),
            Param("weight", "scale, offset or none", "scale", takes_none=True),
            Param("bias", "true or false", "true"),
        ),
        meaning="(x - mean(x)) * w / sqrt(var(x) + eps) + b. Ba et al., 2016.",
        users="phimoe; without bias: dbrx, cohere2_moe",
    ),
    Construct(
        "gqa",
        "component",
        (
            Param("heads", "count"),
            Param("kv_heads", "count", "heads", derived=True),
            Param("head_dim", "count, even with rope", "width / heads", derived=True),
            Param("value_dim", "count", "head_dim", derived=True),
            Param("rope", "a position or none", "rope(theta: 10_000)", takes_none=True, takes=("position",)),
            Param("qkv_bias", "true or false", "false"),
            Param("out_bias", "true or false", "false"),
            Param(
                "qk_norm",
                "per_head(norm), full_width(norm) or none",
                "none",
                takes_none=True,
                takes=("qk_norm",),
            ),
            Param("clip", "positive number or none", "none", takes_none=True),
            Param("value_scale", "positive number", "1"),
            *_ATTEND,
        ),
        meaning="o(softmax(q k^T * scale) v) over the position itself and earlier ones; each of kv_heads "
        "keys and values serves heads / kv_heads queries. `window: n` sees n keys, the position itself "
        "included; `chunk: n` the earlier keys of its block of n positions; `clip: c` clamps q, k and v "
        "to [-c, c] after a norm over the full width; `sinks` adds one learned score a head to the "
        "softmax; `softcap: c` makes scores c * tanh(score / c); `value_scale` multiplies the values. "
        "Ainslie et al., 2023.",
        users="57 of 72 families",
    ),
    Construct(
        "mla",
        "component",
        (
            Param("heads", "count"),
            Param("q_rank", "count or none", "none", takes_none=True),
            Param("kv_rank", "count"),
            Param("nope_dim", "count"),
            Param("rope_dim", "count, even with rope"),
            Param("v_dim", "count"),
            Param("rope", "a position or none", "rope(theta: 10_000)", takes_none=True, takes=("position",)),
            Param("norm", "a binding of a norm, or a norm", "rms_norm(eps: 1e-6)", takes=("component",)),
            Param("bias", "true or false", "false"),
            Param("latent_scale", "true or false", "false"),
            *_ATTEND,
        ),
        meaning="attention from latents: q = q_up(norm(q_down(x))), or q(x) without q_rank; [c, k_rope] "
        "= kv_down(x); [k_nope, v] = kv_up(norm(c)); k = [k_nope, rope(k_rope)], whose rotated part all "
        "heads share. `bias` is of q_down, kv_down and o; `latent_scale` multiplies a latent by "
        "sqrt(width / rank). DeepSeek-AI, DeepSeek-V2, 2024.",
        users="deepseek_v2, deepseek_v3, glm4_moe_lite, mistral4, axk1; latent_scale: longcat_flash",
    ),
    Construct(
        "swiglu",
        "component",
        (*_GATED, Param("alpha", "positive number", "1")),
        positional=True,
        meaning="down(silu(gate(x)) * up(x)), silu(g) = g * sigmoid(alpha * g). Shazeer, 2020. `offset: "
        "o` adds o to up(x); `clamp: c` clamps gate(x) from above and up(x) on both sides, `clamp_after` "
        "the activated gate instead.",
        users="64 of 72 families; clamp, alpha, offset and bias: gpt_oss",
    ),
    Construct(
        "geglu",
        "component",
        _GATED,
        positional=True,
        meaning="down(gelu(gate(x)) * up(x)), gelu in its tanh form. Shazeer, 2020. `offset: o` adds o "
        "to up(x); `clamp: c` clamps gate(x) from above and up(x) on both sides, `clamp_after` the "
        "activated gate instead.",
        users="gemma4",
    ),
    Construct(
        "mlp",
        "component",
        (
            Param("width", "count"),
            Param("act", "gelu, gelu_tanh, relu, relu2 or silu", "gelu"),
            Param("bias", "true or false", "false"),
        ),
        positional=True,
        meaning="down(act(up(x))), no gate; relu2 is relu(x)^2.",
        users="nemotron_h (relu2), switch_transformers (relu)",
    ),
    Construct(
        "moe",
        "component",
        (
            Param("experts", "N of swiglu(W), geglu(W) or mlp(W)", takes=("component",)),
            Param(
                "shared",
                "N of swiglu(W), geglu(W), mlp(W), or none",
                "none",
                takes_none=True,
                takes=("component",),
            ),
            Param("shared_gate", "true or false", "false"),
            Param("combine", "sum or average", "sum"),
            Param("router", "pipeline of stages", takes=("stage",)),
            Param("router_bias", "true or false", "false"),
            Param("identity", "count or 0", "0"),
            Param("weigh", "output or input", "output"),
            Param("latent", "count or none", "none", takes_none=True),
            Param(
                "latent_norm",
                "a binding of a norm, or a norm, or none",
                "none",
                takes_none=True,
                takes=("component",),
            ),
            Param(
                "expert_norm",
                "a binding of a norm, or a norm, or none",
                "none",
                takes_none=True,
                takes=("component",),
            ),
            Param("balance", "sum of loss terms or none", "none", takes_none=True, takes=("balance",)),
        ),
        meaning="sum over the chosen experts e of weight_e * expert_e(x), plus the shared experts "
        "(`combine: average`: half of both). `N of f(W)` shared experts are one network of width N * W. "
        "`identity: n` experts more give back their input; `weigh: input` computes expert_e(weight_e * "
        "x); `latent: d` has the experts work on a projection to d dims. Shazeer et al., 2017.",
        users="all; shared: 44 families; shared_gate: qwen2_moe; average: cohere2_moe; identity: "
        "longcat_flash; input: llama4; latent: nemotron_h, muse_spark",
    ),
)
