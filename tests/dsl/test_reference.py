"""The language reference says what the program does: its tables come from the program, its examples check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from dsl_texts import SMALL, codes, errors, load
from moec import dsl
from moec.dsl import catalogue, limits
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS, MODEL, Construct, Param

REFERENCE = Path(__file__).parents[2] / "docs" / "language.md"
COMPONENTS = ("component", "position", "qk_norm", "stage", "balance")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    return "\n".join([_row(*heads), "|" + "---|" * len(heads), *rows])


def _default(param: Param) -> str:
    if param.default is None:
        return "required"
    return param.default if param.derived else f"`{param.default}`"


def _params(params: Sequence[Param]) -> str:
    rows = (_row(f"`{p.name}`", p.value, _default(p)) for p in params if p.supported)
    return _table(("setting", "value", "default"), rows)


def _construct(construct: Construct) -> str:
    lines = [f"**`{construct.name}`** ({construct.role.replace('_', ' ')}): {construct.meaning}", ""]
    if construct.params:
        rows = (_row(f"`{p.name}`", p.value, _default(p)) for p in construct.params)
        lines += [_table(("argument", "value", "default"), rows), ""]
    return "\n".join(lines)


def _constructs(*roles: str) -> str:
    return "\n".join(_construct(x) for x in CONSTRUCTS.values() if x.role in roles and x.supported).rstrip()


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


TABLES: dict[str, Callable[[], str]] = {
    "model": lambda: _params(MODEL),
    "components": lambda: _constructs(*COMPONENTS),
    "where": _where,
    "train": lambda: _params(BLOCKS["train"]),
    "training": lambda: _constructs("optimizer", "schedule", "init", "pattern", "head"),
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


EXAMPLES = re.findall(r"```moe\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_check_and_are_canonical(text: str) -> None:
    load(text)
    assert dsl.format_text(text) == text


def test_the_limits_are_the_stated_ones() -> None:
    stated = REFERENCE.read_text(encoding="utf-8")
    assert f"{limits.TOKENS:_} tokens" in stated
    assert f"at most {limits.NESTING} deep" in stated
    assert f"{limits.LAYERS:_} layers" in stated
    assert f"{limits.EXPERTS:_}" in stated
    assert limits.VOCAB == 2**24
    assert limits.PARAMETERS == 10**15


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


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp64", "fp8"])
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
