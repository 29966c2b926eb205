"""A model with a `config` block that has every kind of entry, and a config.json of it."""

from __future__ import annotations

from dsl_texts import SMALL

TEXT = (
    SMALL
    + """
checkpoint huggingface {
    embed                                      = "embed.weight"
    layers[i].attention.{q,k,v,o}              = "h.{i}.attn.{}.weight"
    layers[i].{attention,experts}.norm         = "h.{i}.{}_norm.weight"
    layers[i].experts.router                   = "h.{i}.router.weight"
    layers[i].experts.expert[e].{gate,up,down} = "h.{i}.experts.{e}.{}.weight"
    norm                                       = "norm.weight"
    logits                                     = "head.weight"

    config {
        model_type       = "small"
        hidden_size      = width
        n_layers | depth = layers
        head_dim         = attention.head_dim else none
        bias             = attention.qkv_bias else false
        experts          = [experts.experts]
        rope.theta       = attention.rope.theta else 5000
        renormalize      = experts.router.renormalize
        balance          = experts.balance.aux_loss else 0.0
        window           = attention.window else none
        kinds            = each_layer("full")
        dropout          = 0.0
        ignore           = ["note"]
    }
}
"""
)
CONFIG: dict[str, object] = {
    "model_type": "small",
    "hidden_size": 32,
    "n_layers": 3,
    "head_dim": 16,
    "bias": False,
    "experts": 6,
    "rope": {"theta": 500.0},
    "renormalize": False,
    "balance": 0.25,
    "window": None,
    "kinds": ["full", "full", "full"],
    "dropout": 0.0,
    "pad_token_id": None,
}
