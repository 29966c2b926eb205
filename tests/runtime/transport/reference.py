"""What the checks of the transport contract use: drawn tensors, sums by plain torch, and wrong calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moec.runtime.transport.api import DTYPES, Group

SUMMABLE = tuple(dtype for dtype in DTYPES if dtype != torch.bool)
SHAPES = ((5,), (4, 3), (2, 3, 4), (0, 3), (3, 0), (1,))
UNIT_ROUNDOFF = {torch.float32: 2**-24, torch.float64: 2**-53, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def draw(rank: int, shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    if dtype == torch.bool:
        return torch.randint(0, 2, tuple(shape), generator=generator, dtype=torch.uint8).bool()
    if dtype.is_floating_point:
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype)
    low = 0 if dtype == torch.uint8 else -(2**30)  # sums of uint8 wrap, those of int32 as well
    return torch.randint(low, 2**8 if dtype == torch.uint8 else 2**30, tuple(shape), generator=generator).to(
        dtype
    )


def strided(x: Tensor) -> Tensor:
    """The same values behind other strides: every second element, dims reversed in memory."""
    if x.dim() == 0:
        return x
    spread = x.new_zeros([2 * size for size in reversed(x.shape)]).permute(*reversed(range(x.dim())))
    spread = spread[tuple(slice(None, None, 2) for _ in x.shape)]
    spread.copy_(x)
    return spread


def same(result: Tensor, expected: Tensor) -> None:
    """Equal, of the same shape and dtype, with the strides of the shape, outside autograd."""
    assert result.shape == expected.shape, (result.shape, expected.shape)
    assert result.dtype == expected.dtype, (result.dtype, expected.dtype)
    assert result.device == expected.device
    assert result.stride() == torch.empty(result.shape).stride()
    assert not result.requires_grad
    assert torch.equal(result, expected), (result, expected)


def sum_in_member_order(parts: Sequence[Tensor]) -> Tensor:
    """The sum as documented: one member after the other, halves in float32 and rounded once."""
    wide = torch.float32 if parts[0].dtype in (torch.bfloat16, torch.float16) else parts[0].dtype
    total = parts[0].to(wide)
    for part in parts[1:]:
        total = total + part.to(wide)
    return total.to(parts[0].dtype)


def near_sum(result: Tensor, parts: Sequence[Tensor]) -> None:
    """Within the error of any order of summation: n roundings in the arithmetic, one to the dtype."""
    dtype = parts[0].dtype
    if not dtype.is_floating_point:
        same(result, sum_in_member_order(parts))
        return
    stacked = torch.stack([part.double() for part in parts])
    arithmetic = UNIT_ROUNDOFF[torch.float64 if dtype == torch.float64 else torch.float32]
    allowed = UNIT_ROUNDOFF[dtype] * 1.01 * stacked.sum(0).abs() + len(
        parts
    ) * arithmetic * stacked.abs().sum(0)
    assert result.shape == parts[0].shape
    assert result.dtype == dtype
    assert result.stride() == torch.empty(result.shape).stride()
    assert ((result.double() - stacked.sum(0)).abs() <= allowed).all(), (result, stacked.sum(0))


def exchange_counts(size: int, seed: int, most: int = 4) -> list[list[int]]:
    """counts[i][j] rows from member i to member j; many are zero, and with luck a whole row or column."""
    generator = random.Random(seed)
    counts = [
        [generator.choice((0, 0, generator.randint(1, most))) for _ in range(size)] for _ in range(size)
    ]
    silent = generator.randrange(size)
    return [[0] * size if i == silent else row for i, row in enumerate(counts)] if seed % 2 else counts


def raises_value_error(call: Callable[[], object]) -> None:
    try:
        call()
    except ValueError:
        return
    raise AssertionError("accepted")


def wrong_calls(group: Group, x: Tensor) -> list[Callable[[], object]]:
    """`x` is (2n, 2)."""
    n = group.size
    calls: list[Callable[[], object]] = [
        lambda: group.all_gather(x[0, 0]),
        lambda: group.all_gather(x.to(torch.complex64)),
        lambda: group.all_gather(x.to("meta")),
        lambda: group.all_reduce(x > 0),
        lambda: group.reduce_scatter(x > 0),
        lambda: group.all_to_all(x, [1] * n, [1] * n),
        lambda: group.all_to_all(x, [2] * (n + 1), [2] * n),
        lambda: group.all_to_all(x, [2] * n, [2] * (n - 1)),
        lambda: group.all_to_all(x, [2 * n + 1, -1][:n], [2 * n + 1, -1][:n]),
        lambda: group.all_to_all(x, [2] * n, [2 + (member == group.index) for member in range(n)]),
        lambda: group.broadcast(x, n),
        lambda: group.broadcast(x, -1),
    ]
    if n > 1:
        calls.append(lambda: group.reduce_scatter(x[1:]))
    return calls
