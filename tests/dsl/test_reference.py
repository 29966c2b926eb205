"""The language reference says what the program does: its tables come from the program, its examples check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from dsl_texts import SMALL, codes, edited, errors, load
from moec import dsl
from moec.dsl import catalogue, limits, parameters
from moec.dsl import spec as m
from moec.dsl.vocabulary import BLOCKS, CHOOSERS, CONSTRUCTS, MODEL, ROUTER_ORDER, Construct, Param

REFERENCE = Path(__file__).parents[2] / "docs" / "language.md"
NORMS, NETWORKS = ("rms_norm", "layer_norm"), ("swiglu", "geglu", "mlp")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    return "\n".join([_row(*heads), "|" + "---|" * len(heads), *rows])


def _default(param: Param) -> str:
    if param.default is None:
        return "required"
    return param.default if param.derived else f"`{param.default}`"


def _params(params: Sequence[Param], heads: tuple[str, ...] = ("setting", "value", "default")) -> str:
    explained = any(p.meaning for p in params)
    rows = (
        _row(f"`{p.name}`", p.value, _default(p), *([p.meaning] if explained else []))
        for p in params
        if p.supported
    )
    return _table((*heads, *(["meaning"] if explained else [])), rows)


def _construct(construct: Construct) -> str:
    lines = [f"#### `{construct.name}`", "", construct.meaning]
    if construct.users:
        lines += ["", f"Used by {construct.users}."]
    if construct.params:
        lines += ["", _params(construct.params, ("argument", "value", "default"))]
    return "\n".join(lines)


def _named(*names: str) -> str:
    return "\n\n".join(_construct(CONSTRUCTS[name]) for name in names)


def _roles(*roles: str) -> str:
    return _named(*(x.name for x in CONSTRUCTS.values() if x.role in roles and x.supported))


WORKS_ON = (
    "the router's input", "logits", "logits, which become scores", "what is chosen by", "what is chosen by",
    "everything before: k experts a token", "weights", "weights", "weights", "choices and weights",
)  # fmt: skip


def _order() -> str:
    rows = (
        _row(
            str(index),
            ", ".join(f"`{name}`" for name in group),
            "any number" if "scale" in group else "one" if group == CHOOSERS else "at most one",
            works_on,
        )
        for index, (group, works_on) in enumerate(zip(ROUTER_ORDER, WORKS_ON, strict=True), 1)
    )
    return _table(("place", "stages", "how many", "works on"), rows)


def _later() -> str:
    roles = dict.fromkeys(x.role for x in CONSTRUCTS.values() if not x.supported)
    lines = []
    for role in roles:
        names = [f"`{x.name}`" for x in CONSTRUCTS.values() if x.role == role and not x.supported]
        lines.append(f"- {role.replace('_', ' ')}: {', '.join(names)}")
    for kind, params in BLOCKS.items():
        names = [f"`{p.name}`" for p in params if not p.supported]
        lines += [f"- settings of `{kind}`: {', '.join(names)}"] if names else []
    return "\n".join(lines)


def _where() -> str:
    return "\n\n".join(
        f"`{kind}`:\n\n{_params(BLOCKS[kind])}" for kind in ("parallel", "precision", "memory")
    )


def _codes() -> str:
    return _table(("code", "mistake"), (_row(kind.code, kind.title) for kind in catalogue.ALL))


LIMITS = {
    "bytes of a text": limits.FILE_BYTES, "words and signs of a text": limits.TOKENS,
    "brackets in one another": limits.NESTING, "characters of a name": limits.NAME_LENGTH,
    "characters of a string": limits.STRING_LENGTH, "characters of a number": limits.NUMBER_LENGTH,
    "arguments of a call": limits.ARGUMENTS, "items of a list": limits.LIST_ITEMS,
    "names that follow from one another": limits.REFERENCES, "files reached by `use`": limits.USED_FILES,
    "overrides": limits.OVERRIDES, "layers": limits.LAYERS, "equations of a layer": limits.EQUATIONS,
    "arms of a match": limits.MATCH_ARMS,
    "experts of a mixture, identity ones included": limits.EXPERTS, "vocabulary": limits.VOCAB,
    "width, and ranks of latents": limits.WIDTH,
    "width of a feed-forward network, shared experts together": limits.FFN_WIDTH, "heads": limits.HEADS,
    "dims of a head": limits.HEAD_DIM, "tokens of context, windows and originals": limits.CONTEXT,
    "iterations of `sinkhorn`": limits.ITERATIONS, "parameters of a model": limits.PARAMETERS,
    "parameters in a weight map, experts one by one": limits.TENSORS,
}  # fmt: skip


def _limits() -> str:
    return _table(("at most", "of"), (_row(f"{limit:_}", what) for what, limit in LIMITS.items()))


# --- parameters ---

BIASED = m.Ffn(5, bias=True)
EVERYTHING: dict[str, m.Component] = {  # components that have every parameter there can be
    "rms_norm": m.RmsNorm(1e-6),
    "layer_norm": m.LayerNorm(1e-6),
    "gqa": m.Gqa(
        heads=4, kv_heads=2, head_dim=6, value_dim=8, rope=None, qkv_bias=True, out_bias=True,
        qk_norm=m.QkNorm(m.RmsNorm(1e-6), "head"),
        attend=m.Attend(sinks=True, gate=m.OutputGate("element", bias=True)),
    ),
    "mla": m.Mla(
        heads=4, q_rank=7, kv_rank=9, nope_dim=6, rope_dim=2, value_dim=8, rope=None, norm=m.RmsNorm(1e-6),
        bias=True, attend=m.Attend(sinks=True, gate=m.OutputGate("head", bias=True)),
    ),
    "mla without q_rank": m.Mla(
        heads=4, q_rank=None, kv_rank=9, nope_dim=6, rope_dim=2, value_dim=8, rope=None, norm=m.RmsNorm(1e-6)
    ),
    "swiglu, geglu": BIASED,
    "mlp": m.Ffn(5, "gelu", gated=False, bias=True),
    "moe": m.Moe(
        experts=3, expert=BIASED, shared=m.SharedExperts(BIASED, gate=True), router_bias=True, latent=13,
        latent_norm=m.RmsNorm(1e-6), expert_norm=m.RmsNorm(1e-6),
        router=(m.Softmax(), m.CorrectionBias(), m.Top(2), m.ExpertScale()),
    ),
}  # fmt: skip
INITS = {"normal": "drawn", "ones": "1", "zeros": "0"}


def _parameters() -> str:
    """Names of one component after another; the call's own name is left out."""
    rows = []
    for name, component in EVERYTHING.items():
        found = list(parameters.call_parameters(m.Call("NAME", component, m.Var("x")), 11))
        by_init = {text: [p for p in found if p.init == init] for init, text in INITS.items()}
        cells = (" ".join(f"`{_own(p.path)}`" for p in some) for some in by_init.values())
        rows.append(_row(name, *cells))
    return _table(
        ("component", *(f"start at {text}" if text != "drawn" else text for text in INITS.values())), rows
    )


def _own(path: str) -> str:
    return path.removeprefix("NAME.").replace("NAME", "norm").format("E")


TABLES: dict[str, Callable[[], str]] = {
    "model": lambda: _params(MODEL),
    "words": lambda: _roles("function", "pattern", "init"),
    "norms": lambda: _named(*NORMS),
    "attention": lambda: _named("gqa", "mla"),
    "parts": lambda: _roles("qk_norm", "gate", "temperature"),
    "positions": lambda: _roles("position"),
    "networks": lambda: _named(*NETWORKS),
    "mixture": lambda: _named("moe"),
    "order": _order,
    "stages": lambda: _roles("stage"),
    "balance": lambda: _roles("balance"),
    "parameters": _parameters,
    "where": _where,
    "dispatch": lambda: _roles("dispatch"),
    "kept": lambda: _roles("recompute", "offload"),
    "train": lambda: _params(BLOCKS["train"]),
    "training": lambda: _roles("optimizer", "schedule"),
    "going_on": lambda: _roles("saving", "remedy", "warning", "validation"),
    "limits": _limits,
    "later": _later,
    "codes": _codes,
}


def test_the_tables_are_those_of_the_program(golden: Callable[[str, Path], None]) -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        pattern = re.compile(f"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        assert len(pattern.findall(text)) == 1, name
        text = pattern.sub(lambda found, t=table: f"{found[1]}{t()}\n{found[2]}", text)  # type: ignore[misc]
    golden(text, REFERENCE)


TEXT = REFERENCE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```moe\n(.*?)```", TEXT, re.DOTALL)
LAYERS = re.findall(r"```layers\n(.*?)```", TEXT, re.DOTALL)
BOUND = """\
    second_attention = gqa(heads: 4)
    dense = swiglu(32)
    second_dense = swiglu(32)
    norm """


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_check_and_are_canonical(text: str) -> None:
    load(text)
    assert dsl.format_text(text) == text


def test_the_whole_text_is_one_that_is_compared_with_transformers() -> None:
    """With its weight map and its config: a row of the table of families."""
    compared = Path(__file__).parents[1] / "exchange" / "unshipped" / "dots_llm1.moe"
    assert EXAMPLES[-1] == compared.read_text(encoding="utf-8")


@pytest.mark.parametrize("equations", LAYERS, ids=range(len(LAYERS)))
def test_the_equations_check(equations: str) -> None:
    own = "        x += attention(norm(x))\n        x += experts(norm(x))\n"
    text = edited(edited(SMALL, own, equations), "    norm ", BOUND).replace("layers 2", "layers 4")
    load(text)


def _cells(heading: str) -> list[str]:
    """What stands in code in the first column of a table of the reference, by the first cell of its head."""
    table = TEXT.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    rows = [re.split(r"(?<!\\)\|", line)[1] for line in table.splitlines()[2:]]
    return [code.replace("\\|", "|") for row in rows for code in re.findall(r"`([^`]+)`", row)]


def test_the_routers_check() -> None:
    routers = [text for text in _cells("router") if "(" in text]
    assert len(routers) > 10
    for router in routers:
        load(edited(edited(SMALL, "softmax | top(2) | renormalize", router), "4 of", "64 of"))


def test_the_embeddings_and_outputs_check() -> None:
    written = [text for text in _cells("written | means |\n|---|---|\n| `x = embed(tokens)`") if "=" in text]
    assert len(written) > 6
    for text in written:
        if text.startswith("x ="):
            load(edited(SMALL, "    layers 2", f"    {text}\n    layers 2"))
        else:
            load(edited(SMALL, "logits = linear(norm(x))", text))


OF_A_RUN = (
    "optimizer", "schedule", "init", "recompute", "offload", "dispatch", "saving", "remedy", "warning",
    "validation",
)  # fmt: skip
"""Roles that say nothing of a model: no published one uses them."""


def test_every_construct_is_in_the_reference_with_its_meaning() -> None:
    for construct in CONSTRUCTS.values():
        if construct.supported:
            assert construct.meaning, construct.name
            assert TEXT.count(f"#### `{construct.name}`\n\n{construct.meaning}") == 1, construct.name
        if construct.role not in OF_A_RUN:
            assert construct.users, construct.name


PLACES: dict[str, Callable[[str], str]] = {
    "component": lambda name: SMALL.replace("gqa(heads: 4, kv_heads: 2)", f"{name}(a: 1)"),
    "position": lambda name: SMALL.replace("kv_heads: 2", f"kv_heads: 2, rope: {name}(a: 1)"),
    "stage": lambda name: SMALL.replace("softmax |", f"{name}(a: 1) |"),
    "balance": lambda name: SMALL.replace("renormalize)", f"renormalize, balance: {name}(1))"),
    "optimizer": lambda name: SMALL + f"train {{ optimizer = {name}(a: 1) }}\n",
    "schedule": lambda name: SMALL + f"train {{ schedule = {name}(a: 1) }}\n",
}
LATER = [construct for construct in CONSTRUCTS.values() if not construct.supported]


@pytest.mark.parametrize("construct", LATER, ids=lambda construct: construct.name)
def test_what_is_not_supported_yet_says_so_once(construct: Construct) -> None:
    found = errors(PLACES[construct.role](construct.name))
    assert [d.code for d in found] == [catalogue.NOT_YET.code]
    assert f"`{construct.name}`" in found[0].label


def test_settings_not_supported_yet_say_so() -> None:
    for kind, params in BLOCKS.items():
        for param in params:
            if not param.supported:
                text = SMALL + f"{kind} {{ {param.name} = 2 }}\n"
                assert codes(errors(text)) == {catalogue.NOT_YET.code}, (kind, param.name)


@pytest.mark.parametrize("name", ["fp16", "fp8"])
def test_other_number_formats_are_not_supported_yet(name: str) -> None:
    for param in BLOCKS["precision"]:
        text = SMALL + f"precision {{ {param.name} = {name} }}\n"
        assert codes(errors(text)) == {catalogue.NOT_YET.code}


def test_a_default_written_out_changes_nothing() -> None:
    """Every default of the tables, given in the text, means what leaving it out means."""
    plain = load(SMALL)
    for kind, params in BLOCKS.items():
        for param in params:
            if param.supported and param.default is not None and not param.derived:
                found = load(SMALL + f"{kind} {{ {param.name} = {param.default} }}\n")
                assert (found.parallel, found.precision, found.memory, found.train) == (
                    plain.parallel, plain.precision, plain.memory, plain.train
                ), param.name  # fmt: skip
