"""Rows of a rank's own experts out of the tokens of all: against dense arithmetic, and its gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moec.runtime.abi import counter_ops, subset_ops
from moec.runtime.abi.counter_kernels import noise_key

sizes = st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(1, 5), st.integers(0, 5))
"""Tokens, choices, experts here, experts elsewhere."""


def chosen(tokens: int, k: int, groups: int, elsewhere: int, seed: int = 0) -> Tensor:
    """(M * K,) group of each pair, or `groups`."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(0, groups + elsewhere, (tokens * k,), generator=generator)
    return found.clamp(max=groups)


def subset(group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    order, places = subset_ops.subset_order(group, groups, int((group < groups).sum()))
    return order, places


@given(sizes)
def test_order_and_places(size: tuple[int, int, int, int]) -> None:
    """Pairs by group, in their order within one; a pair without a group has the place behind the last row."""
    group = chosen(*size)
    order, places = subset(group, size[2])
    expected = [i for g in range(size[2]) for i, own in enumerate(group.tolist()) if own == g]
    assert order.tolist() == expected
    assert [places[i].item() for i in expected] == list(range(len(expected)))
    assert all(places[i] == len(expected) for i, own in enumerate(group.tolist()) if own == size[2])


@settings(deadline=None)
@given(sizes)
def test_there_and_back(size: tuple[int, int, int, int]) -> None:
    """Rows are those of their tokens; a combination is a product with the matrix of weights of own pairs."""
    tokens, k, groups, _ = size
    group = chosen(*size)
    order, places = subset(group, groups)
    x, weights = torch.randn(tokens, 3, dtype=torch.float64), torch.rand(tokens, k, dtype=torch.float64)
    rows = subset_ops.select_rows(x, order, places, k)
    assert torch.equal(rows, x[order // k])
    own = (group < groups).view(tokens, k).double()
    torch.testing.assert_close(
        subset_ops.combine_selected(rows, weights, order, places), x * (own * weights).sum(1, keepdim=True)
    )
    torch.testing.assert_close(
        subset_ops.sum_selected(rows, places, k), x * own.sum(1, keepdim=True), atol=1e-14, rtol=1e-14
    )


@pytest.mark.parametrize("size", [(5, 3, 2, 3), (4, 1, 3, 0), (3, 2, 2, 9), (0, 2, 2, 1)], ids=str)
def test_gradients(size: tuple[int, int, int, int]) -> None:
    tokens, k, groups, _ = size
    order, places = subset(chosen(*size), groups)
    x = torch.randn(tokens, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(tokens, k, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(len(order), 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: subset_ops.select_rows(x, order, places, k), (x,))
    torch.autograd.gradcheck(
        lambda rows, weights: subset_ops.combine_selected(rows, weights, order, places), (rows, weights)
    )


def order(length: int) -> Tensor:
    return torch.zeros(length, dtype=torch.int64)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("subset_order", (order(3), 1, 4)),
        ("subset_order", (torch.zeros(3), 1, 3)),
        ("select_rows", (torch.zeros(2, 3), order(1), order(3), 2)),
        ("sum_selected", (torch.zeros(2, 3), order(3), 2)),
        ("combine_selected", (torch.zeros(2, 3), torch.zeros(2, 2).double(), order(4), order(4))),
        ("combine_selected_grad_rows", (torch.zeros(2, 3), torch.zeros(1, 2), order(2))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_operands_are_refused(op: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"found|of so many"):
        getattr(subset_ops, op)(*arguments)


def test_a_random_order_is_of_its_key_and_place_alone() -> None:
    """A permutation; the same whenever it is asked for, and another in another layer or step."""
    keys = [torch.tensor(noise_key(3, f"layers.{i}.shuffle")) for i in range(2)]
    orders = [
        counter_ops.random_order(key, torch.tensor(first), 64) for key in keys for first in (0, 5, 2**40)
    ]
    assert all(sorted(order.tolist()) == list(range(64)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 6
    assert torch.equal(counter_ops.random_order(keys[0], torch.tensor(5), 64), orders[1])
    assert counter_ops.random_order(keys[0], torch.tensor(0), 0).shape == (0,)


def test_random_orders_are_uniform() -> None:
    """Of 4000 orders of four tokens, each of the 24 is there about as often: chi-square, 23 degrees."""
    key = torch.tensor(noise_key(0, "x"))
    counts: dict[tuple[int, ...], int] = {}
    for first in range(4000):
        order = tuple(counter_ops.random_order(key, torch.tensor(first), 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    expected = 4000 / 24
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 60  # p < 1e-4 beyond 58
