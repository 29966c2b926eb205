"""What a rank did in the steps that are profiled: one span for each instruction, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from moec.runtime.abi.instructions import COLLECTIVE_STARTS
from moec.runtime.abi.program import Instruction, Ref

MOST_SPANS = 1_000_000
"""Of a rank: what comes after so many is not recorded, and the trace says how much."""


@dataclass(frozen=True, slots=True)
class Span:
    """`instruction` of `program` ran from `begin_s` to `end_s` of the recording's clock."""

    begin_s: float
    end_s: float
    program: str
    instruction: Instruction


@dataclass(frozen=True, slots=True)
class Flight:
    """A collective over `axis`, from the begin of its start half to the end of its wait half."""

    begin_s: float
    end_s: float
    program: str
    start: Instruction
    wait: Instruction

    @property
    def axis(self) -> str:
        """What it is over."""
        return str(self.start.arguments[-1])


class Recording:
    """Collects spans of the instructions that are `watched`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.spans: list[Span] = []
        self.lost = 0

    def watched(
        self, program: str, instruction: Instruction, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """`function`, which carries out the instruction, with a span for every call that succeeds."""
        clock, spans = self.clock, self.spans

        def timed(*arguments: Any, **keywords: Any) -> Any:
            begin_s = clock()
            result = function(*arguments, **keywords)
            if len(spans) < MOST_SPANS:
                spans.append(Span(begin_s, clock(), program, instruction))
            else:
                self.lost += 1
            return result

        return timed

    def flights(self) -> Iterator[Flight]:
        """The collectives whose both halves were recorded, in the order in which they ended."""
        started: dict[tuple[str, str], Span] = {}
        for span in self.spans:
            instruction = span.instruction
            if instruction.op in COLLECTIVE_STARTS:
                started[span.program, instruction.name] = span
            elif instruction.op == "moec.wait" and isinstance(handle := instruction.arguments[0], Ref):
                start = started.pop((span.program, handle.name), None)
                if start is not None:
                    yield Flight(start.begin_s, span.end_s, span.program, start.instruction, instruction)
