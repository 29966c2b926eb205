"""The weight map is a bijection, and what breaks it is named."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsl_texts import SMALL, codes, edited, errors, load
from moec.dsl import catalogue as c
from moec.dsl import spec as m

MAP = """
checkpoint huggingface {
    embed                                      = "embed.weight"
    layers[i].attention.{q,k,v,o}              = "h.{i}.attn.{}.weight"
    layers[i].{attention,experts}.norm         = "h.{i}.{}_norm.weight"
    layers[i].experts.router                   = "h.{i}.router.weight"
    layers[i].experts.expert[e].{gate,up,down} = "{e}.of.layer.{i}.{}.weight"
    norm                                       = "norm.weight"
    logits                                     = "head.weight"
}
"""


def test_every_parameter_is_spelled_out_in_the_order_of_the_model() -> None:
    found = load(SMALL + MAP).checkpoint
    assert found is not None
    expected = [("embed", "embed.weight")]
    for i in range(2):
        expected.append((f"layers.{i}.attention.norm", f"h.{i}.attention_norm.weight"))
        expected += [(f"layers.{i}.attention.{x}", f"h.{i}.attn.{x}.weight") for x in "qkvo"]
        expected.append((f"layers.{i}.experts.norm", f"h.{i}.experts_norm.weight"))
        expected.append((f"layers.{i}.experts.router", f"h.{i}.router.weight"))
        for x in ("gate", "up", "down"):
            expected += [
                (f"layers.{i}.experts.expert.{e}.{x}", f"{e}.of.layer.{i}.{x}.weight") for e in range(4)
            ]
    expected += [("norm", "norm.weight"), ("logits", "head.weight")]
    assert list(found.tensors) == [m.FileTensor(tensor, (name,)) for name, tensor in expected]


def test_alternatives_may_share_a_tensor_name_when_no_two_of_them_meet() -> None:
    """`dense` and `experts` are never in one layer, so both norms can have one name."""
    text = edited(SMALL, "    norm  ", "    dense = swiglu(8)\n    norm  ")
    text = edited(text, "experts(norm(x))", "match layer { 0 => dense, _ => experts }(norm(x))")
    rules = MAP.replace("{attention,experts}.norm ", "{dense,experts}.norm").replace("{}_norm", "ffn_norm")
    rules = edited(rules, "    norm ", '    layers[i].attention.norm = "h.{i}.attention_norm"\n    norm ')
    rules = edited(rules, "    norm ", '    layers[i].dense.{gate,up,down} = "h.{i}.{}"\n    norm ')
    found = load(text + rules).checkpoint
    assert found is not None
    tensors = {tensor.parameters: tensor.name for tensor in found.tensors}
    assert tensors["layers.0.dense.norm",] == "h.0.ffn_norm.weight"
    assert tensors["layers.1.experts.norm",] == "h.1.ffn_norm.weight"


HEAD = "    embed "  # a rule can be put before it
FAULTS = {
    "a rule is missing": ('    logits                                     = "head.weight"\n', "", c.UNMAPPED),
    "a norm is forgotten": ("{attention,experts}.norm", "{attention}.norm", c.UNMAPPED),
    "an index is forgotten": ("h.{i}.router", "h.router", c.TENSOR_TWICE),
    "an expert is forgotten": ("{e}.of.layer", "of.layer", c.TENSOR_TWICE),
    "an alternative is forgotten": ("attn.{}.weight", "attn.weight", c.TENSOR_TWICE),
    "two rules, one tensor": ("head.weight", "embed.weight", c.TENSOR_TWICE),
    "a tensor is ignored as well": (HEAD, f'ignore = ["h.{{}}.router.weight"]\n{HEAD}', c.MAPPED_AND_IGNORED),
    "a parameter has two rules": (HEAD, f'    layers[l].attention.q = "q.{{l}}"\n{HEAD}', c.MAPPED_TWICE),
    "a parameter that cannot be": (HEAD, f'layers[i].attention.p = "p.{{i}}"\n{HEAD}', c.NO_SUCH_PARAMETER),
    "an expert of no mixture": (HEAD, f'layers[i].expert[e].up = "{{e}}.{{i}}"\n{HEAD}', c.NO_SUCH_PARAMETER),
    "an index twice": ("expert[e]", "expert[i]", c.BAD_RULE),
    "an unknown index": ("{e}.of", "{n}.of", c.BAD_RULE),
    "a sum": ('= "head.weight"', '= "head.weight" + "b"', c.BAD_RULE),
    "an added rule": ('logits                                     = "h', 'logits += "h', c.BAD_RULE),
    "a concatenation of nothing": ('"head.weight"', 'concat("a")', c.BAD_RULE),
    "an index that is none": ('"head.weight"', 'concat("a", "b")', c.BAD_RULE),
    "an unknown form": ('"head.weight"', 'stak("a")', c.BAD_RULE),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "kind"), FAULTS.values(), ids=FAULTS)
def test_fault(old: str, new: str, kind: c.Kind) -> None:
    assert kind.code in codes(errors(SMALL + edited(MAP, old, new)))


def test_the_message_names_the_first_parameters_and_counts_the_rest() -> None:
    (found,) = errors(SMALL + edited(MAP, "{gate,up,down}", "{gate}"))
    assert "`layers.0.experts.expert.0.up`" in found.label
    assert "`layers.0.experts.expert.0.down`" in found.label
    assert "layers[i].experts.expert[e].up = " in found.notes[0]


def test_the_map_follows_overrides() -> None:
    found = load(SMALL + MAP, "layers=3", "experts.experts=5").checkpoint
    assert found is not None
    assert len(found.tensors) == 3 + 3 * (7 + 3 * 5)
    assert codes(errors(SMALL + MAP, "attention.qkv_bias=true")) == {c.UNMAPPED.code}


def test_a_map_of_deepseek_size_is_proved() -> None:
    text = edited(edited(SMALL, "layers 2", "layers 61"), "4 of", "256 of")
    found = load(text + MAP).checkpoint
    assert found is not None
    assert len(found.tensors) == 3 + 61 * (7 + 3 * 256)


# --- tensors of several parameters ---

EXPERTS = "    layers[i].experts.expert[e].{gate,up,down}"


def mapped(*rules: str, replaced: str = EXPERTS, text: str = SMALL) -> dict[str, m.FileTensor]:
    """The tensors by name, with these rules in the place of the one that begins with `replaced`."""
    line = next(line for line in MAP.splitlines() if line.startswith(replaced))
    found = load(text + MAP.replace(line, "\n".join(rules))).checkpoint
    assert found is not None
    assert found.tensor_count == len(found.tensors)
    return {tensor.name: tensor for tensor in found.tensors}


DOWN = 'layers[i].experts.expert[e].down = "h.{i}.{e}.down"'
E4, G2 = range(4), ("gate", "up")
FUSED: dict[str, tuple[str, str, tuple[tuple[str, int], ...], list[tuple[int, int, str]]]] = {
    "experts on experts": (
        'stack(e, transpose(interleave("h.{i}.gu")))', "h.1.gu",
        (("stack", 4), ("transpose", 1), ("interleave", 2)), [(1, e, x) for e in E4 for x in G2],
    ),
    "alternatives outside": (
        'concat(stack(e, "h.{i}.gu"))', "h.1.gu",
        (("concat", 2), ("stack", 4)), [(1, e, x) for x in G2 for e in E4],
    ),
    "experts in rows": (
        'transpose(concat(concat(e, "h.{i}.gu")))', "h.0.gu",
        (("transpose", 1), ("concat", 2), ("concat", 4)), [(0, e, x) for x in G2 for e in E4],
    ),
    "experts in turns": (
        'interleave(e, concat("h.{i}.gu"))', "h.0.gu",
        (("interleave", 4), ("concat", 2)), [(0, e, x) for e in E4 for x in G2],
    ),
    "one an expert": (
        'stack(concat("h.{i}.{e}.gu"))', "h.1.3.gu",
        (("stack", 1), ("concat", 2)), [(1, 3, x) for x in G2],
    ),
    "layers too": (
        'stack(i, stack(e, concat("gu")))', "gu",
        (("stack", 2), ("stack", 4), ("concat", 2)), [(i, e, x) for i in range(2) for e in E4 for x in G2],
    ),
    "layers inside": (
        'stack(e, concat(stack(i, "gu")))', "gu",
        (("stack", 4), ("concat", 2), ("stack", 2)), [(i, e, x) for e in E4 for x in G2 for i in range(2)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FUSED)
def test_parameters_are_in_the_order_in_which_the_forms_take_them(case: str) -> None:
    right, name, forms, places = FUSED[case]
    found = mapped(f"layers[i].experts.expert[e].{{gate,up}} = {right}", DOWN)[name]
    assert found.forms == tuple(m.Form(kind, count) for kind, count in forms)  # type: ignore[arg-type]
    assert found.parameters == tuple(f"layers.{i}.experts.expert.{e}.{x}" for i, e, x in places)


def test_forms_take_the_last_sets_of_alternatives_and_the_name_the_others() -> None:
    fused, rest = (
        'layers[i].{attention}.{q,k} = concat("h.{i}.{}")',
        'layers[i].attention.{v,o} = "h.{i}.{}"',
    )
    both = mapped(fused, rest, replaced="    layers[i].attention.{q")
    assert both["h.1.attention"].parameters == ("layers.1.attention.q", "layers.1.attention.k")


def test_the_name_has_the_last_of_the_alternatives_that_are_left() -> None:
    """`dense` and `experts` are never in one layer, and need not be told apart."""
    text = edited(SMALL, "    norm  ", "    other = gqa(heads: 4, kv_heads: 2)\n    norm  ")
    text = edited(text, "attention(norm(x))", "match layer { 0 => other, _ => attention }(norm(x))")
    text = text + MAP.replace("{attention,experts}.norm", "{other,attention,experts}.norm")
    text = edited(text, "layers[i].attention.{q,k,v,o}  ", "layers[i].{attention,other}.{q,k,v,o}")
    found = load(text).checkpoint
    assert found is not None
    names = {tensor.parameters[0]: tensor.name for tensor in found.tensors}
    assert names["layers.0.other.q"] == "h.0.attn.q.weight"
    assert names["layers.1.attention.q"] == "h.1.attn.q.weight"


def test_two_sets_of_alternatives_are_two_forms_or_two_places_in_a_name() -> None:
    text = edited(SMALL, "    norm  ", "    other = gqa(heads: 4, kv_heads: 4)\n    norm  ")
    text = edited(text, "kv_heads: 2", "kv_heads: 4")
    text = edited(text, "x += attention(norm(x))", "x += attention(norm(x))\n        x += other(norm(x))")
    rules = MAP.replace("{attention,experts}.norm", "{attention,other,experts}.norm")
    line = next(line for line in rules.splitlines() if "attn" in line)
    both = 'layers[i].{attention,other}.{q,k,v,o} = "h.{i}.{}.{}"'
    found = load(text + rules.replace(line, both)).checkpoint
    assert found is not None
    assert "h.1.other.v" in {tensor.name for tensor in found.tensors}
    both = 'layers[i].{attention,other}.{q,k,v,o} = stack(i, concat(interleave("all")))'
    found = load(text + rules.replace(line, both)).checkpoint
    assert found is not None
    (fused,) = (tensor for tensor in found.tensors if tensor.forms)
    assert fused.forms == (m.Form("stack", 2), m.Form("concat", 2), m.Form("interleave", 4))
    wanted = [f"layers.{i}.{a}.{x}" for i in range(2) for a in ("attention", "other") for x in "qkvo"]
    assert list(fused.parameters) == wanted


def test_the_tensor_of_a_tied_output_is_passed_over() -> None:
    found = load(edited(SMALL, "linear(norm(x))", "linear(norm(x), tied: true)") + MAP).checkpoint
    assert found is not None
    assert found.ignored == ("head.weight",)
    assert not any("logits" in tensor.parameters for tensor in found.tensors)


def test_a_fused_map_of_deepseek_size_is_proved_without_spelling_it_out() -> None:
    text = edited(edited(SMALL, "layers 2", "layers 61"), "4 of", "384 of")
    rule = f'{EXPERTS} = stack(e, "h.{{i}}.{{}}")'
    found = load(
        text + MAP.replace(next(x for x in MAP.splitlines() if x.startswith(EXPERTS)), rule)
    ).checkpoint
    assert found is not None
    assert found.tensor_count == 3 + 61 * (7 + 3)
    assert "tensors" not in vars(found)
    assert sum(len(tensor.parameters) for tensor in found.tensors) == 3 + 61 * (7 + 3 * 384)


# --- tensors of experts without parameters ---

IDENTITY = edited(SMALL, "router:", "identity: 3, router:")
BLANK = 'layers[i].experts.identity[e].{gate,up} = "{e}.of.layer.{i}.{}.weight"'


def with_blanks(rule: str, text: str = IDENTITY) -> str:
    return text + MAP.replace(HEAD, f"    {rule}\n{HEAD}")


def test_a_rule_for_identity_experts_names_tensors_and_no_parameters() -> None:
    """They are counted on from the four experts that have parameters."""
    plain, found = load(IDENTITY + MAP).checkpoint, load(with_blanks(BLANK)).checkpoint
    assert plain is not None
    assert found is not None
    assert plain.blanks == ()
    assert found.tensors == plain.tensors
    names = [name for blank in found.blanks for name in blank.tensors()]
    assert sorted(names) == sorted(
        f"{e}.of.layer.{i}.{x}.weight" for i in range(2) for e in (4, 5, 6) for x in ("gate", "up")
    )
    assert {blank.shape for blank in found.blanks} == {(96, load(SMALL).model.width)}


def test_without_identity_experts_the_rule_is_for_nothing() -> None:
    found = load(with_blanks(BLANK, SMALL)).checkpoint
    assert found is not None
    assert found.blanks == ()


BLANK_FAULTS = {
    "a form": (BLANK.replace('"{e}', 'stack("{e}').replace('weight"', 'weight")'), c.BAD_RULE),
    "the name of an expert's": (BLANK.replace("{e}.of", "0.of"), c.TENSOR_TWICE),
    "ignored as well": (f'{BLANK}\n    ignore = ["{{}}.of.layer.1.up.weight"]', c.MAPPED_AND_IGNORED),
    "no such parameter": (BLANK.replace("gate", "gale"), c.NO_SUCH_PARAMETER),
}


@pytest.mark.parametrize("fault", BLANK_FAULTS)
def test_blanks_are_tensors_like_others(fault: str) -> None:
    rule, kind = BLANK_FAULTS[fault]
    assert codes(errors(with_blanks(rule))) == {kind.code}


def test_blanks_of_absurd_number_are_refused_before_they_are_spelled_out() -> None:
    text = edited(edited(IDENTITY, "identity: 3", "identity: 60_000"), "layers 2", "layers 9")
    assert codes(errors(with_blanks(BLANK, text))) == {c.TOO_LARGE.code}


# --- the proof that names differ, against all names ---

between = st.sampled_from(["", ".", "1", "0", "a", "12", "x.", "a1"])
names_of_tensors = st.builds(
    lambda indices, a, b, c: f"{a}{{{indices[0]}}}{b}{{{indices[1]}}}{c}",
    st.sampled_from(["ie", "ei"]), between, between, between,
)  # fmt: skip


@given(names=st.lists(names_of_tensors, min_size=3, max_size=3))
def test_names_that_meet_are_found_and_no_others(names: list[str]) -> None:
    """Of three rules, over 12 layers and 12 experts: compared with all names spelled out."""
    text = edited(edited(SMALL, "layers 2", "layers 12"), "4 of", "12 of")
    rules = [
        f'layers[i].experts.expert[e].{x} = "{name}"'
        for x, name in zip(("gate", "up", "down"), names, strict=True)
    ]
    line = next(line for line in MAP.splitlines() if line.startswith(EXPERTS))
    spelled = [
        name.replace("{i}", str(i)).replace("{e}", str(e))
        for name in names
        for i in range(12)
        for e in range(12)
    ]
    whole = text + MAP.replace(line, "\n".join(rules))
    if len(set(spelled)) == len(spelled):
        found = load(whole).checkpoint
        assert found is not None
        assert len({tensor.name for tensor in found.tensors}) == len(found.tensors)
    else:
        assert codes(errors(whole)) == {c.TENSOR_TWICE.code}


@given(
    pattern=st.lists(st.sampled_from(["{}", ".", "1", "0", "a", "11"]), min_size=1, max_size=4).map("".join),
    end=st.sampled_from([".gate", "*", ".*", ".g*", "1*"]),
)
def test_a_tensor_that_is_ignored_is_found(pattern: str, end: str) -> None:
    """Compared with all names, as a checkpoint's reader does: `{}` takes all digits that stand there."""
    text = edited(edited(SMALL, "layers 2", "layers 3"), "4 of", "12 of")
    line = next(line for line in MAP.splitlines() if line.startswith(EXPERTS))
    rule = 'layers[i].experts.expert[e].{gate,up,down} = "{i}.{e}.{}"'
    names = [f"{i}.{e}.{x}" for i in range(3) for e in range(12) for x in ("gate", "up", "down")]
    known = "[0-9]++".join(map(re.escape, (pattern + end.removesuffix("*")).split("{}")))
    shape = re.compile(f"{known}.*" if end.endswith("*") else known)
    whole = text + MAP.replace(line, f'{rule}\n    ignore = ["{pattern}{end}"]')
    if any(shape.fullmatch(name) for name in names):
        assert codes(errors(whole)) == {c.MAPPED_AND_IGNORED.code}
    else:
        assert load(whole).checkpoint is not None
