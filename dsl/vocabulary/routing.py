"""The stages of a router, and the losses that balance it."""

from __future__ import annotations

from .construct import Construct, Param

STAGES = (
    Construct(
        "jitter",
        "stage",
        (Param("eps", "number in (0, 1)"),),
        positional=True,
        meaning="in training, the router's input times random numbers, uniform in [1 - eps, 1 + eps], one "
        "for each of its elements; the experts' input stays. Fedus et al., 2021.",
        users="mixtral (router_jitter_noise), switch_transformers",
    ),
    Construct(
        "scale",
        "stage",
        (Param("factor", "positive number"),),
        positional=True,
        meaning="before the choice logits, after it weights, times factor.",
        users="deepseek_v2, deepseek_v3, glm4_moe, afmoe; of logits: muse_spark",
    ),
    Construct(
        "softcap",
        "stage",
        (Param("limit", "positive number"),),
        positional=True,
        meaning="limit * tanh(logit / limit).",
        users="laguna",
    ),
    Construct(
        "softmax",
        "stage",
        meaning="score_e = exp(logit_e) / sum over all experts; after the choice, of the chosen experts' "
        "weights over the chosen ones.",
        users="mixtral, qwen2_moe, qwen3_moe, olmoe, dbrx; after the choice: gpt_oss, granitemoe",
    ),
    Construct(
        "sigmoid",
        "stage",
        meaning="score_e = 1 / (1 + exp(-logit_e)); after the choice, of each weight.",
        users="deepseek_v3, minimax_m2, glm4_moe, afmoe; after the choice: llama4, cohere2_moe, kolibri1",
    ),
    Construct(
        "sqrt_softplus",
        "stage",
        meaning="score_e = sqrt(ln(1 + exp(logit_e))).",
        users="deepseek_v4",
    ),
    Construct(
        "correction_bias",
        "stage",
        (
            Param(
                "update",
                "positive number or none",
                "none",
                takes_none=True,
                meaning="u: after every step, b_e grows by u * sign(mean load - load_e)",
            ),
        ),
        meaning="for the choice only, score_e + b_e, where b, of (experts,), starts at 0 and has no "
        "gradient; load_e counts the choices of e in the global batch. Wang et al., 2024.",
        users="35 families, deepseek_v3 first",
    ),
    Construct(
        "sinkhorn",
        "stage",
        (Param("iterations", "count", "8"),),
        meaning="for the choice only, exp(logits) of the S tokens of a sequence, its rows and columns "
        "divided in turns until a token's sum is 1 / S and an expert's 1 / experts. Clark et al., 2022.",
        users="Megatron-Core, SageMaker's library",
    ),
    Construct(
        "groups",
        "stage",
        (
            Param("groups", "count", meaning="neighbouring experts in so many groups of one size"),
            Param("keep", "count", meaning="how many groups can be chosen from"),
            Param(
                "by",
                "max or top2_sum",
                "max",
                meaning="a group's score: its best expert's, or the sum of its two best",
            ),
            Param(
                "fill",
                "minus_inf or zero",
                "minus_inf",
                meaning="what the others' scores become; zero can still be chosen where scores are negative",
            ),
        ),
        positional=True,
        meaning="for the choice only: experts outside of a token's `keep` best groups lose their score.",
        users="deepseek_v2 (max, zero), deepseek_v3 and glm4_moe (top2_sum), mistral4 (top2_sum, zero)",
    ),
    Construct(
        "top",
        "stage",
        (Param("k", "count"),),
        positional=True,
        meaning="the k experts with the best scores; their weights are their scores.",
        users="nearly all",
    ),
    Construct(
        "sparsemixer",
        "stage",
        (
            Param("k", "count"),
            Param("jitter", "positive number", "0.01", meaning="half the relative gap"),
        ),
        positional=True,
        meaning="k picks in turn: the best expert not yet picked, its weight a softmax over the experts left "
        "whose gap to it, (best - logit) / max(|logit|, best), is at most 2 * jitter. Phi-3.5-MoE, 2024.",
        users="phimoe",
    ),
    Construct(
        "hash",
        "stage",
        (Param("k", "count"),),
        positional=True,
        meaning="k different experts by a hash of the token's id; their weights are their scores. Roller et "
        "al., 2021.",
        users="deepseek_v4 (first layers)",
    ),
    Construct(
        "round_robin",
        "stage",
        (Param("k", "count"),),
        positional=True,
        meaning="the token at position p of its sequence takes experts p * k, p * k + 1, ... modulo their "
        "number, weighted by their scores: a forced balance, for measuring.",
        users="Megatron-Core, SageMaker's library (moe_load_balancing: balanced)",
    ),
    Construct(
        "renormalize",
        "stage",
        (
            Param("eps", "number, at least 0", "0", meaning="added to the norm"),
            Param("minimum", "number, at least 0", "0", meaning="the least divisor"),
            Param("p", "number in [0.1, 100]", "1", meaning="the order of the norm; 1 is the plain sum"),
        ),
        meaning="weights divided by max(norm + eps, minimum), norm = (sum over the chosen of "
        "|weight|^p)^(1/p).",
        users="mixtral, qwen3_moe, deepseek_v3 (eps), ernie4_5_moe (minimum), dbrx (p)",
    ),
    Construct(
        "expert_scale",
        "stage",
        meaning="weights times a learned factor of the chosen expert, one of (experts,), from 1.",
        users="gemma4",
    ),
    Construct(
        "capacity",
        "stage",
        (
            Param("factor", "positive number"),
            Param(
                "pad",
                "true or false",
                "false",
                meaning="every expert computes as many rows as it may take, zeros where there is no "
                "token: one amount of work for all, and the same result",
            ),
        ),
        positional=True,
        meaning="an expert takes at most ceil(factor * S * k / experts) choices of a sequence of S tokens, "
        "in the order of positions; further ones are dropped, their weight is 0. Fedus et al., 2021.",
        users="switch_transformers; pad: Megatron-Core's padding to capacity",
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
            Param(
                "per",
                "model or layer",
                "model",
                meaning="model: the tokens of all MoE layers are pooled, as transformers does; layer: the "
                "losses of the layers are added, as the paper does",
            ),
            Param(
                "choices",
                "router or softmax",
                "router",
                meaning="softmax: f counts the k largest logits whatever the router chose, as transformers "
                "does",
            ),
            Param(
                "over",
                "micro_batch or batch",
                "micro_batch",
                meaning="batch: f is over the micro-batches of the batch so far. Qiu et al., 2025",
            ),
        ),
        positional=True,
        meaning="experts * sum over e of f_e * p_e, f_e the choices of e per token, p_e the mean of "
        "softmax(logits)_e, both over the tokens of a global micro-batch. Fedus et al., 2021, eq. 4.",
        users="mixtral and 29 more; choices: softmax: minimax_m2, ernie4_5_moe, phimoe; over: batch: the "
        "global loss of Megatron-Core",
    ),
    Construct(
        "sequence_aux_loss",
        "balance",
        (Param("coefficient", "positive number"),),
        positional=True,
        meaning="experts / (k * S) * sum over e of f_e * p_e within each sequence of S tokens, f_e its "
        "choices of e, p_e the mean of the router's scores, each token's divided by their sum; mean over "
        "sequences, summed over layers. Needs a score before the choice. DeepSeek-V3, 2024, eq. 17-20.",
        users="deepseek_v3",
    ),
    Construct(
        "z_loss",
        "balance",
        (Param("coefficient", "positive number"),),
        positional=True,
        meaning="mean of logsumexp(logits)^2 over tokens, summed over layers. Zoph et al., 2022, eq. 5.",
        users="olmoe, switch_transformers",
    ),
)
