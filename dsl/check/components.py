"""The components of a model: `norm = rms_norm(eps: 1e-5)` -> `RmsNorm`, and so on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import Arguments, bind, callee
from moec.dsl.check.values import Scope, flag, is_none, real, whole, wrong_type
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest

DEFAULT_EPS = 1e-6


@dataclass(frozen=True)
class Context:
    """What the components of a model are checked against. `width` is None where it could not be read."""

    width: int | None
    scope: Scope
    bindings: Mapping[str, s.Expr]  # every binding of the model, as written
    bag: DiagnosticBag


def component(expr: s.Expr, context: Context) -> m.Component:
    """The component a call constructs. Raises Mistake where it is none at all; other faults go to the bag."""
    construct, call = callee(expr, ("component",), "a component")
    arguments = bind(construct, call, context.bag)
    builders: dict[str, Callable[[Arguments, Context], m.Component]] = {
        "rms_norm": _rms_norm,
        "gqa": _gqa,
        "swiglu": _swiglu,
        "moe": _moe,
    }
    return builders[construct.name](arguments, context)


def _rms_norm(args: Arguments, context: Context) -> m.RmsNorm:
    eps = args.read("eps", lambda e: real(e, "eps", high=1.0, scope=context.scope), DEFAULT_EPS)
    return m.RmsNorm(eps, origin=args.call.span.origin())


def _swiglu(args: Arguments, context: Context) -> m.Ffn:
    width = args.read("width", lambda e: whole(e, "width", limits.FFN_WIDTH, scope=context.scope), 1)
    return m.Ffn(width, origin=args.call.span.origin())


# --- attention ---


def _gqa(args: Arguments, context: Context) -> m.Gqa:
    scope = context.scope
    heads = args.read("heads", lambda e: whole(e, "heads", limits.HEADS, scope=scope), 1)
    kv_heads = args.read("kv_heads", lambda e: whole(e, "kv_heads", limits.HEADS, scope=scope), heads)
    if args.sound("heads", "kv_heads"):
        _check_kv_heads(args, heads, kv_heads)
    rope = args.read("rope", lambda e: _rope(e, context), m.Rope(10_000.0, origin=args.call.span.origin()))
    head_dim = _head_dim(args, context, heads, rope is not None)
    return m.Gqa(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=head_dim,
        rope=rope,
        qkv_bias=args.read("qkv_bias", lambda e: flag(e, "qkv_bias"), False),
        qk_norm=args.read("qk_norm", lambda e: _qk_norm(e, context), None),
        clip=args.read("clip", lambda e: None if is_none(e) else real(e, "clip", scope=scope), None),
        attend=m.Attend(window=args.read("window", lambda e: _window(e, scope), None)),
        origin=args.call.span.origin(),
    )


def _check_kv_heads(args: Arguments, heads: int, kv_heads: int) -> None:
    if heads % kv_heads:
        legal = ", ".join(map(str, _divisors_near(heads, kv_heads)))
        label = f"heads = {heads} is not a multiple of kv_heads = {kv_heads}"
        args.bag.add(
            c.NOT_DIVISIBLE.at(args.span_of("kv_heads", "heads"), label, advice=f"nearest kv_heads: {legal}")
        )


def _divisors_near(number: int, wanted: int) -> list[int]:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d <= wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return below + above


def _window(expr: s.Expr, scope: Scope) -> int | None:
    return (
        None if is_none(expr) else whole(expr, "window", limits.CONTEXT, scope=scope, prefix_of_tokens=True)
    )


def _head_dim(args: Arguments, context: Context, heads: int, even: bool) -> int:
    if args.has("head_dim"):
        dim = args.read("head_dim", lambda e: whole(e, "head_dim", limits.HEAD_DIM, scope=context.scope), 2)
    else:
        dim = args.bag.attempt(_default_head_dim, args, context.width, heads) or 2
    if even and dim % 2 and args.sound("head_dim", "heads"):
        label = f"rope pairs the two halves of a head, and head_dim = {dim} is odd"
        args.bag.add(c.NOT_DIVISIBLE.at(args.span_of("head_dim", "heads"), label))
    return dim


def _default_head_dim(args: Arguments, width: int | None, heads: int) -> int:
    if width is None or not args.sound("heads"):
        return 2
    if width % heads:
        label = f"head_dim is width / heads, and width = {width} is not a multiple of heads = {heads}"
        raise Mistake(
            c.NOT_DIVISIBLE.at(args.span_of("heads"), label, advice="give `head_dim`, or change `heads`")
        )
    return width // heads


def _rope(expr: s.Expr, context: Context) -> m.Rope | None:
    if is_none(expr):
        return None
    construct, call = callee(expr, ("position",), "`rope(...)` or `none`")
    args = bind(construct, call, context.bag)
    theta = args.read("theta", lambda e: real(e, "theta", scope=context.scope), 10_000.0)
    return m.Rope(theta, origin=expr.span.origin())


def _qk_norm(expr: s.Expr, context: Context) -> m.QkNorm | None:
    if is_none(expr):
        return None
    construct, call = callee(expr, ("qk_norm",), "`per_head(norm)`, `full_width(norm)` or `none`")
    args = bind(construct, call, context.bag)
    norm = args.read("norm", lambda e: _norm(e, context), m.RmsNorm(DEFAULT_EPS))
    over: Literal["head", "full"] = "head" if construct.name == "per_head" else "full"
    return m.QkNorm(norm, over, origin=expr.span.origin())


def _norm(expr: s.Expr, context: Context) -> m.Norm:
    value = expr
    if isinstance(expr, s.Ref):
        if expr.text not in context.bindings:
            advice = nearest(expr.text, list(context.bindings))
            raise Mistake(
                c.UNKNOWN_NAME.at(expr.span, f"`{expr.text}` is not bound in the model", advice=advice)
            )
        value = context.bindings[expr.text]
    if not isinstance(value, s.Invoke) or value.name != "rms_norm":
        raise wrong_type(expr, "a binding of `rms_norm(...)`, or `rms_norm(...)`")
    norm = component(value, context)
    assert isinstance(norm, m.RmsNorm)
    return norm


# --- mixture of experts ---


def _moe(args: Arguments, context: Context) -> m.Moe:
    nothing = (1, m.Ffn(1))
    count, expert = args.read("experts", lambda e: _repeat(e, "experts", limits.EXPERTS, context), nothing)
    router = args.read("router", lambda e: _router(e, context), (m.Softmax(), m.Top(1)))
    top = next((stage for stage in router if isinstance(stage, m.Top)), m.Top(1))
    if args.sound("experts", "router") and top.k > count:
        label = f"top({top.k}) chooses more than the {count} experts there are"
        args.bag.add(c.TOP_TOO_LARGE.at(args.span_of("router"), label, advice=f"at most top({count})"))
    return m.Moe(
        experts=count,
        expert=expert,
        router=router,
        balance=args.read("balance", lambda e: _balance(e, context), ()),
        shared=_shared(args, context),
        origin=args.call.span.origin(),
    )


def _repeat(expr: s.Expr, what: str, limit: int, context: Context) -> tuple[int, m.Ffn]:
    if not isinstance(expr, s.Repeat):
        raise wrong_type(expr, "`N of swiglu(W)`")
    count = whole(expr.count, what, limit, scope=context.scope)
    body = expr.body
    if isinstance(body, s.Ref) and body.text in context.bindings:
        body = context.bindings[body.text]
    ffn = component(body, context) if not isinstance(body, s.Ref) else None
    if not isinstance(ffn, m.Ffn):
        raise wrong_type(expr.body, "`swiglu(W)`")
    return count, ffn


def _shared(args: Arguments, context: Context) -> m.SharedExperts | None:
    gate = args.read("shared_gate", lambda e: flag(e, "shared_gate"), False)
    ffn = args.read("shared", lambda e: _shared_ffn(e, context), None)
    if ffn is None:
        if gate and args.sound("shared", "shared_gate"):
            args.bag.add(c.MISPLACED.at(args.span_of("shared_gate"), "there is no shared expert to gate"))
        return None
    return m.SharedExperts(ffn, gate=gate, origin=args.span_of("shared").origin())


def _shared_ffn(expr: s.Expr, context: Context) -> m.Ffn | None:
    if is_none(expr):
        return None
    count, ffn = _repeat(expr, "shared experts", limits.EXPERTS, context)
    if count != 1:
        label = f"{count} shared experts of width {ffn.width}"
        advice = f"write `1 of swiglu({count * ffn.width})`: it computes the same"
        raise Mistake(c.ONE_SHARED.at(expr.span, label, advice=advice))
    return ffn


_LEGAL_ROUTERS: dict[tuple[type, ...], str] = {
    (m.Softmax, m.Top): "softmax | top(k)",
    (m.Softmax, m.Top, m.Renormalize): "softmax | top(k) | renormalize",
    (m.Top, m.Softmax): "top(k) | softmax",
}


def _router(expr: s.Expr, context: Context) -> tuple[m.RouterStage, ...]:
    written = expr.stages if isinstance(expr, s.Pipe) else (expr,)
    built = [context.bag.attempt(_stage, stage, context) for stage in written]
    stages = tuple(stage for stage in built if stage is not None)
    if len(stages) == len(built) and tuple(map(type, stages)) not in _LEGAL_ROUTERS:
        advice = "one of: " + ", ".join(f"`{text}`" for text in _LEGAL_ROUTERS.values())
        raise Mistake(c.BAD_ROUTER.at(expr.span, "these stages do not make a router", advice=advice))
    return stages


def _stage(expr: s.Expr, context: Context) -> m.RouterStage:
    construct, call = callee(expr, ("stage",), "a stage of a router")
    args = bind(construct, call, context.bag)
    origin = expr.span.origin()
    if construct.name == "top":
        k = args.read("k", lambda e: whole(e, "k", limits.EXPERTS, scope=context.scope), 1)
        return m.Top(k, origin)
    return m.Softmax(origin) if construct.name == "softmax" else m.Renormalize(origin=origin)


def _balance(expr: s.Expr, context: Context) -> tuple[m.BalanceTerm, ...]:
    if is_none(expr):
        return ()
    terms = expr.terms if isinstance(expr, s.Sum) else (expr,)
    built: list[m.BalanceTerm] = []
    for term in terms:
        balance = context.bag.attempt(_term, term, context)
        if balance is None:
            continue
        if any(type(balance) is type(other) for other in built):
            context.bag.add(c.BAD_BALANCE.at(term.span, f"{s.describe(term)} is given twice"))
        built.append(balance)
    return tuple(built)


def _term(expr: s.Expr, context: Context) -> m.BalanceTerm:
    construct, call = callee(expr, ("balance",), "a loss term such as `aux_loss(0.01)`")
    args = bind(construct, call, context.bag)
    coefficient = args.read("coefficient", lambda e: real(e, "coefficient", scope=context.scope), 1.0)
    if construct.name == "z_loss":
        return m.ZLoss(coefficient, expr.span.origin())
    per = args.read("per", _per, "model")
    return m.AuxLoss(coefficient, "layer" if per == "layer" else "model", origin=expr.span.origin())


def _per(expr: s.Expr) -> str:
    if not isinstance(expr, s.Ref) or expr.text not in ("model", "layer"):
        raise wrong_type(expr, "`model` or `layer`")
    return expr.text
