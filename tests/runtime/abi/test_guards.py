"""Operands that a kernel would read or write past are refused by name, and not one byte of memory changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moec.runtime.abi.instructions import INSTRUCTIONS

INT = torch.int64


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


def adamw(**changed: Tensor) -> tuple[Any, ...]:
    """Arguments of a good update of four elements, some of them changed."""
    names = ("parameter", "gradient", "exp_avg", "exp_avg_sq")
    good = {name: ones(4) for name in names} | {"step": torch.tensor(1.0)}
    return (*(good | changed).values(), None, 1e-3, 0.9, 0.95, 1e-8, 0.0)


Q, K = ones(2, 3, 4, 8), ones(2, 3, 2, 8)


def attention(
    q: Tensor = Q,
    k: Tensor = K,
    v: Tensor = K,
    sinks: Tensor | None = None,
    window: int = 0,
    chunk: int = 0,
    softcap: float = 0.0,
) -> tuple[Any, ...]:
    return q, k, v, sinks, 1.0, window, chunk, softcap


def attention_backward(
    grad: Tensor = Q,
    q: Tensor = Q,
    k: Tensor = K,
    out: Tensor = Q,
    lse: Tensor | None = None,
    sinks: Tensor | None = None,
) -> tuple[Any, ...]:
    return grad, q, k, k, sinks, out, ones(2, 4, 3) if lse is None else lse, 1.0, 0, 0, 0.0


def norm_backward(**changed: Tensor | None) -> tuple[Any, ...]:
    """Arguments of a good gradient of a layer norm of three rows, some of them changed."""
    good: dict[str, Tensor | None] = {
        "grad": ones(3, 4),
        "x": ones(3, 4),
        "weight": ones(4),
        "bias": None,
        "mean": ones(3, 1),
        "rstd": ones(3, 1),
    }
    return tuple((good | changed).values())


def order(*rows: int) -> Tensor:
    return torch.tensor(rows, dtype=INT)


SHARDS = "shards are floating"
REFUSED: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "moments that are short": ("adamw_", adamw(exp_avg=ones(1), exp_avg_sq=ones(1)), SHARDS),
    "a long parameter": ("adamw_", adamw(parameter=ones(4_000_000)), SHARDS),
    "a short gradient": ("adamw_", adamw(gradient=ones(1)), SHARDS),
    "a moment of another dtype": ("adamw_", adamw(exp_avg=ones(4, dtype=torch.float16)), "of one dtype"),
    "a parameter that repeats itself": ("adamw_", adamw(parameter=ones(1).expand(4)), SHARDS),
    "whole numbers": (
        "adamw_",
        adamw(**dict.fromkeys(("parameter", "gradient"), ones(4, dtype=INT))),
        SHARDS,
    ),
    "many counts of updates": ("adamw_", adamw(step=ones(2)), "the count of updates is one"),
    "a count elsewhere": (
        "adamw_",
        adamw(step=torch.empty((), device="meta")),
        "on the device of the shards",
    ),
    "a parameter past the end": ("parameter", (ones(8), 4, [5]), r"no parameter \(5,\) lies at 4"),
    "a parameter before the start": ("parameter", (ones(8), -1, [2]), r"no parameter \(2,\) lies at -1"),
    "a parameter of negative size": ("parameter", (ones(8), 0, [-2, -2]), "no parameter"),
    "gradients past the end": ("pack", ([ones(4), ones(5)], 8), "8 elements do not hold the gradients"),
    "no gradients": ("pack", ([], 8), "8 elements do not hold the gradients"),
    "short keys": ("attention", attention(k=ones(2, 1, 2, 8), v=ones(2, 1, 2, 8)), "share B, S and d"),
    "short values": ("attention", attention(v=ones(2, 1, 2, 8)), "share B, S and d"),
    "values of other heads": ("attention", attention(v=ones(2, 3, 4, 8)), "share B, S and d"),
    "values of no width": ("attention", attention(v=ones(2, 3, 2, 0)), "attention takes q"),
    "sinks that are few": ("attention", attention(sinks=ones(2)), "sinks are one score a head"),
    "sinks in float64": ("attention", attention(sinks=ones(4).double()), "of one dtype"),
    "narrow keys": ("attention", attention(k=ones(2, 3, 2, 4), v=ones(2, 3, 2, 4)), "share B, S and d"),
    "heads that do not divide": (
        "attention",
        attention(k=ones(2, 3, 3, 8), v=ones(2, 3, 3, 8)),
        "h divides H",
    ),
    "no heads": ("attention", attention(k=ones(2, 3, 0, 8), v=ones(2, 3, 0, 8)), "attention takes q"),
    "no positions": ("attention", attention(*[ones(2, 0, 4, 8)] * 3), "attention takes q"),
    "a dim too few": ("attention", attention(*[ones(2, 3, 4)] * 3), "attention takes q"),
    "keys in float64": ("attention", attention(k=K.double(), v=K.double()), "of one dtype"),
    "whole scores": ("attention", attention(Q.int(), K.int(), K.int()), "floating point"),
    "a window before the query": ("attention", attention(window=-1), "0 or more positions, not -1"),
    "a chunk before the query": ("attention", attention(chunk=-1), "0 or more positions, not -1"),
    "a softcap below nothing": ("attention", attention(softcap=-1.0), "a softcap is 0 or more"),
    "a short gradient of attention": (
        "attention_backward",
        attention_backward(grad=ones(2, 1, 4, 8)),
        "grad and out are of the queries",
    ),
    "a short result of attention": (
        "attention_backward",
        attention_backward(out=ones(1, 1, 1, 1)),
        "grad and out are of the queries",
    ),
    "sinks that are few, backward": (
        "attention_backward",
        attention_backward(sinks=ones(2)),
        "sinks are one score",
    ),
    "a short logsumexp": (
        "attention_backward",
        attention_backward(lse=ones(1, 1, 1)),
        r"logsumexp is .* \(B, H, S\)",
    ),
    "a logsumexp in float64": (
        "attention_backward",
        attention_backward(lse=ones(2, 4, 3).double()),
        "logsumexp is torch.float32",
    ),
    "short keys, backward": (
        "attention_backward",
        attention_backward(k=ones(2, 1, 2, 8)),
        "share B, S and d",
    ),
    "narrow experts": ("expert_mm", (ones(4, 8), ones(2, 8, 4), order(2, 2)), "takes .R, in., .e, out, in."),
    "an expert without a count": (
        "expert_mm",
        (ones(4, 8), ones(2, 8, 8), order(4)),
        "takes .R, in., .e, out",
    ),
    "counts past the rows": ("expert_mm", (ones(4, 8), ones(2, 8, 8), order(2, 10**8)), "sum is the 4 rows"),
    "counts short of the rows": ("expert_mm", (ones(4, 8), ones(2, 8, 8), order(2, 1)), "sum is the 4 rows"),
    "negative counts": ("expert_mm", (ones(4, 8), ones(2, 8, 8), order(-4, 8)), "counts are 0 or more"),
    "half counts": ("expert_mm", (ones(4, 8), ones(2, 8, 8), ones(2)), "counts are int64"),
    "weights in float64": ("expert_mm", (ones(4, 8), ones(2, 8, 8).double(), order(2, 2)), "of one dtype"),
    "short gradients of experts": (
        "expert_mm_weight_grad",
        (ones(3, 8), ones(4, 8), order(2, 2)),
        "takes .R, out., .R, in.",
    ),
    "counts past the rows of gradients": (
        "expert_mm_weight_grad",
        (ones(4, 8), ones(4, 8), order(10**8, 2)),
        "sum is the 4 rows",
    ),
    "counts past the rows, with a tail": (
        "expert_mm",
        (ones(4, 8), ones(2, 8, 8), order(2, 3), True),
        "sum is at most the 4 rows",
    ),
    "counts past the rows of gradients, with a tail": (
        "expert_mm_weight_grad",
        (ones(4, 8), ones(4, 8), order(5, 0), True),
        "sum is at most the 4 rows",
    ),
    "negative counts, with a tail": (
        "expert_mm",
        (ones(4, 8), ones(2, 8, 8), order(-2, 4), True),
        "counts are 0 or more",
    ),
    "biases of another width": (
        "expert_add",
        (ones(4, 8), ones(2, 4), order(2, 2)),
        "takes .R, out., .e, out",
    ),
    "biases of fewer experts": (
        "expert_add",
        (ones(4, 8), ones(1, 8), order(2, 2)),
        "takes .R, out., .e, out",
    ),
    "biases in float64": ("expert_add", (ones(4, 8), ones(2, 8).double(), order(2, 2)), "of one dtype"),
    "more rows with a bias than there are": (
        "expert_add",
        (ones(4, 8), ones(2, 8), order(2, 10**8)),
        "sum is at most the 4 rows",
    ),
    "more rows to add than there are": ("expert_sum", (ones(4, 8), order(2, 10**8)), "at most the 4 rows"),
    "sums of rows without width": ("expert_sum", (ones(4), order(2, 2)), "rows are"),
    "a permutation in two dims": (
        "inverse_permutation",
        (ones(2, 2, dtype=INT),),
        r"an order is int64 \(4,\)",
    ),
    "scores of one token alone": ("entropy", (ones(4),), "rows are"),
    "an index past the bins": ("histogram", (order(0, 7), 4), "an index is not below 4"),
    "a permutation that is short": (
        "permute_rows",
        (ones(3, 2), order(0), order(0, 1, 2)),
        "an order is int64",
    ),
    "choices that are short": (
        "dispatch",
        (ones(3, 2), order(0, 1), order(0, 1), 2),
        r"an order is int64 \(6,\)",
    ),
    "rows that are no choices": ("undispatch", (ones(3, 2), order(0, 1, 2), 2), "every token has 2 rows"),
    "weights without rows": (
        "combine",
        (ones(4, 2), ones(3, 2), order(0), order(0)),
        r"an order is int64 \(6,\)",
    ),
    "gradients without weights": (
        "combine_grad_rows",
        (ones(2, 2), ones(3, 2), order(*range(6))),
        "one gradient a token",
    ),
    "tokens without rows": (
        "combine_grad_weights",
        (ones(4, 2), ones(4, 2), order(0, 1), 2),
        "an order is int64",
    ),
    "rows of no width": ("permute_rows", (ones(3), order(0, 1, 2), order(0, 1, 2)), "rows are"),
    "pairs past the end of a head": (
        "rope",
        (ones(1, 2, 1, 4), 1, [1.0] * 2, 1.0, False, False),
        "dims 1 to 5",
    ),
    "pairs before a head": ("rope", (ones(1, 2, 1, 4), -2, [1.0], 1.0, True, False), "rotates dims -2 to 0"),
    "no pairs": ("rope", (ones(1, 2, 1, 4), 0, [], 1.0, True, False), "rotates dims 0 to 0"),
    "heads without sequences": ("rope", (ones(2, 1, 4), 0, [1.0], 1.0, True, False), "rotates dims"),
    "documents of other sequences": (
        "document_attention",
        (*[ones(1, 3, 2, 4)] * 3, None, ones(2, 3, dtype=INT), 1.0, 0, 0, 0.0),
        "documents are int64",
    ),
    "documents that are no whole numbers": (
        "document_attention",
        (*[ones(1, 3, 2, 4)] * 3, None, ones(1, 3), 1.0, 0, 0, 0.0),
        "documents are int64",
    ),
    "a position past the sequence": (
        "rope_at",
        (ones(1, 3, 1, 4), ones(1, 3, dtype=INT) + 3, 0, [1.0], 1.0, False, False),
        "positions are 0 to 2",
    ),
    "a position before the sequence": (
        "position_scale_at",
        (ones(1, 3, 1, 4), ones(1, 3, dtype=INT) - 2, 1.0, 2, 0),
        "positions are 0 to 2",
    ),
    "rows without positions": ("position_scale", (ones(2, 4), 1.0, 2, 0), "positions are those of"),
    "a period of no positions": ("position_scale", (ones(1, 2, 1, 4), 1.0, 0, 0), "by 0 of them"),
    "a wide weight of a norm": ("layer_norm", (ones(3, 4), ones(5), None, 0.1), "as wide as rows"),
    "a short bias of a norm": ("layer_norm", (ones(3, 4), None, ones(3), 0.1), "as wide as rows"),
    "a weight in float64": ("layer_norm", (ones(3, 4), ones(4).double(), None, 0.1), "of one dtype"),
    "a norm over nothing": ("layer_norm", (ones(3, 0), None, None, 0.1), "a dim that is not empty"),
    "a norm of whole numbers": ("layer_norm", (ones(3, 4, dtype=INT), None, None, 0.1), "of floating point"),
    "a short gradient of a norm": (
        "layer_norm_backward",
        norm_backward(grad=ones(2, 4)),
        "shape of its value",
    ),
    "few means": ("layer_norm_backward", norm_backward(mean=ones(1, 1)), "one number a row"),
    "few deviations": ("layer_norm_backward", norm_backward(rstd=ones(2, 1)), "one number a row"),
    "means in float64": ("layer_norm_backward", norm_backward(mean=ones(3, 1).double()), "of one dtype"),
    "a short weight, backward": ("layer_norm_backward", norm_backward(weight=ones(2)), "as wide as rows"),
    "a short bias, backward": ("layer_norm_backward", norm_backward(bias=ones(2)), "as wide as rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_operands_that_do_not_fit_are_refused(case: str) -> None:
    name, arguments, message = REFUSED[case]
    before = [a.clone() if isinstance(a, Tensor) and a.device.type == "cpu" else None for a in arguments]
    with pytest.raises(ValueError, match=message):
        INSTRUCTIONS[f"moec.{name}"](*arguments)
    assert all(b is None or torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("_log_softmax_backward_data.default", (ones(4000, 800), ones(4, 8), 1, torch.float32), "one shape"),
        (
            "_log_softmax_backward_data.default",
            (ones(4, 8), ones(4, 8).double(), 1, torch.float64),
            "one dtype",
        ),
        (
            "nll_loss_backward.default",
            (ones(1), ones(1, 4), order(9), None, 0, -100, ones()),
            "a mean or a sum",
        ),
        ("gelu_backward.default", (ones(8), ones(8, dtype=torch.bfloat16)), "one dtype"),
        ("gelu_backward.default", (ones(4).bfloat16(), ones(4, 8, 50).bfloat16()), "one shape"),
        ("embedding_dense_backward.default", (ones(4, 8), order(*[10**9] * 4), 10, -1, True), "by frequency"),
    ],
)
def test_what_torch_leaves_unchecked_is_checked(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        INSTRUCTIONS[f"aten.{name}"](*arguments)


OUTSIDE: dict[str, Callable[[], Any]] = {
    "embedding": lambda: INSTRUCTIONS["aten.embedding.default"](ones(4, 2), order(9)),
    "index_select": lambda: INSTRUCTIONS["aten.index_select.default"](ones(4, 2), 0, order(-9)),
    "scatter": lambda: INSTRUCTIONS["aten.scatter.src"](ones(4), 0, order(9), ones(1)),
    "nll": lambda: INSTRUCTIONS["aten.nll_loss_forward.default"](ones(1, 4), order(9), None, 1, -100),
    "nll backward": lambda: INSTRUCTIONS["aten.nll_loss_backward.default"](
        ones(), ones(1, 4), order(9), None, 1, -100, ones()
    ),
    "gather": lambda: INSTRUCTIONS["aten.gather.default"](ones(4, 2), 1, order(9).unsqueeze(0)),
    "gather of a repeated index": lambda: INSTRUCTIONS["aten.gather.default"](
        ones(4, 2), 0, order(9).unsqueeze(1).expand(1, 2)
    ),
    "scatter_add": lambda: INSTRUCTIONS["aten.scatter_add.default"](
        ones(4, 2), 1, order(9).unsqueeze(0), ones(1, 1)
    ),
    "scatter_add of a repeated index": lambda: INSTRUCTIONS["aten.scatter_add.default"](
        ones(4, 2), 0, order(-9).unsqueeze(1).expand(1, 2), ones(1, 2)
    ),
    "repeat": lambda: INSTRUCTIONS["aten.repeat_interleave.Tensor"](order(1000), output_size=3),
    "inverse": lambda: INSTRUCTIONS["moec.inverse_permutation"](order(0, 9)),
    "permute": lambda: INSTRUCTIONS["moec.permute_rows"](ones(2, 2), order(0, 9), order(0, 1)),
    "histogram": lambda: INSTRUCTIONS["moec.histogram"](order(-9), 4),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_torch_checks_every_index_that_the_machine_leaves_to_it(case: str) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        OUTSIDE[case]()


def test_operands_that_fit_are_taken() -> None:
    """Also where the last dim of attention is no run of memory, which flash kernels take for granted."""
    INSTRUCTIONS["moec.adamw_"](*adamw())
    out, lse = INSTRUCTIONS["moec.attention"](*attention())
    grads = INSTRUCTIONS["moec.attention_backward"](*attention_backward(out=out, lse=lse))
    one = torch.ones(()).expand(2, 3, 4, 8)
    spread = INSTRUCTIONS["moec.attention_backward"](*attention_backward(grad=one, q=one, out=out, lse=lse))
    assert all(torch.equal(a, b) for a, b in zip(grads, spread, strict=True))
    empty = INSTRUCTIONS["moec.attention"](*(t[:0] if isinstance(t, Tensor) else t for t in attention()))
    assert empty[0].shape == (0, 3, 4, 8)


def test_statistics_of_a_norm_may_lie_in_any_order() -> None:
    """torch's gradient of a layer norm reads them as a run of memory."""
    x = torch.arange(24.0).view(3, 2, 4).square()
    _, *statistics = INSTRUCTIONS["moec.layer_norm"](x, None, None, 0.1)
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in statistics]
    rows = torch.arange(24.0).view(3, 2, 4)
    expected, found = (
        INSTRUCTIONS["moec.layer_norm_backward"](rows, x, None, None, *both)[0]
        for both in (statistics, turned)
    )
    assert torch.equal(found, expected)
