"""Attention, and what it takes as calls: norms of queries and keys, gates, temperatures."""

from __future__ import annotations

from .construct import Construct, Param

_ATTEND = (
    Param(
        "window",
        "count of tokens or none",
        "none",
        takes_none=True,
        meaning="a position sees this many keys, its own included: key j of query i if i - window < j <= i",
    ),
    Param(
        "chunk",
        "count of tokens or none",
        "none",
        takes_none=True,
        meaning="a position sees the earlier keys of its own chunk of so many positions, and its own: key j "
        "of query i if j <= i and floor(j / chunk) = floor(i / chunk); not with `window`",
    ),
    Param(
        "sinks",
        "true or false",
        "false",
        meaning="one learned score a head, in the softmax, without a value: it takes weight from the others",
    ),
    Param(
        "softcap",
        "positive number or none",
        "none",
        takes_none=True,
        meaning="scores become softcap * tanh(score / softcap)",
    ),
    Param(
        "temperature",
        "log_temperature(...) or none",
        "none",
        takes_none=True,
        takes=("temperature",),
        meaning="a factor of queries that grows with their position",
    ),
    Param(
        "scale", "positive number", "1 / sqrt(dims of a query)", derived=True, meaning="the factor of scores"
    ),
    Param(
        "gate",
        "element_gate(...), head_gate(...) or none",
        "none",
        takes_none=True,
        takes=("gate",),
        meaning="multiplies the output of the heads before o",
    ),
)
"""How queries look at keys: arguments of every kind of attention."""

_ROPE = Param(
    "rope",
    "a position or none",
    "rope(theta: 10_000)",
    takes_none=True,
    takes=("position",),
    meaning="rotates queries and keys; none: no positions",
)

ATTENTION = (
    Construct(
        "gqa",
        "component",
        (
            Param("heads", "count", meaning="query heads"),
            Param(
                "kv_heads", "count", "heads", derived=True, meaning="heads of keys and values; divides heads"
            ),
            Param(
                "head_dim",
                "count, even with rope",
                "width / heads",
                derived=True,
                meaning="dims of a query and of a key",
            ),
            Param("value_dim", "count", "head_dim", derived=True, meaning="dims of a value"),
            _ROPE,
            Param("qkv_bias", "true or false", "false", meaning="whether q, k and v have a bias"),
            Param("out_bias", "true or false", "false", meaning="whether o has a bias"),
            Param(
                "qk_norm",
                "per_head(norm), full_width(norm) or none",
                "none",
                takes_none=True,
                takes=("qk_norm",),
                meaning="a norm of queries and one of keys",
            ),
            Param(
                "clip",
                "positive number or none",
                "none",
                takes_none=True,
                meaning="queries, keys and values are cut off at [-clip, clip], after a norm over the full "
                "width and before one per head",
            ),
            Param("value_scale", "positive number", "1", meaning="a factor of the values"),
            *_ATTEND,
        ),
        meaning="y = o(softmax(scale * q(x) k(x)^T) v(x)), each position over itself and earlier ones; head "
        "h of the queries goes with head floor(h / (heads / kv_heads)) of keys and values. q is a matrix of "
        "(heads * head_dim, width), k of (kv_heads * head_dim, width), v of (kv_heads * value_dim, width), "
        "o of (width, heads * value_dim). Ainslie et al., 2023.",
        users="57 of 72 families; value_dim and value_scale: mimo_v2_flash; clip: olmoe, dbrx; chunk: "
        "llama4; sinks: gpt_oss, flint, mimo_v2_flash; scale: granitemoe",
    ),
    Construct(
        "mla",
        "component",
        (
            Param("heads", "count"),
            Param(
                "q_rank",
                "count or none",
                "none",
                takes_none=True,
                meaning="dims of the queries' latent; none: queries straight from x",
            ),
            Param("kv_rank", "count", meaning="dims of the latent of keys and values"),
            Param("nope_dim", "count", meaning="dims of a query and a key without positions"),
            Param(
                "rope_dim", "count, even with rope", meaning="dims with positions; all heads share the key's"
            ),
            Param("v_dim", "count", meaning="dims of a value"),
            _ROPE,
            Param(
                "norm",
                "a binding of a norm, or a norm",
                "rms_norm(eps: 1e-6)",
                takes=("component",),
                meaning="the norm of both latents",
            ),
            Param("bias", "true or false", "false", meaning="whether q_down, kv_down and o have a bias"),
            Param(
                "latent_scale",
                "true or false",
                "false",
                meaning="latents times sqrt(width / rank) after their norm",
            ),
            *_ATTEND,
        ),
        meaning="attention from latents: q = q_up(norm(q_down(x))), or q(x) without q_rank; [c, r] = "
        "kv_down(x); for each head [k, v] = kv_up(norm(c)), and its key is [k, rope(r)]. q_down is a matrix "
        "of (q_rank, width), q_up of (heads * (nope_dim + rope_dim), q_rank), kv_down of (kv_rank + "
        "rope_dim, width), kv_up of (heads * (nope_dim + v_dim), kv_rank), o of (width, heads * v_dim). "
        "DeepSeek-AI, DeepSeek-V2, 2024.",
        users="deepseek_v2, deepseek_v3, glm4_moe_lite, mistral4, axk1; latent_scale: longcat_flash",
    ),
)

_NORM = Param("norm", "a binding of a norm, or a norm", takes=("component",))
_ACT = Param("act", "sigmoid or softplus", "sigmoid")
_GATE_BIAS = Param("bias", "true or false", "false", meaning="whether the linear has a bias")

PARTS = (
    Construct(
        "per_head",
        "qk_norm",
        (_NORM, Param("after_rope", "true or false", "false", meaning="the norm comes after the rotation")),
        positional=True,
        meaning="the norm over each head's dims, one weight of (head_dim,) for all heads.",
        users="qwen3_moe, glm4_moe, afmoe; after_rope: llama4, hunyuan_v1_moe",
    ),
    Construct(
        "full_width",
        "qk_norm",
        (_NORM,),
        positional=True,
        meaning="the norm over all heads at once, a weight of (heads * head_dim,) for queries and of "
        "(kv_heads * head_dim,) for keys; before the rotation.",
        users="olmoe, flex_olmo, minimax_m2",
    ),
    Construct(
        "element_gate",
        "gate",
        (_ACT, _GATE_BIAS),
        meaning="the output of the heads times act(gate(x)), one number for each of its elements: gate is a "
        "matrix of (heads * value_dim, width).",
        users="afmoe, qwen3_next; softplus: laguna",
    ),
    Construct(
        "head_gate",
        "gate",
        (_ACT, _GATE_BIAS),
        meaning="the output of the heads times act(gate(x)), one number for each head: gate is a matrix of "
        "(heads, width).",
        users="step3p7, laguna (softplus), beam (bias)",
    ),
    Construct(
        "log_temperature",
        "temperature",
        (
            Param("scale", "positive number"),
            Param("period", "count of tokens"),
            Param("offset", "0 or 1", "1"),
        ),
        meaning="queries at position p, counted from 0, times 1 + scale * ln(1 + floor((p + offset) / "
        "period)).",
        users="llama4; offset 0: mistral4",
    ),
)
