"""Keys of a config.json. A file may come from anyone."""

from __future__ import annotations

from collections.abc import Mapping

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl.diagnostics import SourceErrors

HARMLESS = frozenset(
    (
        "_attn_implementation", "_name_or_path", "auto_map", "chunk_size_feed_forward", "dtype", "id2label",
        "is_encoder_decoder", "label2id", "output_attentions", "output_hidden_states", "output_router_logits",
        "pretraining_tp", "problem_type", "return_dict", "tokenizer_class", "torch_dtype",
        "transformers_version", "use_cache",
    )
)  # fmt: skip
"""Keys that change nothing that is computed, with any value, at any depth: configs nest in configs."""

MUST_BE_ZERO = frozenset(
    (
        "attention_dropout", "attn_pdrop", "emb_pdrop", "embd_pdrop", "hidden_dropout", "resid_pdrop",
        "router_jitter_noise",
    )
)  # fmt: skip

QUANTISED = "quantization_config"

_LEVELS = 5  # of nested objects; what is deeper stays a value


def checkpoint_of(spec: m.Spec) -> m.Checkpoint:
    """The weight map of a spec. Raises SourceErrors where there is none."""
    if spec.checkpoint is None:
        label = f"the model `{spec.model.name}` has no `checkpoint huggingface {{ ... }}`"
        raise SourceErrors([c.NO_MAP.at(None, label)])
    return spec.checkpoint


def flatten(config: Mapping[str, object], prefix: str = "", level: int = 1) -> dict[str, object]:
    """Nested objects as dotted keys. A key that has dots itself is quoted, and so is none of those."""
    flat: dict[str, object] = {}
    for written, value in config.items():
        key = f'"{written}"' if "." in written else written
        if isinstance(value, Mapping) and level < _LEVELS:
            flat.update(flatten(value, f"{prefix}{key}.", level + 1))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def is_harmless(key: str, value: object, ignored: frozenset[str]) -> bool:
    """Whether an entry changes nothing that is computed: by its name, or by that of an object it lies in."""
    steps = key.split(".")
    if value is None or steps[-1].endswith("_token_id") or not HARMLESS.isdisjoint(steps):
        return True
    if any(".".join(steps[:depth]) in ignored for depth in range(1, len(steps) + 1)):
        return True
    return steps[-1] in MUST_BE_ZERO and same(value, 0)


def same(value: object, expected: object) -> bool:
    """Equal, with 0 and 0.0 the same but not False, in lists as well."""
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        return len(value) == len(expected) and all(map(same, value, expected))
    return value == expected and isinstance(value, bool) == isinstance(expected, bool)


def same_class(value: object, expected: object) -> bool:
    """Equal lists of class names, whose case has varied: PhiMoEForCausalLM became PhimoeForCausalLM."""
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        return [str(name).lower() for name in value] == [str(name).lower() for name in expected]
    return same(value, expected)


def shown_key(key: str) -> str:
    """A key for a message: in backquotes, without control characters, not too long."""
    return "`" + "".join(letter if letter.isprintable() else "?" for letter in key[:80]) + "`"


def shown(value: object) -> str:
    """A value for a message."""
    if isinstance(value, list | tuple) and len(value) > 20:
        value = [*value[:20], ...]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def asked_by(entry: m.ConfigEntry) -> str:
    """Where the text asks for an entry."""
    return f"asked for by {entry.origin}: {' '.join(entry.origin.text.split())}"
