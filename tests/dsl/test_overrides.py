"""`--set` reaches every value by its path, is typed like the text, and corrects wrong paths."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsl_texts import SMALL, codes, edited, errors, load
from moec.dsl import catalogue as c
from moec.dsl import spec as m


def _moe(spec: m.Spec) -> m.Moe:
    value = spec.model.layers[0].equations[1].value
    assert isinstance(value, m.Call)
    assert isinstance(value.component, m.Moe)
    return value.component


def _gqa(spec: m.Spec) -> m.Gqa:
    value = spec.model.layers[0].equations[0].value
    assert isinstance(value, m.Call)
    assert isinstance(value.component, m.Gqa)
    return value.component


CASES: list[tuple[str, Callable[[m.Spec], object], object]] = [
    ("width=128", lambda s: s.model.width, 128),
    ("model.width=128", lambda s: s.model.width, 128),
    ("layers=5", lambda s: len(s.model.layers), 5),
    ("init.std=0.5", lambda s: s.model.init_std, 0.5),
    ("norm.eps=1e-3", lambda s: s.model.head.argument.component.eps, 1e-3),  # type: ignore[union-attr]
    ("attention.heads=8", lambda s: _gqa(s).heads, 8),
    ("attention.kv_heads=none", lambda s: _gqa(s).kv_heads, 4),
    ("attention.head_dim=32", lambda s: _gqa(s).head_dim, 32),
    ("attention.rope.theta=5e5", lambda s: _gqa(s).rope, m.Rope(5e5)),
    ("attention.rope=none", lambda s: _gqa(s).rope, None),
    ("attention.qk_norm=per_head(norm)", lambda s: _gqa(s).qk_norm, m.QkNorm(m.RmsNorm(1e-5), "head")),
    (
        "attention.qk_norm=full_width(rms_norm(eps: 0.1))",
        lambda s: _gqa(s).qk_norm,
        m.QkNorm(m.RmsNorm(0.1), "full"),
    ),
    ("attention.clip=8", lambda s: _gqa(s).clip, 8.0),
    ("attention.window=4", lambda s: _gqa(s).attend.window, 4),
    ("experts.experts=8", lambda s: _moe(s).experts, 8),
    ("experts.experts.width=32", lambda s: _moe(s).expert, m.Ffn(32)),
    ("experts.experts=8 of swiglu(32)", lambda s: (_moe(s).experts, _moe(s).expert.width), (8, 32)),
    ("experts.shared=1 of swiglu(32)", lambda s: _moe(s).shared, m.SharedExperts(m.Ffn(32))),
    ("experts.router.top=1", lambda s: _moe(s).top_k, 1),
    ("experts.router.renormalize=false", lambda s: _moe(s).router, (m.Softmax(), m.Top(2))),
    ("experts.router.renormalize=true", lambda s: len(_moe(s).router), 3),
    ("experts.router=top(3) | softmax", lambda s: _moe(s).router, (m.Top(3), m.Softmax())),
    ("experts.balance.aux_loss=0.01", lambda s: _moe(s).balance, (m.AuxLoss(0.01),)),
    ("experts.balance.aux_loss=0", lambda s: _moe(s).balance, ()),
    ("experts.balance=z_loss(0.1)", lambda s: _moe(s).balance, (m.ZLoss(0.1),)),
    ("train.sequence=64", lambda s: s.train.sequence, 64),
    ("train.batch=4K tokens", lambda s: s.train.batch_tokens, 4096),
    ("train.batch=3 sequences", lambda s: s.train.batch_sequences, 3),
    ("train.steps=7", lambda s: s.train.steps, 7),
    ("train.epochs=2", lambda s: (s.train.steps, s.train.epochs), (None, 2)),
    ("train.optimizer.lr=1e-4", lambda s: s.train.optimizer.lr, 1e-4),
    ("train.optimizer.betas=(0.8, 0.9)", lambda s: s.train.optimizer.betas, (0.8, 0.9)),
    ("train.schedule=constant", lambda s: s.train.schedule, m.Constant()),
    ("train.schedule.floor=0.5", lambda s: s.train.schedule, m.Cosine(0, 0.5)),
    ("train.clip=none", lambda s: s.train.clip, None),
    ("train.seed=9", lambda s: s.train.seed, 9),
    ("parallel.expert=2", lambda s: s.parallel.expert, 2),
    ("parallel.replicate=rest", lambda s: s.parallel.replicate, None),
    ("memory.recompute=full", lambda s: s.memory.recompute, "layer"),
    ("memory.recompute=experts", lambda s: s.memory.recompute, "experts"),
    (
        "memory.recompute=[attention, experts.router]",
        lambda s: s.memory.recompute,
        m.RecomputeNames(("attention", "experts.router")),
    ),
    ("memory.recompute=auto(1.5GiB)", lambda s: s.memory.recompute, m.RecomputeAuto(3 << 29)),
    ("memory.recompute=auto(2KB)", lambda s: s.memory.recompute, m.RecomputeAuto(2000)),
    ("memory.recompute.budget=16GiB", lambda s: s.memory.recompute, m.RecomputeAuto(16 << 30)),
    ("memory.offload=activations", lambda s: s.memory.offload, m.Offload(2, 1 << 20)),
    ("memory.offload.horizon=3", lambda s: s.memory.offload, m.Offload(3, 1 << 20)),
    ("memory.gathered=keep", lambda s: s.memory.gathered, "keep"),
    ("memory.loss_chunk=1K tokens", lambda s: s.memory.loss_chunk, 1024),
    ("memory.loss_chunk=none", lambda s: s.memory.loss_chunk, None),
    ("precision.compute=bf16", lambda s: s.precision.compute, "bf16"),
]


@pytest.mark.parametrize(("override", "read", "expected"), CASES, ids=[case[0] for case in CASES])
def test_override(override: str, read: Callable[[m.Spec], object], expected: object) -> None:
    spec = load(SMALL, override)
    assert read(spec) == expected
    assert load(spec.text) == spec, "the override is part of the resolved text"


def test_overrides_apply_in_order_and_change_nothing_else() -> None:
    spec = load(
        SMALL, "width=128", "width=32", "experts.balance.aux_loss=0.1", "experts.balance.aux_loss=none"
    )
    assert spec.model == load(edited(SMALL, "width   = 64", "width   = 32")).model


def test_a_term_is_added_to_and_taken_from_a_sum() -> None:
    spec = load(SMALL, "experts.balance.aux_loss=0.01", "experts.balance.z_loss=0.1")
    assert _moe(spec).balance == (m.AuxLoss(0.01), m.ZLoss(0.1))
    assert _moe(load(spec.text, "experts.balance.aux_loss=none")).balance == (m.ZLoss(0.1),)
    per_layer = load(spec.text, "experts.balance.aux_loss.per=layer")
    assert _moe(per_layer).balance == (m.AuxLoss(0.01, "layer"), m.ZLoss(0.1))


def test_integer_and_list_bindings_are_values_like_others() -> None:
    text = edited(
        SMALL, "    norm  ", "    dense    = swiglu(32)\n    sparse   = []\n    every_n  = 1\n    norm  "
    )
    text = edited(
        text,
        "experts(norm(x))",
        "match layer { sparse => dense, every(every_n) => experts, _ => dense }(norm(x))",
    )

    def kinds(*overrides: str) -> list[str]:
        layers = load(text, "layers=4", *overrides).model.layers
        return [layer.equations[1].value.path for layer in layers]  # type: ignore[union-attr]

    assert kinds() == ["experts"] * 4
    assert kinds("sparse=[0, 2]") == ["dense", "experts", "dense", "experts"]
    assert kinds("every_n=2") == ["dense", "experts", "dense", "experts"]
    assert codes(errors(text, "sparse=[4]")) == {c.LAYER_OUT_OF_RANGE.code}


WRONG = [
    ("trian.steps=3", c.UNKNOWN_PATH, "did you mean `train`?"),
    ("train.stops=3", c.UNKNOWN_PATH, "did you mean `steps`?"),
    ("memory=3", c.UNKNOWN_PATH, "one of:"),
    ("experts.rooter.top=1", c.UNKNOWN_PATH, "did you mean `router`?"),
    ("experts.router.topk=1", c.UNKNOWN_PATH, "did you mean `top`?"),
    ("experts.balance.aux_los=1", c.UNKNOWN_PATH, "did you mean `aux_loss`?"),
    ("experts.shared.width=3", c.UNKNOWN_PATH, ""),
    ("attention.rope.theta.x=3", c.UNKNOWN_PATH, ""),
    ("layers.attention=3", c.UNKNOWN_PATH, ""),
    ("checkpoint=yes", c.UNKNOWN_PATH, ""),
    ("new_binding=3", c.UNKNOWN_PATH, ""),
    ("width=abc", c.UNKNOWN_NAME, ""),
    ("width=0", c.OUT_OF_RANGE, ""),
    ("width=1 2", c.SYNTAX, ""),
    ("train.steps", c.BAD_OVERRIDE, ""),
    ("=3", c.BAD_OVERRIDE, ""),
    ("train..steps=3", c.BAD_OVERRIDE, ""),
    ("train.steps=", c.BAD_OVERRIDE, ""),
    ("memory.device=80GiB", c.NOT_YET, ""),
    ("precision.compute=fp8", c.NOT_YET, ""),
]


@pytest.mark.parametrize(("override", "kind", "advice"), WRONG, ids=[case[0] for case in WRONG])
def test_wrong_override(override: str, kind: c.Kind, advice: str) -> None:
    (found,) = errors(SMALL, override)
    assert found.code == kind.code
    assert advice in found.advice
    assert found.span is not None
    assert found.span.source.name == "--set"
    assert found.span.source.text == override, "the place is in the override as it was given"


def test_all_wrong_overrides_are_reported_at_once() -> None:
    assert len(errors(SMALL, "widht=3", "train.stops=3", "layers=0")) == 3


def test_a_weight_map_can_be_left_out() -> None:
    spec = load("use tiny", "checkpoint=none", "attention.qk_norm=per_head(norm)")
    assert spec.checkpoint is None
