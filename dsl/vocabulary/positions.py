"""Rotary positions, and what else an attention takes as a call."""

from __future__ import annotations

from .construct import Construct, Param

_ROTATED = (
    Param("dims", "even count", "all dims of a head", derived=True, rival="fraction"),
    Param("fraction", "number in (0, 1]", "1", rival="dims"),
    Param("layout", "half or interleaved", "half"),
)

POSITIONS = (
    Construct(
        "rope",
        "position",
        (
            Param("theta", "positive number", "10_000"),
            *_ROTATED,
        ),
        meaning="rotary positions on the first `dims` dims of a head, or on `fraction` of them, rounded "
        "down; pairs are (i, i + dims / 2), or with `layout: interleaved` (2 i, 2 i + 1). Su et al., "
        "2021.",
        users="nearly all; interleaved: llama4, cohere2_moe, ernie4_5_moe, the DeepSeek family; "
        "fraction: glm4_moe, minimax_m2",
    ),
    Construct(
        "linear_rope",
        "position",
        (
            Param("theta", "positive number", "10_000"),
            Param("factor", "positive number"),
            *_ROTATED,
        ),
        meaning="rope of positions divided by `factor`. Chen et al., 2023.",
    ),
    Construct(
        "dynamic_rope",
        "position",
        (
            Param("theta", "positive number", "10_000"),
            Param("factor", "positive number"),
            Param("original", "count of tokens"),
            *_ROTATED,
        ),
        meaning="rope with theta * (factor * S / original - factor + 1)^(dims / (dims - 2)) where the "
        "sequence, of S tokens, is longer than `original`.",
    ),
    Construct(
        "ntk_rope",
        "position",
        (
            Param("theta", "positive number", "10_000"),
            Param("alpha", "positive number"),
            *_ROTATED,
        ),
        meaning="rope with theta * alpha^(dims / (dims - 2)).",
        users="hunyuan_v1_moe",
    ),
    Construct(
        "yarn",
        "position",
        (
            Param("theta", "positive number", "10_000"),
            Param("factor", "positive number"),
            Param("original", "count of tokens"),
            Param("beta_fast", "positive number", "32"),
            Param("beta_slow", "positive number", "1"),
            Param("mscale", "positive number or none", "none", takes_none=True),
            Param("mscale_all_dim", "positive number or none", "none", takes_none=True),
            Param(
                "magnitude",
                "positive number",
                "0.1 * ln(factor) + 1, or by mscale and mscale_all_dim",
                derived=True,
                rival="mscale",
            ),
            Param("truncate", "true or false", "true"),
            *_ROTATED,
        ),
        meaning="rope whose low frequencies are divided by `factor`, with a ramp from beta_fast to "
        "beta_slow turns over `original` tokens; cos and sin times `magnitude`, and in mla the scores "
        "times (0.1 * mscale_all_dim * ln(factor) + 1)^2. Peng et al., 2023.",
        users="gpt_oss, deepseek_v2, deepseek_v3, mistral4",
    ),
    Construct(
        "llama3_rope",
        "position",
        (
            Param("theta", "positive number", "10_000"),
            Param("factor", "positive number"),
            Param("original", "count of tokens"),
            Param("low_freq", "positive number", "1"),
            Param("high_freq", "positive number", "4"),
            *_ROTATED,
        ),
        meaning="rope with wavelengths beyond original / low_freq divided by `factor`, those below "
        "original / high_freq kept. Llama 3.1, 2024.",
        users="llama4",
    ),
    Construct(
        "longrope",
        "position",
        (
            Param("theta", "positive number", "10_000"),
            Param("short", "list of numbers"),
            Param("long", "list of numbers"),
            Param("original", "count of tokens"),
            Param(
                "short_mscale",
                "positive number",
                "sqrt(1 + ln(context / original) / ln(original))",
                derived=True,
            ),
            Param("long_mscale", "positive number", "as short_mscale", derived=True),
            *_ROTATED,
        ),
        meaning="rope with frequency i divided by short[i], or by long[i] where the sequence is longer "
        "than `original`; cos and sin times the mscale. Ding et al., 2024.",
        users="phimoe",
    ),
)

PARTS = (
    Construct(
        "per_head",
        "qk_norm",
        (
            Param("norm", "a binding of a norm, or a norm", takes=("component",)),
            Param("after_rope", "true or false", "false"),
        ),
        positional=True,
        meaning="the norm over each head's dims, one weight of (head_dim,) for all heads",
        users="qwen3_moe, glm4_moe, afmoe; after_rope: llama4, hunyuan_v1_moe",
    ),
    Construct(
        "full_width",
        "qk_norm",
        (Param("norm", "a binding of a norm, or a norm", takes=("component",)),),
        positional=True,
        meaning="the norm over all heads at once, a weight of (heads * head_dim,)",
        users="olmoe, flex_olmo, minimax_m2",
    ),
    Construct(
        "element_gate",
        "gate",
        (
            Param("act", "sigmoid or softplus", "sigmoid"),
            Param("bias", "true or false", "false"),
        ),
        meaning="the output of the heads, before o, times act(linear(x)), one value for each element",
        users="afmoe, qwen3_next",
    ),
    Construct(
        "head_gate",
        "gate",
        (
            Param("act", "sigmoid or softplus", "sigmoid"),
            Param("bias", "true or false", "false"),
        ),
        meaning="the output of the heads, before o, times act(linear(x)), one value for each head",
        users="laguna, step3p7",
    ),
    Construct(
        "log_temperature",
        "temperature",
        (
            Param("scale", "positive number"),
            Param("period", "count of tokens"),
            Param("offset", "0 or 1", "1"),
        ),
        meaning="queries at position p times 1 + scale * ln(1 + floor((p + offset) / period))",
        users="llama4; offset 0: mistral4",
    ),
)
