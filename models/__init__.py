"""The shipped models: `.moe` texts, and how to list and read them."""

from __future__ import annotations

from importlib.resources import files

ALIASES = {
    "gpt_oss": "gpt_oss_20b",
    "llama4": "llama4_scout",
    "mixtral": "mixtral_8x7b",
    "olmoe": "olmoe_1b_7b",
    "qwen2_moe": "qwen2_57b_a14b",
    "qwen3_moe": "qwen3_30b_a3b",
}
"""Other names of shipped models, by which they are found but not listed."""


def names() -> tuple[str, ...]:
    """The names of all shipped models, sorted."""
    found = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".moe") for name in found if name.endswith(".moe")))


def read(name: str) -> tuple[str, str] | None:
    """(file name, text) of a shipped model by name or alias; None if there is none of this name."""
    name = ALIASES.get(name, name)
    if name not in names():
        return None
    file = f"{name}.moe"
    return file, files(__name__).joinpath(file).read_text(encoding="utf-8")
