"""Every operation computes its formula, has a fake kernel that tells the truth, and the right gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from moec.runtime.abi import (
    attention_ops,
    collective_ops,
    counter_ops,
    document_ops,
    expert_ops,
    registry,
    routing_ops,
    row_ops,
    subset_ops,
)

from .routes import Route, random, routes

ROUTE = Route(torch.tensor([[3, 0], [0, 3], [2, 3], [3, 2], [0, 2]]), experts=5)  # nobody chose 1 and 4
COUNTS = torch.tensor([2, 0, 3, 0])
ZERO = torch.tensor(0)
DOCUMENTS, PLACES = torch.tensor([[0, 1, 1, 3]]), torch.tensor([[0, 0, 1, 0]])
LEAST = settings(deadline=None, max_examples=60)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal up to the rounding of float64 sums of some dozen terms of size one."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# --- what they compute ---


@LEAST
@given(routes())
def test_grouping_is_a_stable_sort_by_expert(route: Route) -> None:
    flat = route.chosen.reshape(-1)
    order = flat.argsort(stable=True)
    assert order.tolist() == route.order.tolist()
    assert routing_ops.inverse_permutation(order).tolist() == route.inverse.tolist()
    assert routing_ops.histogram(flat, route.experts).tolist() == route.counts.tolist()


@LEAST
@given(routes(), st.integers(1, 4))
def test_dispatch_copies_a_tokens_row_to_each_of_its_experts(route: Route, width: int) -> None:
    x = random(len(route.chosen), width)
    rows = routing_ops.dispatch(x, route.order, route.inverse, route.chosen.shape[1])
    close(rows, route.dispatch(x))
    back = routing_ops.undispatch(rows, route.inverse, route.chosen.shape[1])
    close(back, x * route.chosen.shape[1])


@LEAST
@given(routes(), st.integers(1, 4))
def test_combine_is_the_weighted_sum_of_a_tokens_rows(route: Route, width: int) -> None:
    rows = random(route.chosen.numel(), width)
    weights = random(*route.chosen.shape, seed=1)
    close(routing_ops.combine(rows, weights, route.order, route.inverse), route.combine(rows, weights))


@LEAST
@given(routes(), st.integers(1, 3))
def test_gradients_of_dispatch_and_combine_are_those_of_loops(route: Route, width: int) -> None:
    k = route.chosen.shape[1]
    x, weights = random(len(route.chosen), width, grad=True), random(*route.chosen.shape, seed=1, grad=True)
    grad = random(len(route.chosen), width, seed=2)
    rows = routing_ops.dispatch(x, route.order, route.inverse, k)
    found = torch.autograd.grad(
        routing_ops.combine(rows * rows, weights, route.order, route.inverse), (x, weights), grad
    )
    plain = route.combine(route.dispatch(x).square(), weights)
    if len(route.chosen):
        for one, other in zip(found, torch.autograd.grad(plain, (x, weights), grad), strict=True):
            close(one, other)


@LEAST
@given(st.permutations(range(6)))
def test_permute_rows_is_undone_by_its_inverse(order: list[int]) -> None:
    there = torch.tensor(order)
    x = random(6, 2)
    moved = routing_ops.permute_rows(x, there, routing_ops.inverse_permutation(there))
    assert moved.tolist() == [x[i].tolist() for i in order]
    assert torch.equal(routing_ops.permute_rows(moved, routing_ops.inverse_permutation(there), there), x)


# --- gradients by finite differences ---


def gradients() -> list[Any]:
    order, inverse = ROUTE.order, ROUTE.inverse
    x, rows, weights = (random(*s, grad=True) for s in ((5, 3), (10, 3), (5, 2)))
    sorted_rows, experts = random(5, 3, grad=True), random(4, 2, 3, seed=1, grad=True)
    biases, padded = random(4, 3, seed=2, grad=True), random(12, 3, grad=True)
    heads, few = random(1, 4, 4, 2, grad=True), random(1, 4, 2, 2, seed=1, grad=True)
    wide, sinks, norm = (
        random(1, 4, 2, 3, seed=2, grad=True),
        random(4, grad=True),
        random(3, seed=4, grad=True),
    )
    return [
        pytest.param(lambda t: routing_ops.dispatch(t, order, inverse, 2), (x,), id="dispatch"),
        pytest.param(lambda r, w: routing_ops.combine(r, w, order, inverse), (rows, weights), id="combine"),
        pytest.param(lambda r: routing_ops.permute_rows(r, order, inverse), (rows,), id="permute_rows"),
        pytest.param(lambda r, w: expert_ops.expert_mm(r, w, COUNTS), (sorted_rows, experts), id="expert_mm"),
        pytest.param(
            lambda r, w: expert_ops.expert_mm(r, w, COUNTS, True),
            (rows, experts),
            id="expert_mm-tail",
        ),
        pytest.param(lambda r, b: expert_ops.expert_add(r, b, COUNTS), (rows, biases), id="expert_add"),
        pytest.param(lambda r: routing_ops.pad_groups(r, COUNTS, 3), (rows,), id="pad_groups"),
        pytest.param(lambda r: routing_ops.unpad_groups(r, COUNTS, 3, 7), (padded,), id="unpad_groups"),
        pytest.param(lambda t, w: row_ops.rms_norm(t, w, 1e-2)[0], (x, norm), id="rms_norm"),
        pytest.param(lambda t: row_ops.rms_norm(t, None, 1e-2)[0], (x,), id="rms_norm-no-weight"),
        pytest.param(lambda t, w: row_ops.layer_norm(t, w, w, 1e-2)[0], (x, norm), id="layer_norm"),
        pytest.param(lambda t: row_ops.layer_norm(t, None, None, 1e-2)[0], (x,), id="layer_norm-alone"),
        pytest.param(lambda t: row_ops.rope(t, 1, [0.3], 1.5, True, False), (wide,), id="rope"),
        pytest.param(lambda t: row_ops.position_scale(t, 0.3, 2, 1), (heads,), id="position_scale"),
        pytest.param(
            lambda q, k: attention_ops.attention(q, k, k, None, 0.5, 0, 0, 0.0)[0],
            (heads, few),
            id="attention",
        ),
        pytest.param(
            lambda *t: attention_ops.attention(*t, 0.5, 2, 3, 0.0)[0], (heads, few, wide, sinks), id="sinks"
        ),
        pytest.param(
            lambda *t: attention_ops.attention(*t, 0.5, 3, 2, 0.7)[0], (heads, few, wide, sinks), id="softcap"
        ),
        pytest.param(
            lambda *t: document_ops.document_attention(*t, DOCUMENTS, 0.5, 2, 3, 0.0)[0],
            (heads, few, wide, sinks),
            id="document_attention",
        ),
        pytest.param(
            lambda t: document_ops.rope_at(t, PLACES, 1, [0.3], 1.5, True, False), (wide,), id="rope_at"
        ),
        pytest.param(
            lambda t: document_ops.position_scale_at(t, PLACES, 0.3, 2, 1), (heads,), id="position_scale_at"
        ),
        pytest.param(lambda t: counter_ops.jitter(t, ZERO, ZERO, 5, 0.5), (x,), id="jitter"),
    ]


@pytest.mark.parametrize(("function", "inputs"), gradients())
def test_gradient(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-6)


# --- what torch asks of a custom operation ---


def samples() -> dict[str, list[tuple[Any, ...]]]:
    """Operation -> arguments, those of an operation with a gradient asking for it; empty inputs included."""
    order, inverse, chosen = ROUTE.order, ROUTE.inverse, ROUTE.chosen.reshape(-1)
    none, nothing = torch.tensor([], dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    own, places = subset_ops.subset_order(chosen, 3, int((chosen < 3).sum()))
    nowhere = torch.zeros(10, dtype=torch.int64)  # places of pairs none of which has a row
    q, kv = random(2, 5, 4, 2), random(2, 5, 2, 2)
    out, lse = attention_ops.attention(q, kv, kv, None, 0.5, 3, 0, 0.0)
    sinks, turn = random(4, grad=True), ([0.1, 2.0], 1.5, True)
    attended = random(2, 5, 4, 2, grad=True), random(2, 5, 2, 2, grad=True), random(2, 5, 2, 2, grad=True)
    norm, empty = random(3, grad=True), random(0, 3)
    ids = torch.arange(6).view(2, 3)
    cut = torch.tensor([[0, 0, 2, 2, 4], [0, 0, 0, 0, 0]])
    return {
        "jitter": [(random(5, 3, grad=True), ZERO, ZERO, 5, 0.1), (random(0, 3), ZERO, ZERO, 1, 0.1)],
        "hash_experts": [(ids, 2, 4), (ids[:0], 2, 4)],
        "histogram": [(chosen, 5), (none, 5)],
        "entropy": [(random(5, 3).abs(),), (empty,)],
        "inverse_permutation": [(order,), (none,)],
        "permute_rows": [(random(10, 3, grad=True), order, inverse), (random(0, 3, grad=True), none, none)],
        "dispatch": [(random(5, 3, grad=True), order, inverse, 2), (random(0, 3, grad=True), none, none, 2)],
        "undispatch": [(random(10, 3), inverse, 2), (random(0, 3), none, 2)],
        "pad_groups": [(random(7, 3, grad=True), COUNTS, 3), (random(0, 3, grad=True), none, 3)],
        "unpad_groups": [(random(12, 3, grad=True), COUNTS, 3, 7), (empty, none, 3, 0)],
        "combine": [(random(10, 3, grad=True), random(5, 2, grad=True), order, inverse)],
        "combine_grad_rows": [(random(5, 3), random(5, 2), order), (random(0, 3), random(0, 2), none)],
        "combine_grad_weights": [(random(5, 3), random(10, 3), inverse, 2), (empty, empty, none, 2)],
        "random_order": [(ZERO, ZERO, 5), (ZERO, ZERO, 0)],
        "subset_order": [(chosen, 3, int((chosen < 3).sum())), (none, 3, 0)],
        "select_rows": [
            (random(5, 3, grad=True), own, places, 2), (random(0, 3, grad=True), none, none, 2),
            (random(5, 3, grad=True), none, nowhere, 2),
        ],
        "sum_selected": [(random(len(own), 3), places, 2), (empty, nowhere, 2), (empty, none, 2)],
        "combine_selected": [
            (random(len(own), 3, grad=True), random(5, 2, grad=True), own, places),
            (random(0, 3, grad=True), random(5, 2, grad=True), none, nowhere),
        ],
        "combine_selected_grad_rows": [
            (random(5, 3), random(5, 2), own), (random(5, 3), random(5, 2), none),
        ],
        "combine_selected_grad_weights": [
            (random(5, 3), random(len(own), 3), places, 2), (random(5, 3), empty, nowhere, 2),
        ],
        "expert_mm": [
            (random(5, 3, grad=True), random(4, 2, 3, grad=True), COUNTS),
            (random(0, 3, grad=True), random(4, 2, 3, grad=True), nothing),
            (random(7, 3, grad=True), random(4, 2, 3, grad=True), COUNTS, True),
        ],
        "expert_add": [
            (random(7, 3, grad=True), random(4, 3, grad=True), COUNTS),
            (random(0, 3, grad=True), random(4, 3, grad=True), nothing),
        ],
        "expert_sum": [(random(7, 3), COUNTS), (empty, nothing)],
        "expert_mm_weight_grad": [(random(5, 2), random(5, 3), COUNTS), (random(0, 2), empty, nothing)],
        "rms_norm": [
            (random(5, 3, grad=True), norm, 1e-3), (random(2, 0, 3), norm, 1e-3),
            (random(5, 3, grad=True), None, 1e-3),
        ],
        "rms_norm_backward": [
            (random(5, 3), random(5, 3), weight, random(5, 1)) for weight in (random(3), None)
        ],
        "layer_norm": [
            (random(5, 3, grad=True), norm, norm, 1e-3), (random(2, 0, 3), norm, None, 1e-3),
            (random(2, 5, 3, grad=True), None, None, 1e-3),
        ],
        "layer_norm_backward": [
            (random(5, 3), random(5, 3), weight, None, random(5, 1), random(5, 1))
            for weight in (random(3), None)
        ],
        "rope": [
            (random(2, 5, 3, 6, grad=True), 1, *turn, False), (random(0, 5, 3, 4), 0, *turn, True),
        ],
        "position_scale": [(random(2, 5, 3, 4, grad=True), 0.1, 2, 0)],
        "attention": [
            (*attended, None, 0.5, 0, 0, 0.0), (*attended, sinks, 0.5, 3, 4, 0.0),
            (*attended, sinks, 0.5, 3, 4, 2.0),
            (*attended[:2], random(2, 5, 2, 3, grad=True), None, 0.5, 3, 0, 0.0),
        ],
        "document_attention": [
            (*attended, None, cut, 0.5, 0, 0, 0.0), (*attended, sinks, cut, 0.5, 3, 4, 2.0),
        ],
        "document_attention_backward": [
            (q, q, kv, kv, s, cut, out, lse, 0.5, 3, 0, cap) for s in (None, random(4)) for cap in (0.0, 2.0)
        ],
        "rope_at": [(random(2, 5, 3, 6, grad=True), cut, 1, *turn, False)],
        "position_scale_at": [(random(2, 5, 3, 4, grad=True), cut, 0.1, 2, 0)],
        "attention_backward": [
            (q, q, kv, kv, s, out, lse, 0.5, 3, 0, cap) for s in (None, random(4)) for cap in (0.0, 2.0)
        ],
    }  # fmt: skip


COLLECTIVES: dict[str, tuple[Any, ...]] = {
    "all_to_all": (torch.zeros(3, 2), torch.tensor([1, 2]), torch.tensor([0, 4]), 4, "expert"),
    "all_reduce": (torch.zeros(3, 2), "data"),
    "shard_gather": (torch.zeros(3), 2, "shard"),
    "reduce_scatter": (torch.zeros(6), 2, "shard"),
    "member": (torch.zeros(3), "expert"),
}


@pytest.mark.parametrize("name", samples())
def test_torch_accepts(name: str) -> None:
    """Schema, fake kernel, autograd registration and tracing agree with what the operation does."""
    for arguments in samples()[name]:
        torch.library.opcheck(getattr(torch.ops.moec, name).default, arguments)


def test_every_operation_is_tested() -> None:
    in_test_loss_ops = {"token_losses", "token_losses_backward"}
    assert samples().keys() | COLLECTIVES.keys() | in_test_loss_ops == registry.KERNELS.keys()


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_without_an_executor_says_what_is_missing(name: str) -> None:
    with pytest.raises(collective_ops.NoTransportError, match=f"{name} moves data between ranks"):
        getattr(torch.ops.moec, name)(*COLLECTIVES[name])


def test_collectives_tell_their_shapes() -> None:
    shapes = {}
    with FakeTensorMode() as fake:
        for name, arguments in COLLECTIVES.items():
            given = [fake.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments]
            shapes[name] = tuple(getattr(torch.ops.moec, name)(*given).shape)
    assert shapes == {
        "all_to_all": (4, 2),
        "all_reduce": (3, 2),
        "shard_gather": (6,),
        "reduce_scatter": (3,),
        "member": (),
    }


def test_the_gradient_of_all_to_all_travels_back() -> None:
    """Send and receive change places, and the rows are those that were sent."""
    with FakeTensorMode() as fake:
        x, send, receive, rows, axis = COLLECTIVES["all_to_all"]
        x = fake.from_tensor(x).requires_grad_()
        out = collective_ops.all_to_all(x, fake.from_tensor(send), fake.from_tensor(receive), rows, axis)
        (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
        assert grad.shape == x.shape
