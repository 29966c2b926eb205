"""The weight map is a bijection, and what breaks it is named."""

from __future__ import annotations

import pytest

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
