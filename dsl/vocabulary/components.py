"""Norms, feed-forward networks and the mixture of experts."""

from __future__ import annotations

from .construct import Construct, Param

_WEIGHT = Param(
    "weight",
    "scale, offset or none",
    "scale",
    takes_none=True,
    meaning="the weight w multiplies as it is, as 1 + w (w then starts at 0), or there is none",
)

NORMS = (
    Construct(
        "rms_norm",
        "component",
        (Param("eps", "positive number", "1e-6"), _WEIGHT),
        meaning="y = x * w / sqrt(mean(x^2) + eps), the mean over the dims of a token, w of (width,). Zhang "
        "and Sennrich, 2019.",
        users="nearly all; offset: qwen3_next, minimax_m3; none: llama4 (of queries and keys)",
    ),
    Construct(
        "layer_norm",
        "component",
        (
            Param("eps", "positive number", "1e-5"),
            _WEIGHT,
            Param("bias", "true or false", "true", meaning="whether b, of (width,), is added"),
        ),
        meaning="y = (x - mean(x)) * w / sqrt(var(x) + eps) + b. Ba et al., 2016.",
        users="phimoe; without bias: dbrx, cohere2_moe",
    ),
)

_GATED = (
    Param("width", "count", meaning="F, the width between the matrices"),
    Param("bias", "true or false", "false", meaning="whether gate, up and down have a bias"),
    Param(
        "clamp",
        "positive number or none",
        "none",
        takes_none=True,
        meaning="before the activation: gate(x) is cut off above it, up(x) on both sides",
    ),
    Param(
        "clamp_after",
        "positive number or none",
        "none",
        takes_none=True,
        meaning="after it: act(gate(x)) is cut off above it, up(x) on both sides; not with `clamp`",
    ),
    Param("offset", "number", "0", meaning="o in the equation"),
)
_GATED_MEANING = "gate and up are matrices of (F, width), down is one of (width, F). Shazeer, 2020."

NETWORKS = (
    Construct(
        "swiglu",
        "component",
        (
            *_GATED,
            Param("alpha", "positive number", "1", meaning="the slope of silu(g) = g * sigmoid(alpha * g)"),
        ),
        positional=True,
        meaning=f"y = down(silu(gate(x)) * (up(x) + o)); {_GATED_MEANING}",
        users="64 of 72 families; clamp, alpha, offset and bias: gpt_oss, minimax_m3; clamp_after: step3p7",
    ),
    Construct(
        "geglu",
        "component",
        _GATED,
        positional=True,
        meaning=f"y = down(gelu(gate(x)) * (up(x) + o)), gelu in its tanh form; {_GATED_MEANING}",
        users="gemma4, diffusion_gemma",
    ),
    Construct(
        "mlp",
        "component",
        (
            Param("width", "count", meaning="F, the width between the matrices"),
            Param(
                "act",
                "gelu, gelu_tanh, relu, relu2 or silu",
                "gelu",
                meaning="relu2 is relu(x)^2, gelu_tanh the tanh form of gelu",
            ),
            Param("bias", "true or false", "false", meaning="whether up and down have a bias"),
        ),
        positional=True,
        meaning="y = down(act(up(x))), no gate; up of (F, width), down of (width, F).",
        users="nemotron_h (relu2), switch_transformers and nllb_moe (relu)",
    ),
)

_NORM_OR_NONE = "a binding of a norm, or a norm, or none"

MIXTURE = (
    Construct(
        "moe",
        "component",
        (
            Param(
                "experts",
                "N of swiglu(W), geglu(W) or mlp(W)",
                takes=("component",),
                meaning="N networks of one shape, each with parameters of its own; a binding may stand for "
                "it",
            ),
            Param(
                "shared",
                "N of swiglu(W), geglu(W), mlp(W), or none",
                "none",
                takes_none=True,
                takes=("component",),
                meaning="experts that every token passes: one network of width N * W",
            ),
            Param(
                "shared_gate",
                "true or false",
                "false",
                meaning="the shared output times sigmoid(linear(x)), one number a token",
            ),
            Param(
                "combine",
                "sum or average",
                "sum",
                meaning="average: half the sum of routed and shared output",
            ),
            Param("router", "pipeline of stages", takes=("stage",), meaning="see Routers"),
            Param("router_bias", "true or false", "false", meaning="whether the router's linear has a bias"),
            Param(
                "identity",
                "count or 0",
                "0",
                meaning="so many experts more that give back their input and have no parameters; the router "
                "scores them as the last ones, and counts of active parameters take all to be chosen equally "
                "often",
            ),
            Param(
                "weigh",
                "output or input",
                "output",
                meaning="input: expert_e(weight_e * x) in the place of weight_e * expert_e(x)",
            ),
            Param(
                "latent",
                "count or none",
                "none",
                takes_none=True,
                meaning="the experts work on latent_down(x) of this width, their sum goes through latent_up",
            ),
            Param(
                "latent_norm",
                _NORM_OR_NONE,
                "none",
                takes_none=True,
                takes=("component",),
                meaning="a norm of latent_down(x)",
            ),
            Param(
                "expert_norm",
                _NORM_OR_NONE,
                "none",
                takes_none=True,
                takes=("component",),
                meaning="a norm of each expert's output before it is weighted, one weight for all experts",
            ),
            Param(
                "balance",
                "sum of loss terms or none",
                "none",
                takes_none=True,
                takes=("balance",),
                meaning="see Balance",
            ),
        ),
        meaning="y = sum over the chosen experts e of weight_e * expert_e(x), plus shared(x). Choices and "
        "weights are the router's, from its logits, a linear of x of (experts, width). Shazeer et al., 2017.",
        users="all; shared: 44 families; shared_gate: qwen2_moe, qwen3_next; average: cohere2_moe; identity: "
        "longcat_flash; weigh: llama4; latent: nemotron_h, muse_spark; router_bias: gpt_oss",
    ),
)
