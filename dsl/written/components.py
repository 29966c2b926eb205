"""Components as calls of the language."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from moec.dsl import spec as m
from moec.dsl import syntax as s

from .nodes import ABSENT, NOWHERE, Value, call, node


def written(component: m.Component) -> s.Invoke:
    """The call that makes a component."""
    match component:
        case m.RmsNorm() | m.LayerNorm():
            return _norm(component)
        case m.Gqa():
            return _gqa(component)
        case m.Mla():
            return _mla(component)
        case m.Ffn():
            return _ffn(component, component.width)
        case m.Moe():
            return _moe(component)


def _norm(norm: m.Norm) -> s.Invoke:
    if isinstance(norm, m.RmsNorm):
        return call("rms_norm", eps=norm.eps, weight=norm.weight)
    return call("layer_norm", eps=norm.eps, weight=norm.weight, bias=norm.bias)


def _or_absent(value: Value) -> Value:
    """A value whose absence means a default that follows from others."""
    return ABSENT if value is None else value


# --- attention ---


def _gqa(gqa: m.Gqa) -> s.Invoke:
    return call(
        "gqa",
        heads=gqa.heads,
        kv_heads=gqa.kv_heads,
        head_dim=gqa.head_dim,
        value_dim=gqa.value_dim,
        rope=_rope(gqa.rope),
        qkv_bias=gqa.qkv_bias,
        out_bias=gqa.out_bias,
        qk_norm=_qk_norm(gqa.qk_norm),
        clip=gqa.clip,
        value_scale=gqa.value_scale,
        **_attend(gqa.attend),
    )


def _mla(mla: m.Mla) -> s.Invoke:
    return call(
        "mla",
        heads=mla.heads,
        q_rank=mla.q_rank,
        kv_rank=mla.kv_rank,
        nope_dim=mla.nope_dim,
        rope_dim=mla.rope_dim,
        v_dim=mla.value_dim,
        rope=_rope(mla.rope),
        norm=_norm(mla.norm),
        bias=mla.bias,
        latent_scale=mla.latent_scale,
        **_attend(mla.attend),
    )


def _attend(attend: m.Attend) -> dict[str, Value]:
    temperature, gate = attend.temperature, attend.gate
    return {
        "window": attend.window,
        "chunk": attend.chunk,
        "sinks": attend.sinks,
        "softcap": attend.softcap,
        "temperature": None
        if temperature is None
        else call(
            "log_temperature",
            scale=temperature.scale,
            period=temperature.period,
            offset=temperature.offset,
        ),
        "scale": _or_absent(attend.scale),
        "gate": None if gate is None else call(f"{gate.per}_gate", act=gate.act, bias=gate.bias),
    }


def _qk_norm(norm: m.QkNorm | None) -> s.Expr | None:
    if norm is None:
        return None
    if norm.over == "head":
        return call("per_head", _norm(norm.norm), after_rope=norm.after_rope)
    return call("full_width", _norm(norm.norm))


def _rope(rope: m.Rope | None) -> s.Expr | None:
    if rope is None:
        return None
    name, arguments = _scaling(rope.scaling)
    return call(name, theta=rope.theta, **arguments, dims=_or_absent(rope.dims), layout=rope.layout)


def _scaling(scaling: m.RopeScaling | None) -> tuple[str, dict[str, Value]]:
    match scaling:
        case None:
            return "rope", {}
        case m.LinearScaling():
            return "linear_rope", {"factor": scaling.factor}
        case m.DynamicNtk():
            return "dynamic_rope", {"factor": scaling.factor, "original": scaling.original}
        case m.NtkAlpha():
            return "ntk_rope", {"alpha": scaling.alpha}
        case m.Yarn():
            return "yarn", _yarn(scaling)
        case m.Llama3Scaling():
            return "llama3_rope", _fields(scaling, "factor", "original", "low_freq", "high_freq")
        case m.LongRope():
            optional = {
                "short_mscale": _or_absent(scaling.short_mscale),
                "long_mscale": _or_absent(scaling.long_mscale),
            }
            return "longrope", _fields(scaling, "short", "long", "original") | optional


def _yarn(yarn: m.Yarn) -> dict[str, Value]:
    names = ("factor", "original", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    return {
        **_fields(yarn, *names),
        "magnitude": _or_absent(yarn.magnitude),
        "truncate": yarn.truncate,
    }


def _fields(part: object, *names: str) -> dict[str, Value]:
    return {name: getattr(part, name) for name in names}


# --- networks ---


def _ffn(ffn: m.Ffn, width: int) -> s.Invoke:
    if not ffn.gated:
        return call("mlp", width, act=ffn.activation, bias=ffn.bias)
    gated: dict[str, Value] = {
        "bias": ffn.bias,
        "clamp": ffn.clamp,
        "clamp_after": ffn.clamp_after,
        "offset": ffn.offset,
    }
    if ffn.activation == "silu":
        return call("swiglu", width, **gated, alpha=ffn.alpha)
    return call("geglu", width, **gated)


def _moe(moe: m.Moe) -> s.Invoke:
    shared = moe.shared
    return call(
        "moe",
        experts=_repeat(moe.experts, _ffn(moe.expert, moe.expert.width)),
        shared=None
        if shared is None
        else _repeat(shared.count, _ffn(shared.ffn, shared.ffn.width // shared.count)),
        shared_gate=shared is not None and shared.gate,
        combine="average" if shared is not None and shared.average else "sum",
        router=_joined([_stage(stage) for stage in moe.router]),
        router_bias=moe.router_bias,
        identity=moe.identity,
        weigh=moe.weigh,
        latent=moe.latent,
        latent_norm=None if moe.latent_norm is None else _norm(moe.latent_norm),
        expert_norm=None if moe.expert_norm is None else _norm(moe.expert_norm),
        balance=_summed([_term(term) for term in moe.balance]),
    )


def _repeat(count: int, body: s.Expr) -> s.Expr:
    return s.Repeat(node(count), body, NOWHERE)


def _joined(stages: Sequence[s.Expr]) -> s.Expr:
    return stages[0] if len(stages) == 1 else s.Pipe(tuple(stages), NOWHERE)


def _summed(terms: Sequence[s.Expr]) -> s.Expr | None:
    if not terms:
        return None
    return terms[0] if len(terms) == 1 else s.Sum(tuple(terms), NOWHERE)


@singledispatch
def _stage(stage: m.RouterStage) -> s.Expr:
    """A stage without arguments."""
    names = {
        m.Softmax: "softmax",
        m.Sigmoid: "sigmoid",
        m.SqrtSoftplus: "sqrt_softplus",
        m.ExpertScale: "expert_scale",
    }
    return node(names[type(stage)])


@_stage.register
def _(stage: m.Softcap) -> s.Expr:
    return call("softcap", stage.limit)


@_stage.register
def _(stage: m.Scale) -> s.Expr:
    return call("scale", stage.factor)


@_stage.register
def _(stage: m.CorrectionBias) -> s.Expr:
    return call("correction_bias", update=stage.update)


@_stage.register
def _(stage: m.Groups) -> s.Expr:
    return call("groups", stage.groups, keep=stage.keep, by=stage.by, fill=stage.fill)


@_stage.register
def _(stage: m.Sinkhorn) -> s.Expr:
    return call("sinkhorn", iterations=stage.iterations)


@_stage.register
def _(stage: m.Jitter) -> s.Expr:
    return call("jitter", stage.eps)


@_stage.register
def _(stage: m.Top) -> s.Expr:
    return call("top", stage.k)


@_stage.register
def _(stage: m.SparseMixer) -> s.Expr:
    return call("sparsemixer", stage.k, jitter=stage.jitter)


@_stage.register
def _(stage: m.Hash) -> s.Expr:
    return call("hash", stage.k)


@_stage.register
def _(stage: m.RoundRobin) -> s.Expr:
    return call("round_robin", stage.k)


@_stage.register
def _(stage: m.Renormalize) -> s.Expr:
    return call("renormalize", eps=stage.eps, minimum=stage.minimum, p=stage.p)


@_stage.register
def _(stage: m.Capacity) -> s.Expr:
    return call("capacity", stage.factor, pad=stage.pad)


def _term(term: m.BalanceTerm) -> s.Expr:
    match term:
        case m.AuxLoss():
            return call("aux_loss", term.coefficient, per=term.per, choices=term.choices, over=term.over)
        case m.SequenceAuxLoss():
            return call("sequence_aux_loss", term.coefficient)
        case m.ZLoss():
            return call("z_loss", term.coefficient)
