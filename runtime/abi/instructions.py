"""The instruction set: the names a program may use, and what each means. Nothing else is ever executed.

aten.<op>.<overload>   a torch operation, from the list below
moec.<op>              an operation of ours, of this folder
int.<op>               arithmetic on numbers, such as row counts
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch

from . import (  # noqa: F401  (what they register)
    attention_ops,
    collective_ops,
    counter_ops,
    document_ops,
    expert_ops,
    loss_ops,
    routing_ops,
    row_ops,
    subset_ops,
)
from .guards import GUARDED
from .machine_ops import MACHINE_OPS
from .registry import KERNELS

ATEN = (
    "_local_scalar_dense.default", "_log_softmax.default", "_log_softmax_backward_data.default",
    "_softmax.default", "_softmax_backward_data.default", "_to_copy.default", "abs.default", "add.Tensor",
    "addmm.default", "amax.default", "any.dim", "arange.default", "cat.default", "clamp.default",
    "cumsum.default", "div.Tensor", "embedding.default", "embedding_dense_backward.default", "eq.Tensor",
    "exp.default", "expand.default", "floor_divide.default", "full.default", "gather.default", "ge.Scalar",
    "gelu.default", "gelu_backward.default", "gt.Scalar", "index_select.default", "le.Scalar",
    "logical_and.default", "logsumexp.default", "lt.Scalar", "lt.Tensor", "max.dim", "maximum.default",
    "mm.default", "mul.Scalar", "mul.Tensor", "neg.default", "new_zeros.default", "nll_loss_backward.default",
    "nll_loss_forward.default", "pow.Tensor_Scalar", "relu.default", "remainder.Scalar", "repeat.default",
    "repeat_interleave.Tensor", "scalar_tensor.default", "scatter.src", "scatter_add.default", "sgn.default",
    "sigmoid.default", "sigmoid_backward.default", "silu.default", "silu_backward.default", "slice.Tensor",
    "softplus.default", "softplus_backward.default", "sort.stable", "split_with_sizes.default",
    "sqrt.default", "stack.default", "sub.Tensor", "sum.default", "sum.dim_IntList", "t.default",
    "tanh.default", "tanh_backward.default", "threshold_backward.default", "topk.default", "transpose.int",
    "unsqueeze.default", "view.default", "where.self", "zeros.default",
)  # fmt: skip

_INT: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
}


_MOST = 1 << 62


class UnknownInstructionError(Exception):
    """A name that is not in the instruction set."""


def _aten(name: str) -> Callable[..., Any]:
    packet, overload = name.split(".")
    found: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
    return found


def _of_sizes(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Of whole numbers that may be sizes: of others Python makes texts, lists and numbers without a bound."""

    def on_sizes(a: Any, b: Any, /) -> Any:
        result = function(a, b) if type(a) is type(b) is int else None
        if result is None or abs(result) > _MOST:
            raise ValueError("takes and gives whole numbers up to 2^62")
        return result

    return on_sizes


INSTRUCTIONS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}": GUARDED.get(name, _aten(name)) for name in ATEN},
    **{f"moec.{name}": kernel for name, kernel in KERNELS.items()},
    **{f"moec.{name}": function for name, function in MACHINE_OPS.items()},
    **{f"int.{name}": _of_sizes(function) for name, function in _INT.items()},
}

_NAMES: dict[Any, str] = {
    **{_aten(name): f"aten.{name}" for name in ATEN},
    **{getattr(torch.ops.moec, name).default: f"moec.{name}" for name in KERNELS},
    **{function: f"moec.{name}" for name, function in MACHINE_OPS.items()},
    **{function: f"int.{name}" for name, function in _INT.items()},
    operator.getitem: "moec.getitem",
}


def name_of(target: Any) -> str:
    """The instruction for a call target of a graph. Raises UnknownInstructionError."""
    try:
        return _NAMES[target]
    except KeyError:
        raise UnknownInstructionError(str(target)) from None


_OF_THE_MACHINE = ("device", "layout", "memory_format", "pin_memory")
"""Keywords of torch that say where and how a tensor lies: a program has no say in that."""


def _aten_signature(name: str) -> inspect.Signature:
    schema = _aten(name)._schema  # type: ignore[attr-defined]
    return inspect.Signature(
        [
            inspect.Parameter(
                a.name,
                inspect.Parameter.KEYWORD_ONLY if a.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=a.default_value if a.has_default_value() else inspect.Parameter.empty,
            )
            for a in schema.arguments
            if a.name not in _OF_THE_MACHINE
        ]
    )


SIGNATURES: dict[str, inspect.Signature] = {
    name: _aten_signature(name[5:]) if name.startswith("aten.") else inspect.signature(function)
    for name, function in INSTRUCTIONS.items()
}
"""What arguments an instruction takes."""


def _dtypes_of(name: str) -> frozenset[str]:
    if not name.startswith("aten."):
        return frozenset()
    schema = _aten(name[5:])._schema  # type: ignore[attr-defined]
    return frozenset(a.name for a in schema.arguments if "ScalarType" in str(a.real_type))


DTYPE_ARGUMENTS: dict[str, frozenset[str]] = {name: _dtypes_of(name) for name in INSTRUCTIONS}
"""Which arguments of an instruction are dtypes. torch takes a number there for one, whatever it is."""

MEMBER = "moec.member"
"""Names an axis, as collectives do, and moves nothing."""

COPY_STARTS = frozenset({"moec.offload_start", "moec.load_start"})
"""Copies to host memory and back, waited for like collectives."""

COLLECTIVE_STARTS = frozenset(
    {"moec.all_to_all_start", "moec.all_reduce_start", "moec.shard_gather_start", "moec.reduce_scatter_start"}
)

FACTORIES = frozenset(
    {"aten.arange.default", "aten.full.default", "aten.scalar_tensor.default", "aten.zeros.default"}
)
"""Instructions that make a tensor of nothing: the executor says on which device."""
