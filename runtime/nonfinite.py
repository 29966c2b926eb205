"""Which parameters, or gradients, hold numbers that are not finite, and the `.moe` lines that they are of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from moec.runtime.abi.bundle import Bundle
from moec.runtime.abi.program import Ref
from moec.runtime.state import TrainState, parameter_prefix
from moec.runtime.transport.api import Transport

SHOWN = 8
_MOST_SENT = 64


def trace(state: TrainState, bundle: Bundle, transport: Transport) -> str:
    """What is not finite, on any rank: parameters if there are such, else gradients; called on all ranks.

    Empty where nothing is, and where nearly all is: then it says nothing of where it began.
    """
    lines = _lines(bundle)
    for part, what in (("parameter", "parameters"), ("gradient", "gradients of")):
        mine = list(_bad(state, part))
        message = json.dumps([len(mine), sum(1 for _ in _names(state, part)), mine[:_MOST_SENT]])
        told = [json.loads(answer) for answer in transport.exchange(message.encode())]
        found = {name: [r for r, (_, _, n) in enumerate(told) if name in n] for _, _, n in told for name in n}
        if found and 2 * sum(bad for bad, _, _ in told) <= sum(all_ for _, all_, _ in told):
            return _text(what, found, lines, sum(bad for bad, _, _ in told))
        if found and part == "gradient":
            return "\n  not finite: most gradients"
    return ""


def _text(what: str, found: Mapping[str, list[int]], lines: Mapping[str, str], count: int) -> str:
    shown = [
        f"{name}{f' ({lines[name]})' if name in lines else ''} on rank {', '.join(map(str, ranks[:4]))}"
        for name, ranks in list(found.items())[:SHOWN]
    ]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f"\n  not finite: {what} {'; '.join(shown)}{more}"


def _names(state: TrainState, part: str) -> Iterator[tuple[str, Tensor]]:
    """The parameters of which this rank has a piece, and that piece."""
    for name, shard in state.parts[part].items():
        for piece in state.pieces(name):
            yield piece.name, shard[piece.offset : piece.offset + piece.count]


def _bad(state: TrainState, part: str) -> Iterator[str]:
    for name, values in _names(state, part):
        if not bool(torch.isfinite(values).all()):
            yield name


def _lines(bundle: Bundle) -> dict[str, str]:
    """Parameter -> the line of the model's text that it is of, where a program says so."""
    found: dict[str, str] = {}
    for instance, kind in bundle.manifest.chain:
        program = bundle.programs.get(f"{kind}.forward")
        places = {
            (i.arguments[0].name, i.arguments[1]): str(i.place)
            for i in (program.instructions if program else ())
            if i.op == "moec.parameter" and isinstance(i.arguments[0], Ref) and i.place
        }
        for buffer in bundle.manifest.buffers[kind]:
            for slot in buffer.slots:
                if place := places.get((buffer.name, slot.offset)):
                    found |= dict.fromkeys(slot.names(parameter_prefix(f"{instance}/")), place)
    return found
