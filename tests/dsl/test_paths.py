"""Paths reach every argument of every construct, stage and term, to read and to write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dsl_texts import SMALL, edited, errors, load, tree
from moec import dsl
from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl.format import format_expression, format_file
from moec.dsl.paths import NoPath, read, write
from moec.dsl.syntax import Block, Expr, File, Invoke, Pipe, Repeat, Setting, Sum
from moec.dsl.vocabulary import CHOOSERS, CONSTRUCTS, of_role

RICH = """\
model rich {
    vocab   = 320
    width   = 64
    context = 128
    full    = every(2)
    kv      = 2

    norm      = layer_norm(bias: false)
    attention = gqa(
        heads: 4, kv_heads: kv,
        rope: yarn(factor: 4, original: 32),
        qk_norm: per_head(rms_norm(eps: 1e-5)),
        window: match layer { full => none, _ => 16 },
        gate: element_gate,
        temperature: log_temperature(scale: 0.1, period: 64),
    )
    latent    = mla(heads: 4, kv_rank: 8, nope_dim: 8, rope_dim: 4, v_dim: 8)
    dense     = geglu(96)
    experts   = moe(
        experts: 8 of swiglu(32, clamp: 7),
        shared:  2 of swiglu(16, bias: true),
        router:  softcap(30) | sigmoid | correction_bias(update: 0.001) | groups(4, keep: 2)
                 | top(2) | renormalize(eps: 1e-20) | scale(2.5) | capacity(1.5),
        balance: aux_loss(0.01, per: layer) + z_loss(0.001),
    )

    x = sqrt(width) * norm(embed(tokens))

    layers 4 {
        x += attention(norm(x))
        x += latent(norm(x))
        x += match layer { full => dense, _ => experts }(norm(x))
    }

    logits = softcap(linear(norm(x), tied: true) / 8, 30)
}
train { steps = 3 }
"""


def _read(path: str, text: str = RICH) -> str:
    return format_expression(read(tree(text), path.split(".")))


READS = [
    ("kv", "2"),
    ("full", "every(2)"),
    ("norm.eps", "1e-5"),
    ("norm.weight", "scale"),
    ("attention.kv_heads", "kv"),
    ("attention.rope.factor", "4"),
    ("attention.rope.theta", "10_000"),
    ("attention.rope.beta_fast", "32"),
    ("attention.qk_norm.norm.eps", "1e-5"),
    ("attention.window", "match layer { full => none, _ => 16 }"),
    ("attention.gate.act", "sigmoid"),
    ("attention.temperature.period", "64"),
    ("latent.norm.eps", "1e-6"),
    ("latent.rope.theta", "10_000"),
    ("dense.width", "96"),
    ("experts.experts", "8"),
    ("experts.experts.clamp", "7"),
    ("experts.experts.alpha", "1"),
    ("experts.shared", "2"),
    ("experts.shared.width", "16"),
    ("experts.router.softcap", "30"),
    ("experts.router.sigmoid", "true"),
    ("experts.router.softmax", "false"),
    ("experts.router.correction_bias", "true"),
    ("experts.router.correction_bias.update", "0.001"),
    ("experts.router.groups", "4"),
    ("experts.router.groups.keep", "2"),
    ("experts.router.groups.by", "max"),
    ("experts.router.top", "2"),
    ("experts.router.renormalize.eps", "1e-20"),
    ("experts.router.scale", "2.5"),
    ("experts.balance.aux_loss", "0.01"),
    ("experts.balance.aux_loss.per", "layer"),
    ("experts.balance.sequence_aux_loss", "0"),
    ("logits.tied", "true"),
    ("logits.bias", "false"),
    ("logits.softcap", "30"),
    ("x", "sqrt(width) * norm(embed(tokens))"),
    ("init.std", "0.02"),
    ("layers", "4"),
    ("train.optimizer.lr", "3e-4"),
]


@pytest.mark.parametrize(("path", "value"), READS, ids=[case[0] for case in READS])
def test_a_path_is_read(path: str, value: str) -> None:
    assert _read(path) == value
    if not path.startswith("train."):
        assert _read(f"model.{path}") == value


def _everywhere(file: File) -> Iterator[str]:
    """The paths of all settings, arguments, stages and terms that the text could give."""
    for block in file.items:
        assert isinstance(block, Block)
        prefix = "" if block.kind.text == "model" else f"{block.kind.text}."
        for setting in block.body:
            if isinstance(setting, Setting) and setting.key not in ("x", "logits"):
                yield prefix + setting.key
                yield from _inside(prefix + setting.key, setting.value)


def _inside(path: str, value: object) -> Iterator[str]:
    if isinstance(value, Repeat):
        yield from _inside(path, value.body)
    elif isinstance(value, Invoke) and value.name in CONSTRUCTS:
        given = {a.name or CONSTRUCTS[value.name].params[0].name: a.value for a in value.arguments}
        for param in CONSTRUCTS[value.name].params:
            yield f"{path}.{param.name}"
            yield from _parts(f"{path}.{param.name}", given.get(param.name))


def _parts(path: str, value: object) -> Iterator[str]:
    parts = value.stages if isinstance(value, Pipe) else value.terms if isinstance(value, Sum) else None
    if parts is None:
        yield from _inside(path, value)
        return
    for part in parts:
        name = part.name if isinstance(part, Invoke) else format_expression(part)
        yield f"{path}.{name}"
        yield from _inside(f"{path}.{name}", part)


def test_every_argument_is_reached_and_writing_what_is_read_changes_nothing() -> None:
    file, spec = tree(RICH), load(RICH)
    paths = list(_everywhere(file))
    assert len(paths) > 100
    absent = set()
    for path in paths:
        steps = path.split(".")
        value = _value_or_absent(file, steps)
        if value is None:
            absent.add(steps[-1])
            continue
        assert load(format_file(write(file, steps, value))).model == spec.model, path
    assert absent == {"value_dim", "head_dim", "scale", "magnitude", "dims", "offset"}, (
        "what follows from others"
    )


def _value_or_absent(file: File, steps: list[str]) -> Expr | None:
    try:
        return read(file, steps)
    except NoPath as error:
        if not error.absent:
            raise
        return None


def _experts(spec: m.Spec) -> m.Moe:
    calls = (call.component for layer in spec.model.layers for call in layer.calls())
    return next(one for one in calls if isinstance(one, m.Moe))


def _attention(spec: m.Spec) -> m.Gqa:
    calls = (call.component for layer in spec.model.layers for call in layer.calls())
    return next(one for one in calls if isinstance(one, m.Gqa))


def test_values_are_written() -> None:
    spec = load(
        RICH, "experts.router.scale=1.5", "experts.router.groups=8", "experts.router.groups.keep=3",
        "experts.router.correction_bias.update=none", "experts.shared=3", "experts.shared.width=8",
        "experts.experts.clamp=none", "attention.rope.factor=8", "attention.window=12", "kv=4",
        "logits.tied=false", "logits.bias=true", "logits.softcap=none", "norm.bias=true",
        "attention.gate.act=softplus", "x=2 * embed(tokens)",
    )  # fmt: skip
    experts, attention = _experts(spec), _attention(spec)
    assert m.Scale(1.5) in experts.router
    assert m.Groups(8, 3) in experts.router
    assert m.CorrectionBias(None) in experts.router
    assert experts.shared is not None
    assert (experts.shared.count, experts.shared.ffn.width) == (3, 24)
    assert experts.expert == m.Ffn(32)
    assert attention.rope is not None
    assert attention.rope.scaling == m.Yarn(8.0, 32)
    assert (attention.attend.window, attention.kv_heads) == (12, 4)
    assert attention.attend.gate == m.OutputGate("element", "softplus")
    assert (spec.model.head.tied, spec.model.head.bias, spec.model.head.softcap) == (False, True, None)
    assert spec.model.head.scale == 1 / 8
    assert spec.model.embed == m.Embed(2.0)
    assert load(spec.text) == spec


@pytest.mark.parametrize(
    ("override", "head"),
    [
        ("logits.tied=true", m.Head(m.Var("x"), tied=True)),
        ("logits.softcap=30", m.Head(m.Var("x"), softcap=30.0)),
        ("logits=linear(x) / 2", m.Head(m.Var("x"), scale=0.5)),
    ],
)
def test_parts_of_an_output_are_added(override: str, head: m.Head) -> None:
    assert load(edited(SMALL, "linear(norm(x))", "linear(x)"), override).model.head == head


@pytest.mark.parametrize(
    ("override", "router"),
    [
        ("scale=2.5", "softmax | top(2) | renormalize | scale(2.5)"),
        ("capacity=2", "softmax | top(2) | renormalize | capacity(2)"),
        ("jitter=0.1", "jitter(0.1) | softmax | top(2) | renormalize"),
        ("softcap=30", "softcap(30) | softmax | top(2) | renormalize"),
        ("correction_bias=true", "softmax | correction_bias | top(2) | renormalize"),
        ("sinkhorn=true", "softmax | sinkhorn | top(2) | renormalize"),
        ("expert_scale=true", "softmax | top(2) | renormalize | expert_scale"),
        ("renormalize=false", "softmax | top(2)"),
        ("top=3", "softmax | top(3) | renormalize"),
    ],
)
def test_stages_are_added_in_their_place_and_taken_away(override: str, router: str) -> None:
    changed = load(SMALL, f"experts.router.{override}")
    assert _experts(changed) == _experts(load(SMALL, f"experts.router={router}"))


@pytest.mark.parametrize(
    "name", [n for n in of_role("stage") if CONSTRUCTS[n].positional and n not in CHOOSERS]
)
def test_a_stage_with_a_value_goes_by_none(name: str) -> None:
    call = f"{name}({'4, keep: 2' if name == 'groups' else '0.5'})"
    text = f"experts.router={call} | softmax | top(2)"
    text = f"experts.router=softmax | {call} | top(2)" if name == "groups" else text
    text = f"experts.router=softmax | top(2) | {call}" if name in ("capacity", "scale") else text
    spec = load(SMALL, text, f"experts.router.{name}=none")
    assert _experts(spec).router == (m.Softmax(), m.Top(2))


WRONG = [
    ("experts.router.groups=4", "has no stage `groups`"),
    ("experts.router.sparsemixer=2", "has no stage `sparsemixer`"),
    ("experts.router.top.j=1", "no argument `j`"),
    ("experts.router.renormalize=2", "there or not"),
    ("attention.rope.factr=1", "no argument `factr`"),
    ("logits.tide=true", "no argument `tide`"),
    ("logits.softcap.limit=1", "no argument `softcap`"),
    ("x.scale=1", "has no argument `scale`"),
    ("full.n.m=1", "has no `m`"),
]


@pytest.mark.parametrize(("override", "label"), WRONG, ids=[case[0] for case in WRONG])
def test_a_wrong_path_is_told_where_it_fails(override: str, label: str) -> None:
    (found,) = errors(SMALL.replace("    norm ", "    full = every(2)\n    norm "), override)
    assert found.code == c.UNKNOWN_PATH.code
    assert label in found.label
    assert dsl.render_text([found])


def test_a_path_cannot_tell_two_stages_of_one_name_apart() -> None:
    text = edited(SMALL, "softmax | top(2) | renormalize", "scale(2) | softmax | top(2) | scale(3)")
    (found,) = errors(text, "experts.router.scale=1")
    assert found.code == c.UNKNOWN_PATH.code
    assert "2 times" in found.label
    assert m.Scale(1.0) in _experts(load(text, "experts.router=scale(1) | softmax | top(2)")).router


def test_what_a_match_gives_is_replaced_as_a_whole() -> None:
    (found,) = errors(RICH.replace("rope: yarn(factor: 4, original: 32)", "rope: match layer { _ => rope }"),
                      "attention.rope.theta=1")  # fmt: skip
    assert found.code == c.UNKNOWN_PATH.code
    assert "a `match`" in found.label
