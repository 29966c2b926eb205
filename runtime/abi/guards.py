"""What torch's own kernels leave unchecked: sizes and types that, wrong, make them read or write anywhere.

Programs come from bundles, and bundles from anyone. A check compares attributes of tensors, which costs
nothing beside the kernel; values are looked at on a CPU only, where that waits for nothing. What is refused
is a ValueError: an executor adds the instruction and its line.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .dtypes import wide


def require(holds: bool, rule: str, *operands: Tensor) -> None:
    """Raise ValueError unless `holds`: the rule, and the shapes and dtypes of the operands."""
    if not holds:
        found = ", ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in operands)
        raise ValueError(f"{rule}; found {found}" if operands else rule)


def check_alike(*operands: Tensor) -> None:
    """One dtype, one device."""
    first = operands[0]
    alike = all(t.dtype == first.dtype and t.device == first.device for t in operands)
    require(alike, "operands are of one dtype and on one device", *operands)


def _check_wide(x: Tensor, *others: Tensor) -> None:
    """On the device of x, in its dtype, or in float32 for halves."""
    fits = all(t.dtype == wide(x) and t.device == x.device for t in others)
    require(fits, "what goes with halves is in float32, all else of one dtype, on one device", x, *others)


def check_norm(x: Tensor, *parameters: Tensor | None) -> None:
    """x (..., D) with D > 0, floating; what there is of `parameters` (D,), wide."""
    require(x.dim() > 0 and x.shape[-1] > 0, "a norm is over a dim that is not empty", x)
    require(x.dtype.is_floating_point, "a norm is of floating point", x)
    given = [p for p in parameters if p is not None]
    require(all(p.shape == x.shape[-1:] for p in given), "weight and bias are as wide as rows", x, *given)
    _check_wide(x, *given)


def check_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor
) -> None:
    """`grad` as x (..., D); `mean` and `rstd` (..., 1); the parameters that there are (D,)."""
    check_norm(x, weight, bias)
    require(grad.shape == x.shape, "a gradient has the shape of its value", grad, x)
    fits = mean.shape == rstd.shape == (*x.shape[:-1], 1)
    require(fits, "mean and rstd are one number a row", mean, rstd, x)
    check_alike(x, grad)
    _check_wide(x, mean, rstd)


def check_attention(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, window: int, chunk: int, softcap: float
) -> None:
    """q (B, S, H, d), k (B, S, h, d), v (B, S, h, c), sinks (H,); h divides H, and only B may be 0."""
    shaped = all(t.dim() == 4 and 0 not in t.shape[1:] for t in (q, k, v))
    require(shaped, "attention takes q (B, S, H, d), k (B, S, h, d) and v (B, S, h, c)", q, k, v)
    fits = q.shape[:2] == k.shape[:2] and k.shape[3] == q.shape[3] and q.shape[2] % k.shape[2] == 0
    require(fits and v.shape[:3] == k.shape[:3], "q, k and v share B, S and d, and h divides H", q, k, v)
    require(q.dtype.is_floating_point, "attention is of floating point", q)
    check_alike(q, k, v)
    if sinks is not None:
        require(sinks.shape == q.shape[2:3], "sinks are one score a head", sinks, q)
        _check_wide(q, sinks)
    require(window >= 0, f"a window has 0 or more positions, not {window}")
    require(chunk >= 0, f"a chunk has 0 or more positions, not {chunk}")
    require(softcap >= 0, f"a softcap is 0 or more, not {softcap}")


def check_attention_backward(grad: Tensor, q: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
    """`grad` and `out` (B, S, H, c), `lse` (B, H, S) in float32 or more."""
    shape = (*q.shape[:3], v.shape[3])
    require(
        grad.shape == out.shape == shape, "grad and out are of the queries and as wide as v", grad, out, q, v
    )
    check_alike(grad, q, out)
    batch, length, heads, _ = q.shape
    fits = lse.shape == (batch, heads, length) and lse.dtype == wide(q) and lse.device == q.device
    require(fits, f"logsumexp is {wide(q)} (B, H, S)", lse, q)


def check_counts(counts: Tensor, rows: int, tail: bool = False) -> None:
    """(e,) int64 >= 0 whose sum is `rows`, or with a `tail` at most that: the values only on a CPU."""
    require(counts.dim() == 1 and counts.dtype == torch.int64, "counts are int64 (experts,)", counts)
    if counts.device.type == "cpu":
        found = counts.tolist()
        fits = all(0 <= count <= rows for count in found) and sum(found) <= rows
        require(
            fits and (tail or sum(found) == rows),
            f"counts are 0 or more and their sum is {'at most ' * tail}the {rows} rows",
        )


def check_expert_mm(x: Tensor, weight: Tensor, counts: Tensor, tail: bool) -> None:
    """(R, in), (e, out, in), (e,)."""
    fits = x.dim() == 2 and weight.dim() == 3 and x.shape[1] == weight.shape[2]
    require(fits and counts.shape == weight.shape[:1], "takes (R, in), (e, out, in), (e,)", x, weight, counts)
    check_alike(x, weight)
    check_counts(counts, x.shape[0], tail)


def check_expert_add(x: Tensor, bias: Tensor, counts: Tensor) -> None:
    """(R, out), (e, out), (e,)."""
    fits = x.dim() == 2 and bias.dim() == 2 and x.shape[1] == bias.shape[1]
    require(fits and counts.shape == bias.shape[:1], "takes (R, out), (e, out), (e,)", x, bias, counts)
    check_alike(x, bias)
    check_counts(counts, x.shape[0], tail=True)


def check_expert_mm_weight_grad(grad: Tensor, x: Tensor, counts: Tensor, tail: bool) -> None:
    """(R, out), (R, in), (e,)."""
    fits = grad.dim() == 2 and x.dim() == 2 and grad.shape[0] == x.shape[0]
    require(fits, "takes (R, out), (R, in), (e,)", grad, x, counts)
    check_alike(grad, x)
    check_counts(counts, x.shape[0], tail)


def check_order(size: int, *orders: Tensor) -> None:
    """(size,) int64 each."""
    fits = all(order.shape == (size,) and order.dtype == torch.int64 for order in orders)
    require(fits, f"an order is int64 ({size},)", *orders)


def check_rows(*rows: Tensor) -> None:
    """(rows, D) each."""
    require(all(x.dim() == 2 for x in rows), "rows are (rows, D)", *rows)


def check_groups(rows: int, counts: Tensor, room: int) -> None:
    """`counts` (e,) int64: sizes of groups, none above `room`, that are all among `rows`."""
    require(counts.dim() == 1 and counts.dtype == torch.int64, "sizes of groups are int64 (e,)", counts)
    require(rows >= 0 and room >= 0, f"rows {rows} and room {room} are counts")
    if counts.device.type == "cpu" and counts.numel():
        fits = int(counts.min()) >= 0 and int(counts.max()) <= room and int(counts.sum()) <= rows
        require(fits, f"groups of at most {room} rows lie among {rows} rows", counts)


def check_adamw(
    parameter: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor
) -> None:
    """Shards (numel,) of one dtype, contiguous; moments may be in bfloat16 beside float32.

    `step` () float on their device.
    """
    shards = (parameter, gradient, exp_avg, exp_avg_sq)
    fits = all(t.shape == parameter.shape and t.dim() == 1 and t.is_contiguous() for t in shards)
    require(fits and parameter.dtype.is_floating_point, "shards are floating (numel,), contiguous", *shards)
    if exp_avg.dtype == torch.bfloat16 and parameter.dtype == torch.float32:
        check_alike(parameter, gradient)
        check_alike(exp_avg, exp_avg_sq)
        require(exp_avg.device == parameter.device, "shards are on one device", *shards)
    else:
        check_alike(*shards)
    fits = step.dim() == 0 and step.dtype.is_floating_point and step.device == parameter.device
    require(fits, "the count of updates is one floating number on the device of the shards", step)


def log_softmax_backward(grad_output: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    """`aten._log_softmax_backward_data`, which takes the shape of `grad_output` for that of both."""
    require(grad_output.shape == output.shape, "gradient and output have one shape", grad_output, output)
    check_alike(grad_output, output)
    found: Tensor = torch.ops.aten._log_softmax_backward_data.default(grad_output, output, dim, input_dtype)
    return found


def embedding_dense_backward(
    grad_output: Tensor, indices: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Tensor:
    """`aten.embedding_dense_backward`, which counts by index, without a look at it, to scale by frequency."""
    require(not scale_grad_by_freq, "an embedding's gradient is not scaled by frequency")
    found: Tensor = torch.ops.aten.embedding_dense_backward.default(
        grad_output, indices, num_weights, padding_idx, scale_grad_by_freq
    )
    return found


def nll_loss_backward(
    grad_output: Tensor,
    self: Tensor,  # its name in torch
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
) -> Tensor:
    """`aten.nll_loss_backward`, which writes at any target where it does not reduce."""
    require(reduction in (1, 2), "a negative log likelihood is a mean or a sum")
    found: Tensor = torch.ops.aten.nll_loss_backward.default(
        grad_output, self, target, weight, reduction, ignore_index, total_weight
    )
    return found


def gelu_backward(grad_output: Tensor, self: Tensor, *, approximate: str = "none") -> Tensor:
    """`aten.gelu_backward`, which takes shape and dtype of one of both for those of the other."""
    require(grad_output.shape == self.shape, "gradient and input have one shape", grad_output, self)
    check_alike(grad_output, self)
    found: Tensor = torch.ops.aten.gelu_backward.default(grad_output, self, approximate=approximate)
    return found


GUARDED: dict[str, Callable[..., Tensor]] = {
    "_log_softmax_backward_data.default": log_softmax_backward,
    "embedding_dense_backward.default": embedding_dense_backward,
    "gelu_backward.default": gelu_backward,
    "nll_loss_backward.default": nll_loss_backward,
}
"""Operations of torch -> what runs in their place."""
