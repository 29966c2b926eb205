"""The values that the components of a layer compute, with their shapes.

Shapes are numbers and letters: T tokens, S tokens of a sequence (the keys that a query may see), R rows of
tokens sent to experts, which depend on the choice: K a token, less where choices are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moec.dsl import spec as m
from moec.dsl.written import norm_name

Size = int | str


@dataclass(frozen=True)
class NamedValue:
    """A value by the name of what makes it, such as `attention.q`."""

    name: str
    shape: tuple[Size, ...]
    what: str


def equation_values(equation: m.Equation, width: int) -> Iterator[NamedValue]:
    """The values along an equation, in the order in which they are computed."""
    for call in m.calls(equation.value):
        yield from call_values(call, width)
    yield NamedValue(equation.target, ("T", width), "the sum with what it was" if equation.add else "")


def call_values(call: m.Call, width: int) -> Iterator[NamedValue]:
    """The values inside a call, and its result."""
    match call.component:
        case m.RmsNorm() | m.LayerNorm():
            yield NamedValue(call.path, ("T", width), f"{norm_name(call)}(...)")
            return
        case m.Gqa() as gqa:
            inside = _gqa(gqa)
        case m.Mla() as mla:
            inside = _mla(mla)
        case m.Ffn() as ffn:
            inside = _ffn(ffn, "T")
        case m.Moe() as moe:
            inside = _moe(moe, width)
    for value in inside:
        yield NamedValue(f"{call.path}.{value.name}", value.shape, value.what)
    yield NamedValue(call.path, ("T", width), f"{call.path}(...)")


def _gqa(gqa: m.Gqa) -> Iterator[NamedValue]:
    yield NamedValue("q", ("T", gqa.heads, gqa.head_dim), "queries")
    yield NamedValue("k", ("T", gqa.kv_heads, gqa.head_dim), _kept("keys", gqa.attend))
    yield NamedValue("v", ("T", gqa.kv_heads, gqa.value_dim), "values")
    yield from _heads(gqa.attend, gqa.heads, gqa.value_dim)


def _mla(mla: m.Mla) -> Iterator[NamedValue]:
    dims = mla.nope_dim + mla.rope_dim
    if mla.q_rank is not None:
        yield NamedValue("q_down", ("T", mla.q_rank), "latent of the queries")
    yield NamedValue("q", ("T", mla.heads, dims), f"queries, {mla.nope_dim} dims and {mla.rope_dim} rotated")
    yield NamedValue("kv_down", ("T", mla.kv_rank + mla.rope_dim), "latent of keys and values, rotated key")
    yield NamedValue("k", ("T", mla.heads, dims), _kept("keys", mla.attend))
    yield NamedValue("v", ("T", mla.heads, mla.value_dim), "values")
    yield from _heads(mla.attend, mla.heads, mla.value_dim)


def _kept(what: str, attend: m.Attend) -> str:
    if attend.window is not None:
        return f"{what}, of which a query sees {attend.window}"
    return what if attend.chunk is None else f"{what}, seen within blocks of {attend.chunk}"


def _heads(attend: m.Attend, heads: int, value_dim: int) -> Iterator[NamedValue]:
    more = " and a sink" if attend.sinks else ""
    yield NamedValue("scores", ("T", heads, "S"), f"softmax over the keys{more}")
    if attend.gate is not None:
        per_head = attend.gate.per == "head"
        yield NamedValue("gate", ("T", heads) if per_head else ("T", heads, value_dim), attend.gate.act)
    yield NamedValue("heads", ("T", heads, value_dim), "what o is applied to")


def _ffn(ffn: m.Ffn, rows: Size) -> Iterator[NamedValue]:
    if ffn.gated:
        yield NamedValue("gate", (rows, ffn.width), "")
    yield NamedValue("up", (rows, ffn.width), "")
    product = f"{ffn.activation}(gate) * up" if ffn.gated else f"{ffn.activation}(up)"
    yield NamedValue("hidden", (rows, ffn.width), product)


def _moe(moe: m.Moe, width: int) -> Iterator[NamedValue]:
    inner = moe.latent or width
    yield NamedValue("logits", ("T", moe.routed), _counts(moe))
    yield NamedValue("choices", ("T", moe.top_k), "experts of each token, and their weights")
    if moe.latent is not None:
        yield NamedValue("latent", ("T", moe.latent), "what the experts work on")
    dropped = any(isinstance(stage, m.Capacity) for stage in moe.router)
    rows = f"R <= {moe.top_k} T" if dropped or moe.identity else f"R = {moe.top_k} T"
    yield NamedValue("rows", ("R", inner), f"{rows}, one for each choice, in the order of experts")
    yield from _renamed("expert", _ffn(moe.expert, "R"))
    if moe.shared is not None:
        yield from _renamed("shared", _ffn(moe.shared.ffn, "T"))


def _counts(moe: m.Moe) -> str:
    return f"{moe.experts} experts and {moe.identity} that give back their input" if moe.identity else ""


def _renamed(prefix: str, values: Iterator[NamedValue]) -> Iterator[NamedValue]:
    for value in values:
        yield NamedValue(f"{prefix}.{value.name}", value.shape, value.what)


def shape_text(shape: Sequence[Size]) -> str:
    """`(T, 32, 128)`."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
