"""The stages of a router, and the losses that balance it."""

from __future__ import annotations

from .construct import Construct, Param

STAGES = (
    Construct(
        "softmax",
        "stage",
        meaning="probabilities over all experts, or over the chosen ones after the choice",
        users="mixtral, qwen2_moe, qwen3_moe, olmoe, dbrx; after top: gpt_oss, granitemoe",
    ),
    Construct(
        "sigmoid",
        "stage",
        meaning="sigmoid of each logit, or of each chosen weight after the choice",
        users="deepseek_v3, minimax_m2, glm4_moe, afmoe; after top: llama4, cohere2_moe, kolibri1",
    ),
    Construct(
        "sqrt_softplus",
        "stage",
        meaning="sqrt(ln(1 + exp(logit)))",
        users="deepseek_v4",
    ),
    Construct(
        "softcap",
        "stage",
        (Param("limit", "positive number"),),
        positional=True,
        meaning="limit * tanh(logit / limit)",
        users="laguna",
    ),
    Construct(
        "scale",
        "stage",
        (Param("factor", "positive number"),),
        positional=True,
        meaning="times a number: logits or scores before the choice, weights after it",
        users="deepseek_v2, deepseek_v3, glm4_moe, afmoe; before: muse_spark",
    ),
    Construct(
        "correction_bias",
        "stage",
        (Param("update", "positive number or none", "none", takes_none=True),),
        meaning="a bias of each expert, added for the choice only. `update: u`: every step adds u * "
        "sign(mean load - load) to it; it has no gradient. Wang et al., 2024.",
        users="35 families, deepseek_v3 first",
    ),
    Construct(
        "groups",
        "stage",
        (
            Param("groups", "count"),
            Param("keep", "count"),
            Param("by", "max or top2_sum", "max"),
            Param("fill", "minus_inf or zero", "minus_inf"),
        ),
        positional=True,
        meaning="the experts in equal groups; only those of the `keep` best can be chosen, a group's "
        "score being that of its best expert or the sum of its two best. The others' scores become -inf, "
        "or 0.",
        users="deepseek_v2 (max, zero), deepseek_v3 (top2_sum), glm4_moe",
    ),
    Construct(
        "sinkhorn",
        "stage",
        (Param("iterations", "count", "8"),),
        meaning="for the choice only: exp(logits) of the tokens of a sequence, their sums over experts "
        "and over tokens made even in turns. Clark et al., 2022.",
        users="Megatron-Core, SMP",
    ),
    Construct(
        "jitter",
        "stage",
        (Param("eps", "number in (0, 1)"),),
        positional=True,
        meaning="the router's input times uniform random numbers from [1 - eps, 1 + eps] while training. "
        "Fedus et al., 2021.",
        users="mixtral (router_jitter_noise), switch_transformers",
    ),
    Construct(
        "top",
        "stage",
        (Param("k", "count"),),
        positional=True,
        meaning="the k best experts of each token, best first",
        users="nearly all",
    ),
    Construct(
        "sparsemixer",
        "stage",
        (
            Param("k", "count"),
            Param("jitter", "positive number", "0.01"),
        ),
        positional=True,
        meaning="k picks in turn: the best expert not yet picked, weighted by a softmax over the experts "
        "left whose relative gap to it, (best - logit) / max(|logit|, best), is at most 2 * jitter. "
        "Phi-3.5-MoE, 2024.",
        users="phimoe",
    ),
    Construct(
        "hash",
        "stage",
        (Param("k", "count"),),
        positional=True,
        meaning="k different experts by a hash of the token's id; weights are their scores. Roller et "
        "al., 2021.",
        users="deepseek_v4 (first layers)",
    ),
    Construct(
        "round_robin",
        "stage",
        (Param("k", "count"),),
        positional=True,
        meaning="token t takes experts t * k, t * k + 1, ... modulo their number: a forced balance, for "
        "measuring",
        users="Megatron-Core, SMP (moe_load_balancing: balanced)",
    ),
    Construct(
        "renormalize",
        "stage",
        (
            Param("eps", "number, at least 0", "0"),
            Param("minimum", "number, at least 0", "0"),
            Param("p", "positive number", "1"),
        ),
        meaning="the weights of the chosen experts divided by max(norm + eps, minimum), norm = (sum of "
        "weight^p)^(1/p)",
        users="mixtral, qwen3_moe, deepseek_v3 (eps), ernie4_5_moe (minimum), dbrx (p)",
    ),
    Construct(
        "expert_scale",
        "stage",
        meaning="times a learned factor of the chosen expert, from 1",
        users="gemma4",
    ),
    Construct(
        "capacity",
        "stage",
        (Param("factor", "positive number"),),
        positional=True,
        meaning="an expert takes at most ceil(factor * S * k / experts) choices of one sequence, in the "
        "order of positions; the weights of the others become 0 and they are not sent. Per sequence, so "
        "that no layout changes it. Fedus et al., 2021.",
        users="switch_transformers",
    ),
)

CHOOSERS = ("top", "sparsemixer", "hash", "round_robin")
ROUTER_ORDER = (
    ("jitter",),
    ("scale", "softcap"),
    ("softmax", "sigmoid", "sqrt_softplus"),
    ("correction_bias", "sinkhorn"),
    ("groups",),
    CHOOSERS,
    ("softmax", "sigmoid"),
    ("renormalize",),
    ("scale", "expert_scale"),
    ("capacity",),
)
"""The stages of a router in the order they may be written; those of one group exclude each other, except
factors and caps, which may be several."""

BALANCE = (
    Construct(
        "aux_loss",
        "balance",
        (
            Param("coefficient", "positive number"),
            Param("per", "model or layer", "model"),
            Param("choices", "router or softmax", "router"),
        ),
        positional=True,
        meaning="experts * sum_e f_e p_e, f_e the choices of e per token, p_e its mean softmax "
        "probability, over the tokens of a global micro-batch and of all MoE layers (per: model), or "
        "summed over layers (per: layer). `choices: softmax` counts the k largest logits instead of what "
        "the router chose, as transformers does. Fedus et al., 2021.",
        users="mixtral and 29 more; choices: softmax: minimax_m2, ernie4_5_moe",
    ),
    Construct(
        "sequence_aux_loss",
        "balance",
        (Param("coefficient", "positive number"),),
        positional=True,
        meaning="experts / (k * S) * sum_e f_e p_e within each sequence of S tokens, f_e its choices of "
        "e, p_e the mean of the router's scores made to sum to one; mean over sequences, summed over "
        "layers. DeepSeek-V3, 2024, eq. 17-20.",
        users="deepseek_v3",
    ),
    Construct(
        "z_loss",
        "balance",
        (Param("coefficient", "positive number"),),
        positional=True,
        meaning="mean of logsumexp(router logits)^2 over tokens, summed over layers. Zoph et al., 2022.",
        users="olmoe",
    ),
)
