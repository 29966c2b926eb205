"""Every element once: intervals that make up a parameter are taken, any others are refused by name."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moec.runtime.checkpoint.coverage import CoverageError, check_coverage
from moec.runtime.checkpoint.slices import SAVED_PARTS, Slice, parse_slice

PARAMETERS = {"a": ((3, 4), True), "b": ((5,), True), "bias": ((2,), False), "number": ((), True)}
SIZES = {"a": 12, "b": 5, "bias": 2, "number": 1}


@st.composite
def cuts(draw: st.DrawFn) -> list[Slice]:
    """Every part of every parameter, cut at random places, in any order."""
    found = []
    for name, (_, trained) in PARAMETERS.items():
        for part in SAVED_PARTS if trained else SAVED_PARTS[:1]:
            inner = draw(st.sets(st.integers(1, SIZES[name] - 1))) if SIZES[name] > 1 else set()
            places = [0, *sorted(inner), SIZES[name]]
            found += [Slice(part, name, low, high - low) for low, high in itertools.pairwise(places)]
    return draw(st.permutations(found))


@given(slices=cuts())
def test_what_makes_up_every_parameter_is_taken(slices: list[Slice]) -> None:
    check_coverage(PARAMETERS, slices, "here")


@given(slices=cuts(), data=st.data())
def test_a_slice_that_is_left_out_or_there_twice_is_named(slices: list[Slice], data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(slices))
    with pytest.raises(CoverageError, match=f"here: elements {victim.start} to .* are missing"):
        check_coverage(PARAMETERS, [one for one in slices if one != victim], "here")
    with pytest.raises(CoverageError, match=f"{victim.part} of '{victim.name}' are there twice"):
        check_coverage(PARAMETERS, [*slices, victim], "here")


@given(slices=cuts(), data=st.data())
def test_a_slice_that_is_longer_shorter_or_moved_is_refused(slices: list[Slice], data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(slices))
    rest = [one for one in slices if one != victim]
    for other in (replace(victim, count=victim.count + 1), replace(victim, start=victim.start + 1)):
        with pytest.raises(CoverageError, match=victim.name):
            check_coverage(PARAMETERS, [*rest, other], "here")


def test_what_the_model_has_not_is_refused() -> None:
    whole = [Slice(part, name, 0, size) for name, size in SIZES.items() for part in SAVED_PARTS]
    with pytest.raises(CoverageError, match="'bias' is not trained, and there is exp_avg"):
        check_coverage(PARAMETERS, whole, "here")
    trained = [one for one in whole if one.name != "bias" or one.part == "parameter"]
    check_coverage(PARAMETERS, trained, "here")
    with pytest.raises(CoverageError, match="'c' is no parameter"):
        check_coverage(PARAMETERS, [*trained, Slice("parameter", "c", 0, 1)], "here")


@pytest.mark.parametrize(
    "text",
    ["parameter/a[0:0]", "parameter/a[3:1]", "parameter/a[00:1]", "gradient/a[0:1]", "parameter/[0:1]",
     "parameter/a[0:1] ", "parameter/a", "parameter/a[-1:2]", f"parameter/{'a' * 1000}[0:1]",
     "parameter/a[0:99999999999999999999]"],
)  # fmt: skip
def test_what_is_no_slice_is_not_read_as_one(text: str) -> None:
    assert parse_slice(text) is None


@given(
    name=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40),
    start=st.integers(0, 10**15),
    count=st.integers(1, 10**15),
)
def test_a_slice_is_the_text_of_itself(name: str, start: int, count: int) -> None:
    one = Slice("exp_avg_sq", name, start, count)
    assert parse_slice(str(one)) == one
