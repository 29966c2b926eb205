"""A trace as Chrome, Perfetto and Speedscope read it: the Trace Event Format, events of kind X and M.

One process a rank; one thread `steps and instructions`, and one for what is under way on each axis, two where
collectives of an axis overlap. Times are microseconds since shortly before the first profiled step, by the
clock of rank 0. An instruction has its name in its program, so a call has that of the region that it runs,
such as layers_3_forward; `callee` is the program that all regions of a kind share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from moec.runtime.abi.program import Instruction

from .clocks import Clock
from .spans import Flight, Recording
from .work import Work

MAIN = 0
"""The thread of instructions."""


def rank_events(
    rank: int, clock: Clock, recording: Recording, steps: Sequence[tuple[int, Work]]
) -> Iterator[dict[str, Any]]:
    """All events of a rank; `steps` are the numbers of the profiled ones, and what was measured of them."""
    yield _named("process_name", rank, MAIN, {"name": f"rank {rank}"})
    yield _named("process_sort_index", rank, MAIN, {"sort_index": rank})
    yield _named("thread_name", rank, MAIN, {"name": "steps and instructions"})
    yield from _steps(rank, clock, steps)
    for span in recording.spans:
        about = _about(span.program, span.instruction)
        cat = "call" if _is_call(span.instruction) else "instruction"
        yield _complete(span.instruction.name, cat, rank, MAIN, clock, span.begin_s, span.end_s, about)
    yield from _flights(rank, clock, recording.flights())


def _steps(rank: int, clock: Clock, steps: Sequence[tuple[int, Work]]) -> Iterator[dict[str, Any]]:
    for number, work in steps:
        end_s = work.start_s + work.step_s
        about = {"sent_bytes": work.moved.by_axis(), "time_s": work.times_s()}
        yield _complete(f"step {number}", "step", rank, MAIN, clock, work.start_s, end_s, about)
        yield _complete("data", "data", rank, MAIN, clock, work.start_s, work.start_s + work.data_s, {})


def _flights(rank: int, clock: Clock, flights: Iterable[Flight]) -> Iterator[dict[str, Any]]:
    lanes: dict[str, list[float]] = {}  # axis -> when each of its threads is free again
    threads: dict[tuple[str, int], int] = {}
    for flight in sorted(flights, key=lambda one: one.begin_s):
        lane = _free_lane(lanes.setdefault(flight.axis, []), flight)
        if (flight.axis, lane) not in threads:
            threads[flight.axis, lane] = len(threads) + 1
            name = f"{flight.axis} communicator" + (f" {lane + 1}" if lane else "")
            yield _named("thread_name", rank, threads[flight.axis, lane], {"name": name})
        about = _about(flight.program, flight.start) | {"axis": flight.axis}
        thread = threads[flight.axis, lane]
        yield _complete(
            flight.wait.name, "collective", rank, thread, clock, flight.begin_s, flight.end_s, about
        )


def _free_lane(free_s: list[float], flight: Flight) -> int:
    """The first thread that is free when the flight begins; it is taken until it ends."""
    lane = next((i for i, until_s in enumerate(free_s) if until_s <= flight.begin_s), len(free_s))
    free_s[lane : lane + 1] = [flight.end_s]
    return lane


def _complete(
    name: str,
    cat: str,
    rank: int,
    thread: int,
    clock: Clock,
    begin_s: float,
    end_s: float,
    about: dict[str, Any],
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": cat,
        "ph": "X",
        "pid": rank,
        "tid": thread,
        "ts": round(clock.common_us(begin_s), 3),
        "dur": max(round((end_s - begin_s) * 1e6, 3), 0.0),
        "args": about,
    }


def _named(what: str, rank: int, thread: int, about: dict[str, Any]) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": rank, "tid": thread, "args": about}


def _is_call(instruction: Instruction) -> bool:
    return instruction.op == "moec.call"


def _about(program: str, instruction: Instruction) -> dict[str, Any]:
    about = {"program": program, "instruction": instruction.name, "op": instruction.op}
    if _is_call(instruction):
        about["callee"] = instruction.arguments[0]
    if instruction.type:
        about["type"] = instruction.type
    if instruction.place is not None:
        about["moe"] = str(instruction.place)
        about |= {"text": instruction.place.text} if instruction.place.text else {}
    return about
