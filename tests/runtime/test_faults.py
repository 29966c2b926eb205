"""What MOEC_FAULT says, and that nothing happens without leave."""

from __future__ import annotations

import pytest

from moec.runtime import faults
from moec.runtime.errors import UserError
from moec.runtime.fault_kinds import KINDS
from moec.runtime.faults import ALWAYS, Fault, Injector, arm, fault_point, parse, written


def test_faults_as_written() -> None:
    text = "kill@rank=1,step=3; sleep@step=2,times=always,seconds=.5;nan@point=a.b_c,at=layers.0/experts"
    assert parse(text, KINDS) == (
        Fault("kill", rank=1, step=3),
        Fault("sleep", step=2, times=ALWAYS, seconds=0.5),
        Fault("nan", point="a.b_c", at="layers.0/experts"),
    )
    assert str(parse(text, KINDS)[0]) == "kill@rank=1,step=3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("explode@step=1", "there is no fault 'explode'"),
        ("kill", "give a step or a point"),
        ("kill@rank=1", "give a step or a point"),
        ("kill@step=x", "step cannot be 'x'"),
        ("kill@step=-1", "step cannot be '-1'"),
        ("kill@stop=1", "no key 'stop'"),
        ("kill@step=1,point=A B", "point cannot be 'A B'"),
        ("kill@step", "step cannot be ''"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text, KINDS)


def test_variable_and_option_go_together() -> None:
    text = {faults.VARIABLE: "kill@step=1"}
    assert written(True, text) == "kill@step=1"
    assert written(False, {}) == ""
    with pytest.raises(UserError, match=r"unset it, or give --enable-fault-injection"):
        written(False, text)
    with pytest.raises(UserError, match="MOEC_FAULT says which"):
        written(True, {})


def struck(text: str, rank: int = 0) -> tuple[Injector, list[str]]:
    happened: list[str] = []
    return Injector(parse(text, KINDS), rank, lambda fault: happened.append(fault.kind)), happened


def test_a_fault_happens_at_its_step_as_often_as_it_says() -> None:
    injector, happened = struck("raise@step=2;sleep@step=1,times=2;kill@rank=1,step=0")
    seen = []
    for step in range(5):
        injector.at_step(step)
        seen.append(list(happened))
        happened.clear()
    assert seen == [[], ["sleep"], ["raise", "sleep"], [], []]


def test_a_fault_at_a_point_waits_for_its_step() -> None:
    injector, happened = struck("kill@step=2,point=here;stop@point=there")
    arm(injector)
    try:
        fault_point("here")
        fault_point("there")  # during set-up
        assert happened == ["stop"]
        injector.at_step(1)
        fault_point("here")
        injector.at_step(2)
        assert happened == ["stop"]
        fault_point("here")
        fault_point("here")
        assert happened == ["stop", "kill"]
    finally:
        arm(None)
    fault_point("here")
    assert happened == ["stop", "kill"]
