"""Programs as data: equal after a round trip, and refused where they break a rule of the format."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.abi.codec import FormatError, dump, parse_json
from moec.runtime.abi.instructions import COLLECTIVE_STARTS, DTYPE_ARGUMENTS, MEMBER, SIGNATURES
from moec.runtime.abi.program import Instruction, Place, Program, Ref, listing, uses
from moec.runtime.abi.program_json import programs_from_data, programs_to_data

OPS = sorted(SIGNATURES.keys() - COLLECTIVE_STARTS - {"moec.call", MEMBER})
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=1000), min_size=1, max_size=6).filter(
    str.isprintable
)
LEGIBLE = st.text(max_size=4).filter(str.isprintable)
PLACES = st.builds(Place, LEGIBLE, st.integers(1, 99), LEGIBLE)
DTYPES = st.none() | st.sampled_from([torch.float32, torch.int64, torch.bool])
CONSTANTS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from([torch.float32, torch.int64, torch.bool])
)


@st.composite
def programs(draw: st.DrawFn, name: str) -> Program:
    """Any program that keeps the rules."""
    known = draw(st.lists(NAMES, unique=True, max_size=3))
    inputs, instructions = tuple(known), []

    def argument() -> st.SearchStrategy[Any]:
        leaf = CONSTANTS | st.sampled_from([Ref(n) for n in known]) if known else CONSTANTS
        return st.recursive(leaf, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)

    for made in draw(st.lists(NAMES, unique=True, max_size=4)):
        if made in known:
            continue
        op = draw(st.sampled_from(OPS))
        positional, named = [], []
        for parameter in SIGNATURES[op].parameters.values():
            of_dtype = parameter.name in DTYPE_ARGUMENTS[op]
            value = draw(DTYPES if of_dtype else argument())
            if parameter.kind is parameter.KEYWORD_ONLY:
                named.append((parameter.name, value))
            else:
                positional.append(value)
        instructions.append(
            Instruction(
                name=made,
                op=op,
                arguments=tuple(positional),
                keywords=tuple(named),
                type=draw(st.just("") | NAMES),
                place=draw(st.none() | PLACES),
            )
        )
        known.append(made)
    outputs = tuple(draw(st.lists(argument(), max_size=2)))
    labels = [tuple(draw(NAMES) for _ in ports) for ports in (inputs, outputs)]
    return Program(name, inputs, tuple(instructions), outputs, *labels)


@settings(deadline=None, max_examples=150)
@given(programs("one"), programs("other"))
def test_round_trip(one: Program, other: Program) -> None:
    both = {"one": one, "other": other}
    text = dump(programs_to_data(both))
    found = programs_from_data(parse_json(text, "f"), "f")
    assert found == both
    assert dump(programs_to_data(found)) == text


def test_numbers_that_are_not_finite_keep_their_value() -> None:
    made = Instruction("y", "aten.stack.default", ((-math.inf, math.nan, math.inf),))
    program = Program("p", (), (made,), (), (), ())
    (found,) = programs_from_data(parse_json(dump(programs_to_data({"p": program})), "f"), "f").values()
    ((lowest, no_number, highest),) = found.instructions[0].arguments
    assert (lowest, highest) == (-math.inf, math.inf)
    assert math.isnan(no_number)


def test_types_of_numbers_are_kept() -> None:
    program = Program("p", (), (Instruction("y", "aten.stack.default", ((1, 1.0, True),)),), (), (), ())
    (found,) = programs_from_data(parse_json(dump(programs_to_data({"p": program})), "f"), "f").values()
    assert [type(a) for a in found.instructions[0].arguments[0]] == [int, float, bool]


MAIN = Program(
    name="main",
    inputs=("x", "shard"),
    instructions=(
        Instruction("h", "moec.all_reduce_start", (Ref("x"), "data"), place=Place("a.moe", 3, "x += f(x)")),
        Instruction("y", "moec.wait", (Ref("h"),), place=Place("a.moe", 3, "x += f(x)")),
        Instruction("called", "moec.call", ("inner", (Ref("y"), Ref("shard")))),
        Instruction("z", "moec.getitem", (Ref("called"), 0), type="float32 (3)"),
    ),
    outputs=(Ref("z"),),
    input_labels=("x", "shard"),
    output_labels=("z",),
)
INNER = Program(
    "inner",
    ("a", "b"),
    (Instruction("c", "aten.add.Tensor", (Ref("a"), Ref("b")), (("alpha", 2),)),),
    (Ref("c"),),
    ("a", "b"),
    ("c",),
)
DATA: Any = programs_to_data({"main": MAIN, "inner": INNER})


def set_at(*path: Any) -> Callable[[Any], None]:
    """A change: put the last element of `path` where the others lead."""
    *steps, last, value = path

    def change(data: Any) -> None:
        for step in steps:
            data = data[step]
        data[last] = value

    return change


FIRST: tuple[Any, ...] = ("programs", 0, "instructions")
DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "no places": (lambda d: d.pop("places"), "expected an object with places and programs"),
    "a key too many": (set_at("code", "import os"), "expected an object with places and programs"),
    "no list of programs": (set_at("programs", {}), r"f\.programs: expected a list"),
    "two programs of one name": (set_at("programs", 1, "name", "main"), "two programs are named main"),
    "a program with a key too many": (
        set_at("programs", 0, "x", 1),
        r"programs\[0\]: expected an object with",
    ),
    "an unnamed program": (set_at("programs", 0, "name", ""), "expected a name"),
    "two inputs of one name": (set_at("programs", 0, "inputs", 1, "x"), "two inputs of one name"),
    "a label too few": (set_at("programs", 0, "input_labels", []), "main: labels do not match"),
    "unknown instruction": (set_at(*FIRST, 1, 1, "os.system"), "'os.system' is not in the instruction set"),
    "a torch operation that is not listed": (
        set_at(*FIRST, 1, 1, "aten.uniform_.default"),
        "'aten.uniform_.default' is not in the instruction set",
    ),
    "a method of an instruction": (
        set_at(*FIRST, 1, 1, "moec.wait.__globals__"),
        "is not in the instruction set",
    ),
    "use before definition": (set_at(*FIRST, 0, 2, 0, {"%": "y"}), "%h uses %y before it is made"),
    "use of nothing": (set_at(*FIRST, 3, 2, 0, {"%": "w"}), "%z uses %w before it is made"),
    "use by keyword": (set_at(*FIRST, 3, 3, {"k": [{"%": "w"}]}), "%z uses %w before it is made"),
    "made twice": (set_at(*FIRST, 3, 0, "y"), "%y is made twice"),
    "an input made again": (set_at(*FIRST, 3, 0, "x"), "%x is made twice"),
    "returns nothing": (
        set_at("programs", 0, "outputs", 0, {"%": "w"}),
        "main returns %w, which it never makes",
    ),
    "a call of nothing": (set_at(*FIRST, 2, 2, 0, "outer"), "%called calls a program that does not exist"),
    "a call without values": (set_at(*FIRST, 2, 2, ["inner"]), "%called calls a program that does not exist"),
    "a call by value": (set_at(*FIRST, 2, 2, 0, {"%": "y"}), "%called calls a program that does not exist"),
    "a call with too few values": (
        set_at(*FIRST, 2, 2, 1, [{"%": "y"}]),
        "%called gives inner 1 values, not 2",
    ),
    "a program that calls itself": (set_at(*FIRST, 2, 2, 0, "main"), "in a ring: main -> main"),
    "a collective without an axis": (set_at(*FIRST, 0, 2, [{"%": "x"}]), "%h takes 2 arguments, not 1"),
    "a collective without arguments": (set_at(*FIRST, 0, 2, []), "%h takes 2 arguments, not 0"),
    "a collective over an unknown axis": (set_at(*FIRST, 0, 2, 1, "world"), "%h names no axis of the mesh"),
    "a collective over a value": (set_at(*FIRST, 0, 2, 1, {"%": "x"}), "%h names no axis of the mesh"),
    "a value too few": (
        set_at("programs", 1, "instructions", 0, 2, [{"%": "a"}]),
        "%c = aten.add.Tensor: missing a required argument: 'other'",
    ),
    "a value too many": (
        set_at("programs", 1, "instructions", 0, 2, [1, 2, 3]),
        "%c = aten.add.Tensor: too many positional",
    ),
    "a value twice": (
        set_at("programs", 1, "instructions", 0, 3, {"other": 1}),
        "multiple values for argument 'other'",
    ),
    "a keyword that is none": (set_at(*FIRST, 3, 3, {"key": 1}), "got an unexpected keyword argument 'key'"),
    "a keyword to a call": (set_at(*FIRST, 2, 3, {"key": 1}), "got an unexpected keyword argument 'key'"),
    "a value too many for an operation of ours": (
        set_at(*FIRST, 1, 2, [{"%": "h"}, 1]),
        "%y = moec.wait: too many positional",
    ),
    "a tensor that is elsewhere": (
        set_at(*FIRST, 3, ["z", "aten.new_zeros.default", [{"%": "y"}, [3]], {"device": "meta"}, "", None]),
        "got an unexpected keyword argument 'device'",
    ),
    "a tensor in another order": (
        set_at(*FIRST, 3, ["z", "aten._to_copy.default", [{"%": "y"}], {"memory_format": 4}, "", None]),
        "got an unexpected keyword argument 'memory_format'",
    ),
    "a number for a dtype": (
        set_at(*FIRST, 3, ["z", "aten.scalar_tensor.default", [1], {"dtype": 1000}, "", None]),
        "%z = aten.scalar_tensor.default: 'dtype' is no dtype",
    ),
    "a value for a dtype": (
        set_at(
            *FIRST,
            3,
            ["z", "aten._softmax_backward_data.default", [*[{"%": "y"}] * 2, 0, {"%": "y"}], {}, "", None],
        ),
        "'input_dtype' is no dtype",
    ),
    "a place that is not there": (set_at(*FIRST, 0, 5, 1), "%h has no place 1"),
    "a place before the first": (set_at(*FIRST, 0, 5, -1), "%h has no place -1"),
    "an instruction that lacks a part": (
        lambda d: d["programs"][0]["instructions"][0].pop(),
        "an instruction is",
    ),
    "an instruction that is an object": (set_at(*FIRST, 0, {}), "an instruction is"),
    "an unknown dtype": (set_at(*FIRST, 0, 2, 0, {"dtype": "complex64"}), "is no argument"),
    "an object as argument": (set_at(*FIRST, 0, 2, 0, {"__reduce__": ["os.system"]}), "is no argument"),
    "a value with more to it": (set_at(*FIRST, 0, 2, 0, {"%": "x", "y": 1}), "is no argument"),
    "a finite infinity": (set_at(*FIRST, 0, 2, 0, {"float": "1"}), "is no argument"),
    "a name that steers the terminal": (set_at(*FIRST, 3, 0, "\x1b[2J"), "expected a name"),
    "a keyword that steers the terminal": (set_at(*FIRST, 3, 3, {"\x1b[2J": 1}), "expected a name"),
    "a type that steers the terminal": (set_at(*FIRST, 3, 4, "\x1b[2J"), "expected a name"),
    "a label that steers the terminal": (set_at("programs", 0, "output_labels", 0, "\r"), "expected a name"),
    "a line that steers the terminal": (
        set_at("places", 0, "text", "\x1b[2J"),
        r"f\.places\[0\]\.text: '\\x1b\[2J' is no printable text",
    ),
    "a file that steers the terminal": (set_at("places", 0, "file", "\x9b2J"), r"f\.places\[0\]\.file: "),
    "an endless name": (set_at(*FIRST, 3, 0, "y" * 257), "expected a name"),
    "a place that is none": (set_at("places", 0, {"file": "a.moe"}), r"f\.places\[0\]: unknown keys"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(name: str) -> None:
    change, message = DAMAGE[name]
    data = copy.deepcopy(DATA)
    change(data)
    with pytest.raises(FormatError, match=message):
        programs_from_data(data, "f")


def test_the_undamaged_programs_are_accepted() -> None:
    assert programs_from_data(copy.deepcopy(DATA), "f") == {"main": MAIN, "inner": INNER}


def test_a_ring_of_programs_is_refused_and_a_chain_of_thousands_is_not() -> None:
    """In time that grows with the number of programs."""

    def calling(name: int, callee: int) -> Program:
        return Program(f"p{name}", (), (Instruction("r", "moec.call", (f"p{callee}", ())),), (), (), ())

    count = 5000
    last = Program(f"p{count}", (), (), (), (), ())
    chain = {f"p{i}": calling(i, i + 1) for i in range(count)}
    assert len(programs_from_data(programs_to_data({**chain, last.name: last}), "f")) == count + 1
    ring = {**chain, last.name: calling(count, 0)}
    with pytest.raises(FormatError, match="call each other in a ring: p"):
        programs_from_data(programs_to_data(ring), "f")


def test_a_line_with_unprintable_characters_is_written_so_that_it_can_be_read() -> None:
    made = Instruction("y", "int.add", (1, 2), place=Place("a\x1b.moe", 3, "x\t= 1  # \x07"))
    program = Program("p", (), (made,), (), (), ())
    (found,) = programs_from_data(programs_to_data({"p": program}), "f").values()
    assert found.instructions[0].place == Place("a?.moe", 3, "x\t= 1  # ?")


WORDS = st.sampled_from(["moec.call", "data", "inner", ""])
KEYS = st.sampled_from(["%", "dtype", "a"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_part_replaced_by_anything_is_refused_or_a_program(data: st.DataObject) -> None:
    """Never another error than FormatError."""
    changed: Any = copy.deepcopy(DATA)
    part = changed
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(part[key], dict | list) or not part[key] or data.draw(st.booleans()):
            break
        part = part[key]
    part[key] = data.draw(ANYTHING)
    try:
        programs_from_data(changed, "f")
    except FormatError:
        return


def test_a_listing_shows_every_instruction_with_its_line() -> None:
    text = listing(MAIN).splitlines()
    assert text[0] == "program main(%x: x, %shard: shard)"
    assert text[1].split("#") == [text[1].split("#")[0], " a.moe:3"]
    assert text[3].strip() == "%called = moec.call('inner', [%y, %shard])"
    assert text[-1] == "    return z = %z"
    assert "%c = aten.add.Tensor(%a, %b, alpha=2)" in listing(INNER)


def test_uses_are_found_in_lists_and_keywords() -> None:
    made = Instruction("y", "aten.cat.default", ((Ref("a"), (Ref("b"), 1)), 0), (("k", (Ref("c"),)),))
    assert uses(made) == {"a", "b", "c"}
