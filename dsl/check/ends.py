"""The ends of a model: `x = 12 * norm(embed(tokens))` and `logits = linear(norm(x))`."""

from __future__ import annotations

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import Arguments, bind
from moec.dsl.check.bindings import Components
from moec.dsl.check.expressions import STREAM, Reader, Reported, check_unique, only_argument, split_product
from moec.dsl.check.values import Scope, flag, real
from moec.dsl.diagnostics import Mistake
from moec.dsl.vocabulary import CONSTRUCTS


def embed(expr: s.Expr, components: Components, scope: Scope) -> m.Embed:
    """`x = scale * norm(embed(tokens))`, the scale and the norm optional."""
    reader = Reader("embed", components.outside, scope)
    scale, value = _scaled(expr, reader)
    norm = None
    if isinstance(value, s.Invoke) and isinstance(value.callee, s.Ref) and value.name != "embed":
        norm = _embed_norm(value, reader)
        value = only_argument(value)
    if not _is_embed(value):
        label = f"expected `embed(tokens)`, found {s.describe(value)}"
        raise Mistake(c.BAD_EMBED.at(value.span, label))
    return m.Embed(scale, norm, expr.span.origin())


def _is_embed(value: s.Expr) -> bool:
    if not isinstance(value, s.Invoke) or value.name != "embed" or len(value.arguments) != 1:
        return False
    (argument,) = value.arguments
    return (
        argument.name in (None, "tokens")
        and isinstance(argument.value, s.Ref)
        and argument.value.text == "tokens"
    )


def _embed_norm(call: s.Invoke, reader: Reader) -> m.Call | None:
    """None if the norm has a fault that has been reported."""
    stream = s.Ref((STREAM,), call.span)
    only_argument(call)
    applied = s.Invoke(call.callee, (s.Argument(None, stream, call.span),), call.span)
    try:
        found = reader.value(applied)
    except Reported:
        return None
    if not isinstance(found, m.Call) or not isinstance(found.component, m.RmsNorm | m.LayerNorm):
        label = f"expected a norm of the embedding, found `{call.name}`"
        raise Mistake(c.BAD_EMBED.at(call.callee.span, label))
    return found


def _scaled(expr: s.Expr, reader: Reader) -> tuple[float, s.Expr]:
    if not isinstance(expr, s.Product):
        return 1.0, expr
    value = split_product(expr, reader.is_number)
    return (1.0, expr) if value is None else (reader.factor(expr, value), value)


def head(expr: s.Expr, components: Components, scope: Scope, embedding: m.Embed, width: int) -> m.Head:
    """`softcap(scale * linear(norm(x), tied: true, bias: true), cap)`, all but the `linear` optional."""
    reader = Reader("head", components.outside, scope)
    inner, cap = _capped(expr, scope)
    scale, value = _scaled(inner, reader)
    if not isinstance(value, s.Invoke) or value.name != "linear":
        raise Mistake(c.BAD_HEAD.at(value.span, f"expected `linear(...)`, found {s.describe(value)}"))
    args = bind(CONSTRUCTS["linear"], value, components.bag)
    made = m.Head(
        argument=_argument(args, reader),
        tied=args.read("tied", lambda e: flag(e, "tied"), False),
        bias=args.read("bias", lambda e: flag(e, "bias"), False),
        scale=scale,
        softcap=cap,
        origin=expr.span.origin(),
    )
    taken = ["embed", "logits", *(["logits_bias"] if made.bias else [])]
    calls = ([(embedding.norm, expr.span)] if embedding.norm else []) + reader.calls
    check_unique(calls, width, components.bag, taken)
    return made


def _argument(args: Arguments, reader: Reader) -> m.Expression:
    """What the projection takes; the residual stream where a fault of it has been reported."""
    nothing = m.Var(STREAM)
    try:
        found = args.read("x", reader.value, nothing)
    except Reported:
        return nothing
    for call, place in reader.calls:
        if isinstance(call.component, m.Moe):
            raise Mistake(c.NOT_YET.at(place, "a mixture of experts in the output is not supported yet"))
    return found


def _capped(expr: s.Expr, scope: Scope) -> tuple[s.Expr, float | None]:
    """The V and the C of `softcap(V, C)`."""
    if not isinstance(expr, s.Invoke) or expr.name != "softcap":
        return expr, None
    if len(expr.arguments) != 2 or expr.arguments[0].name or expr.arguments[1].name not in (None, "limit"):
        raise Mistake(c.BAD_HEAD.at(expr.span, "expected `softcap(linear(...), LIMIT)`"))
    value, limit = (argument.value for argument in expr.arguments)
    return value, real(limit, "limit", scope=scope)
