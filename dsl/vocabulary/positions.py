"""Rotary positions. In equations, f_i is the frequency of pair i, 0 to d / 2 - 1, of d rotated dims."""

from __future__ import annotations

from .construct import Construct, Param

_THETA = Param("theta", "positive number", "10_000", meaning="the base of the frequencies")
_ROTATED = (
    Param(
        "dims",
        "even count",
        "all dims of a head",
        derived=True,
        rival="fraction",
        meaning="d; the other dims stay as they are",
    ),
    Param(
        "fraction",
        "number in (0, 1]",
        "1",
        rival="dims",
        meaning="in the place of `dims`: d is so much of a head, rounded down",
    ),
    Param(
        "layout",
        "half or interleaved",
        "half",
        meaning="pair i is dims i and i + d / 2, or with interleaved 2 i and 2 i + 1",
    ),
)
_FACTOR = Param("factor", "number, at least 1", meaning="how much longer than `original` sequences may be")
_ORIGINAL = Param("original", "count of tokens", meaning="the context before it was extended")

POSITIONS = (
    Construct(
        "rope",
        "position",
        (_THETA, *_ROTATED),
        meaning="pair i of the first d dims of queries and keys is turned by p * f_i radians at position p, "
        "f_i = theta^(-2 i / d). In mla, a head's dims are its rope_dim. Su et al., 2021.",
        users="nearly all; interleaved: llama4, cohere2_moe, ernie4_5_moe, the DeepSeek family; dims or "
        "fraction: glm4_moe, minimax_m2, mimo_v2_flash",
    ),
    Construct(
        "linear_rope",
        "position",
        (_THETA, _FACTOR, *_ROTATED),
        meaning="rope with f_i / factor. Chen et al., 2023.",
        users="models extended by position interpolation (rope_type linear)",
    ),
    Construct(
        "dynamic_rope",
        "position",
        (_THETA, _FACTOR, _ORIGINAL, *_ROTATED),
        meaning="rope with theta * (factor * S / original - factor + 1)^(d / (d - 2)) in the place of theta, "
        "where S, the length of the sequence, is more than original.",
        users="models extended without training (rope_type dynamic)",
    ),
    Construct(
        "ntk_rope",
        "position",
        (_THETA, Param("alpha", "positive number"), *_ROTATED),
        meaning="rope with theta * alpha^(d / (d - 2)) in the place of theta, whatever the length.",
        users="hunyuan_v1_moe",
    ),
    Construct(
        "yarn",
        "position",
        (
            _THETA,
            _FACTOR,
            _ORIGINAL,
            Param(
                "beta_fast", "positive number", "32", meaning="turns within original from which f_i is kept"
            ),
            Param("beta_slow", "positive number", "1", meaning="turns up to which it is f_i / factor"),
            Param(
                "mscale",
                "positive number or none",
                "none",
                takes_none=True,
                meaning="m(mscale) / m(mscale_all_dim) is the magnitude, m(s) = 0.1 * s * ln(factor) + 1",
            ),
            Param(
                "mscale_all_dim",
                "positive number or none",
                "none",
                takes_none=True,
                meaning="as above; in mla, scores are multiplied by m(mscale_all_dim)^2 as well",
            ),
            Param(
                "magnitude",
                "positive number",
                "0.1 * ln(factor) + 1, or by mscale and mscale_all_dim",
                derived=True,
                rival="mscale",
                meaning="what the rotated dims are multiplied by",
            ),
            Param(
                "truncate",
                "true or false",
                "true",
                meaning="the ends of the ramp are whole pairs, rounded outwards",
            ),
            *_ROTATED,
        ),
        meaning="rope with f_i * (1 - r_i) + f_i / factor * r_i, where r_i goes from 0 at the pair that "
        "turns beta_fast times within original tokens up to 1 at the one that turns beta_slow times, linear "
        "in i; pair(turns) = d * ln(original / (2 pi turns)) / (2 ln(theta)). Peng et al., 2023.",
        users="gpt_oss, deepseek_v2, deepseek_v3, mistral4",
    ),
    Construct(
        "llama3_rope",
        "position",
        (
            _THETA,
            _FACTOR,
            _ORIGINAL,
            Param(
                "low_freq",
                "positive number",
                "1",
                meaning="turns within original up to which it is f_i / factor",
            ),
            Param("high_freq", "positive number", "4", meaning="turns from which f_i is kept"),
            *_ROTATED,
        ),
        meaning="rope with f_i * s_i + f_i / factor * (1 - s_i), s_i = (t_i - low_freq) / (high_freq - "
        "low_freq) cut off at 0 and 1, t_i = original * f_i / (2 pi) its turns within original tokens. Llama "
        "3.1, 2024.",
        users="llama4",
    ),
    Construct(
        "longrope",
        "position",
        (
            _THETA,
            Param("short", "list of numbers", meaning="d / 2 of them, for sequences up to original"),
            Param("long", "list of numbers", meaning="d / 2 of them, for longer ones"),
            _ORIGINAL,
            Param(
                "short_mscale",
                "positive number",
                "sqrt(1 + ln(context / original) / ln(original))",
                derived=True,
                meaning="what the rotated dims are multiplied by; 1 by default if context is not longer",
            ),
            Param(
                "long_mscale",
                "positive number",
                "as short_mscale",
                derived=True,
                meaning="the same for longer sequences",
            ),
            *_ROTATED,
        ),
        meaning="rope with f_i / short[i], or with f_i / long[i] where the sequence is longer than original. "
        "Ding et al., 2024.",
        users="phimoe",
    ),
)
