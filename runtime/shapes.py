"""Instructions over tensors that have a shape and no memory.

What depends on data is not known here, and what an unknown value is needed for is unknown, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .abi.instructions import COLLECTIVE_STARTS, COPY_STARTS, FACTORIES, INSTRUCTIONS, MEMBER
from .abi.machine_ops import MACHINE_OPS
from .abi.program import Instruction
from .abi.registry import KERNELS

_META = torch.device("meta")
_STRUCTURAL = frozenset({"parameter", "pack", "getitem", "select"})
"""Operations of the machine that make large values or take them apart; others give few numbers, or none."""
_COMPARISONS = frozenset(
    f"aten.{name}"
    for name in (
        "eq.Tensor",
        "ge.Scalar",
        "gt.Scalar",
        "le.Scalar",
        "logical_and.default",
        "lt.Scalar",
        "lt.Tensor",
    )
)
_REDUCTIONS = frozenset({"aten.amax.default", "aten.any.dim", "aten.logsumexp.default"})
"""They give less than they take: not worth the second that torch would take to load its compiler for them."""
_ELEMENTWISE = _COMPARISONS | frozenset(
    f"aten.{name}"
    for name in (
        "abs.default", "add.Tensor", "clamp.default", "div.Tensor", "exp.default", "floor_divide.default",
        "gelu.default", "gelu_backward.default", "maximum.default", "mul.Scalar", "mul.Tensor",
        "neg.default", "pow.Tensor_Scalar", "relu.default", "remainder.Scalar", "sgn.default",
        "sigmoid.default", "sigmoid_backward.default", "silu.default", "silu_backward.default",
        "softplus.default", "softplus_backward.default", "sqrt.default", "sub.Tensor", "tanh.default",
        "tanh_backward.default",
        "threshold_backward.default", "where.self",
    )
)  # fmt: skip
_MOST_ROWS = 1 << 40


class _Unknown:
    """A value that depends on data."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = _Unknown()


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of no content."""
    return torch.empty(tuple(shape), dtype=dtype, device=_META)


@dataclass(frozen=True)
class _View:
    """A tensor as a view of one of several sources."""

    source: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class CallResults:
    """The results of a call, to be made again for other arguments: what shares memory shares it again."""

    def __init__(self, arguments: Sequence[Any], results: tuple[Any, ...]) -> None:
        self._sources = {memory_of(tensor): i for i, tensor in reversed(list(enumerate(tensors(arguments))))}
        self._given = len(tensors(arguments))
        self._made: list[tuple[int, torch.dtype]] = []
        self._results = tuple(map(self._described, results))

    def on(self, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """The results for these arguments."""
        made = [empty((elements,), dtype) for elements, dtype in self._made]
        sources = [*tensors(arguments), *made]
        return tuple(_viewed(result, sources) for result in self._results)

    def _described(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._described(part) for part in value]
        if not isinstance(value, Tensor):
            return value
        source = self._sources.setdefault(memory_of(value), self._given + len(self._made))
        if source == self._given + len(self._made):
            self._made.append((value.untyped_storage().nbytes() // value.itemsize, value.dtype))
        return _View(source, value.dtype, tuple(value.shape), value.stride(), int(value.storage_offset()))


def _viewed(value: Any, sources: Sequence[Tensor]) -> Any:
    if isinstance(value, list):
        return [_viewed(part, sources) for part in value]
    if not isinstance(value, _View):
        return value
    source = sources[value.source]
    if source.dtype != value.dtype:
        return UNKNOWN
    return source.as_strided(value.shape, value.stride, value.offset)


def result_of(instruction: Instruction, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """What an instruction comes to; unknown where that depends on data, or where it would fail."""
    op = instruction.op
    if op in COLLECTIVE_STARTS:
        return _arrived(op, arguments)
    if op == "moec.wait" or op in COPY_STARTS:
        return arguments[0] if op == "moec.wait" else _alike(arguments[0])
    if op == MEMBER or any(_is_unknown(value) for value in (*arguments, *keywords.values())):
        return UNKNOWN
    if op in _ELEMENTWISE:
        return _broadcast(op, arguments)
    if op == "aten.cat.default":
        return _joined(*arguments)
    if op in _REDUCTIONS:
        return UNKNOWN
    name = op.removeprefix("moec.")
    if name in MACHINE_OPS and name not in _STRUCTURAL:
        return UNKNOWN
    function = INSTRUCTIONS[op]
    if op in FACTORIES:
        keywords = keywords | {"device": _META}
    elif name in KERNELS:
        function = getattr(torch.ops.moec, name).default
    try:
        return function(*arguments, **keywords)
    except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError):
        return UNKNOWN


def _broadcast(op: str, arguments: list[Any]) -> Any:
    """The result of an operation by element. torch would load its compiler for that, for a second."""
    operands = [value for value in arguments if isinstance(value, Tensor)]
    try:
        shape = torch.broadcast_shapes(*(tensor.shape for tensor in operands))  # type: ignore[no-untyped-call]
    except RuntimeError:
        return UNKNOWN
    if op in _COMPARISONS:
        return empty(shape, torch.bool)
    real = op == "aten.div.Tensor" or any(isinstance(value, float) for value in arguments)
    dtype = _common(operands)
    return empty(shape, torch.promote_types(dtype, torch.float32) if real and _is_whole(dtype) else dtype)


def _is_whole(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and not dtype.is_complex


def _joined(parts: Any, dim: Any = 0) -> Any:
    """What `cat` gives, for which torch would load the same."""
    if not isinstance(parts, list) or not all(isinstance(part, Tensor) for part in parts):
        return UNKNOWN
    shapes = [list(part.shape) for part in parts if part.shape != (0,)] or [[0]]
    whole = shapes[0]
    if (
        not isinstance(dim, int)
        or not -len(whole) <= dim < len(whole)
        or any(len(s) != len(whole) for s in shapes)
    ):
        return UNKNOWN
    return empty((*whole[:dim], sum(shape[dim] for shape in shapes), *whole[dim:][1:]), _common(parts))


def _common(operands: Sequence[Tensor]) -> torch.dtype:
    """The dtype of an operation on several: a value of no dims has a say in its kind alone."""
    shaped = [tensor.dtype for tensor in operands if tensor.dim()] or [tensor.dtype for tensor in operands]
    found = shaped[0]
    for dtype in shaped[1:]:
        found = torch.promote_types(found, dtype)
    return found


def _arrived(op: str, arguments: list[Any]) -> Any:
    """What a collective brings to this rank. Where it may be what was sent, it is taken for that."""
    x = arguments[0]
    if not isinstance(x, Tensor) or op == "moec.all_reduce_start":
        return x if isinstance(x, Tensor) else UNKNOWN
    rows = x.shape[0] if x.dim() else 0
    match op, arguments[1:]:
        case "moec.shard_gather_start", [int(ranks), *_]:
            arrived = rows * ranks
        case "moec.reduce_scatter_start", [int(ranks), *_] if ranks > 0:
            arrived = rows // ranks
        case "moec.all_to_all_start", [_, _, int(arrived), *_]:
            pass
        case _:
            return UNKNOWN
    return x if arrived == rows else x.new_empty((min(max(arrived, 0), _MOST_ROWS), *x.shape[1:]))


def _is_unknown(value: Any) -> bool:
    return value is UNKNOWN or (isinstance(value, list | tuple) and any(map(_is_unknown, value)))


def memory_of(tensor: Tensor) -> int:
    """An identity of the memory behind a tensor, as long as that is held."""
    return int(tensor.untyped_storage()._cdata)


def tensors(value: Any) -> list[Tensor]:
    """Those in a value, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in tensors(part)] if isinstance(value, list | tuple) else []


def _alike(value: Any) -> Any:
    """The same shapes in memory of their own."""
    if isinstance(value, Tensor):
        return empty(value.shape, value.dtype)
    return type(value)(map(_alike, value)) if isinstance(value, list | tuple) else value


def likeness(value: Any) -> Any:
    """What two values have in common whose programs do the same: types and shapes of tensors, numbers."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.stride()
    return tuple(map(likeness, value)) if isinstance(value, list | tuple) else value
