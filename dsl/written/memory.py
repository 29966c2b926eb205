"""The `memory` block as values by path."""

from __future__ import annotations

from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.format import format_expression

from .nodes import call, node


def memory_values(memory: m.MemorySpec) -> dict[str, s.Expr]:
    """Setting -> its value as the language writes it."""
    return {
        "recompute": _recompute(memory.recompute),
        "offload": node(None)
        if memory.offload is None
        else call("activations", horizon=memory.offload.horizon, least=_bytes(memory.offload.least_bytes)),
        "gathered": _ref(memory.gathered),
        "loss_chunk": node(None)
        if memory.loss_chunk is None
        else s.Number(str(memory.loss_chunk), "tokens", node(None).span),
    }


def _recompute(recompute: m.Recompute) -> s.Expr:
    match recompute:
        case m.RecomputeNames(names):
            return s.ListOf(tuple(_ref(name) for name in names), node(None).span)
        case m.RecomputeAuto(budget):
            return call("auto", budget=_bytes(budget))
        case word:
            return _ref(word)


def _ref(text: str) -> s.Ref:
    return s.Ref(tuple(text.split(".")), node(None).span)


def _bytes(count: int) -> s.Number:
    """In the largest binary unit that leaves a whole number."""
    prefix, size = next((p, n) for p, n in _PREFIXES if count % n == 0)
    return s.Number(f"{count // size}{prefix}B", "", node(None).span)


_PREFIXES = (("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("", 1))


def memory_texts(memory: m.MemorySpec) -> dict[str, str]:
    """Setting -> its value as text: `recompute`, and what else is not as it is by default."""
    values, plain = memory_values(memory), memory_values(m.MemorySpec())
    texts = {name: format_expression(value) for name, value in values.items()}
    return {n: t for n, t in texts.items() if n == "recompute" or t != format_expression(plain[n])}
