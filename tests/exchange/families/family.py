"""A row of the table of families: a small model of transformers, as its config says it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import transformers

VOCAB, SEQUENCES, SEQUENCE = 128, 2, 16

UNSHIPPED = Path(__file__).parents[1] / "unshipped"
"""Texts of families that moec does not ship, written from the language reference alone."""

# Without pad_token_id: transformers gives the embedding of a padding token no gradient.
BASE: Mapping[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """`stem` names classes of transformers, `model` the shipped model that such checkpoints are imported as,
    or a file of UNSHIPPED.

    `settings` are of the config, beyond those of BASE that are not in `without`.
    """

    stem: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    config_stem: str = ""

    @property
    def spec(self) -> str | None:
        """The text to import with; None where the shipped one is found by the config."""
        return str(UNSHIPPED / self.model) if self.model.endswith(".moe") else None

    def config(self) -> transformers.PretrainedConfig:
        """The config of transformers."""
        base = {key: value for key, value in BASE.items() if key not in self.without}
        made = getattr(transformers, f"{self.config_stem or self.stem}Config")(**base | dict(self.settings))
        made._attn_implementation = made._experts_implementation = "eager"
        assert isinstance(made, transformers.PretrainedConfig)
        return made

    def build(self) -> transformers.PreTrainedModel:
        """The model of transformers, with the weights it starts from."""
        made = getattr(transformers, f"{self.stem}ForCausalLM")(self.config())
        assert isinstance(made, transformers.PreTrainedModel)
        return made
