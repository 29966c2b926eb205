"""Attention computes its formula by every path, gradients included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moec.runtime.abi import attention_blocks, attention_kernels, attention_ops

from .routes import random

LEAST = settings(deadline=None, max_examples=60)
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Case:
    """Sizes and options of an attention."""

    length: int = 7
    heads: int = 4
    kv_heads: int = 2
    dim: int = 6
    value_dim: int = 6
    window: int = 0
    chunk: int = 0
    softcap: float = 0.0
    sinks: bool = False

    def operands(self) -> list[Tensor]:
        """q, k, v and the sinks there are."""
        shapes = [
            (2, self.length, self.heads, self.dim),
            (2, self.length, self.kv_heads, self.dim),
            (2, self.length, self.kv_heads, self.value_dim),
            *([(self.heads,)] if self.sinks else []),
        ]
        return [random(*shape, seed=i, grad=True) for i, shape in enumerate(shapes)]

    def run(self, operands: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The operation."""
        q, k, v, *sinks = operands
        options = (0.3, self.window, self.chunk, self.softcap)
        found: tuple[Tensor, Tensor] = attention_ops.attention(q, k, v, sinks[0] if sinks else None, *options)
        return found

    def plain(self, operands: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Whole matrices of scores, under autograd."""
        q, k, v, *sinks = operands
        group = self.heads // self.kv_heads
        scores = torch.einsum("bihd,bjhd->bhij", q, k.repeat_interleave(group, 2)) * 0.3
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        scores = scores.masked_fill(~self.seen(), -torch.inf)
        if sinks:
            scores = torch.cat([scores, sinks[0][:, None, None].expand(2, -1, self.length, 1)], -1)
        weights = scores.softmax(-1)[..., : self.length]
        out = torch.einsum("bhij,bjhd->bihd", weights, v.repeat_interleave(group, 2))
        return out, scores.logsumexp(-1)

    def seen(self) -> Tensor:
        """(S, S) bool: whether query i sees key j, from the words of the language."""

        def sees(i: int, j: int) -> bool:
            near = not self.window or i - j < self.window
            return j <= i and near and (not self.chunk or i // self.chunk == j // self.chunk)

        return torch.tensor([[sees(i, j) for j in range(self.length)] for i in range(self.length)])


def check(case: Case) -> None:
    operands = case.operands()
    out, lse = case.run(operands)
    plain, plain_lse = case.plain(operands)
    close(out, plain)
    close(lse, plain_lse)
    grad = random(*out.shape, seed=7)
    found = torch.autograd.grad(out, operands, grad)
    for one, other in zip(found, torch.autograd.grad(plain, operands, grad), strict=True):
        close(one, other)


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


CASES = {
    "one head": Case(heads=1, kv_heads=1, dim=4, value_dim=4),
    "grouped queries": Case(),
    "one key head": Case(heads=6, kv_heads=1, dim=3, value_dim=3),
    "a window of itself": Case(window=1),
    "a window": Case(window=3),
    "a wide window": Case(window=100),
    "chunks": Case(chunk=3),
    "a chunk": Case(chunk=7),
    "window and chunks": Case(window=2, chunk=4),
    "narrow values": Case(value_dim=3),
    "wide values": Case(dim=2, value_dim=5),
    "sinks": Case(sinks=True),
    "sinks and window": Case(sinks=True, window=3, value_dim=2),
    "softcap": Case(softcap=0.2),
    "all of it": Case(window=5, chunk=4, softcap=0.2, sinks=True, value_dim=2),
    "one token": Case(length=1, sinks=True, softcap=0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_attention_is_softmax_over_the_keys_seen(name: str) -> None:
    check(CASES[name])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.softcap])
def test_kernels_with_masks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where blocks would be taken."""
    monkeypatch.setattr(attention_kernels, "_by_blocks", lambda *_: False)
    check(CASES[name])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("at_once", [1, 60, 200])
def test_blocks_of_queries_of_any_size(name: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query a block, some, and all 7 of a sequence."""
    monkeypatch.setattr(attention_blocks, "_SCORES_AT_ONCE", at_once)
    monkeypatch.setattr(attention_blocks, "_LEAST_ROWS", 1)
    monkeypatch.setattr(attention_kernels, "_by_blocks", lambda *_: True)
    check(CASES[name])


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if not case.sinks and not case.softcap]
)
def test_kernels_that_torch_chooses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on other devices, here on this one; these give no logsumexp."""
    case = CASES[name]
    q, k, v = operands = case.operands()
    scoring = attention_blocks.Scoring(0.3, case.window, case.chunk, 0.0)
    by_head = [t.transpose(1, 2) for t in (q, k, v)]
    out = attention_kernels._any_device(*by_head, scoring).transpose(1, 2)
    plain = case.plain(operands)[0]
    close(out, plain)
    grad = random(*out.shape, seed=7)
    found = torch.autograd.grad(out, operands, grad)
    for one, other in zip(found, torch.autograd.grad(plain, operands, grad), strict=True):
        close(one, other)


def cases() -> st.SearchStrategy[Case]:
    return st.builds(
        lambda length, heads, group, dim, value_dim, window, chunk, softcap, sinks: Case(
            length, heads * group, heads, dim, value_dim, window, chunk, softcap, sinks
        ),
        *(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
        *(st.integers(0, 10), st.integers(0, 10), st.sampled_from([0.0, 0.1, 3.0]), st.booleans()),
    )


@LEAST
@given(cases())
def test_any_attention(case: Case) -> None:
    check(case)


@LEAST
@given(cases(), st.integers(0, 3))
def test_limits_beyond_the_sequence_are_none(case: Case, more: int) -> None:
    beyond = replace(case, window=case.length + more, chunk=case.length + more)
    none = replace(case, window=0, chunk=0)
    assert torch.equal(beyond.run(case.operands())[0], none.run(case.operands())[0])


@LEAST
@given(cases())
def test_a_sink_far_below_all_scores_is_none(case: Case) -> None:
    operands = replace(case, sinks=False).operands()
    low = torch.full((case.heads,), -1e4, dtype=torch.float64)
    close(case.run([*operands, low])[0], case.run(operands)[0])


@LEAST
@given(cases(), st.integers(0, 8))
def test_later_tokens_change_nothing(case: Case, position: int) -> None:
    """Up to one ulp or so: sums may be made in another order."""
    operands = [t.detach() for t in case.operands()]
    before = case.run(operands)[0][:, : position + 1]
    for t in operands[:3]:
        t[:, position + 1 :] += 1.0
    close(case.run(operands)[0][:, : position + 1], before)


def test_attention_of_a_single_token_is_its_value() -> None:
    v = random(3, 1, 2, 4, seed=2)
    out, _ = attention_ops.attention(random(3, 1, 2, 4), random(3, 1, 2, 4, seed=1), v, None, 1.0, 0, 0, 0.0)
    close(out, v)


@pytest.mark.parametrize(
    "limit", [{"window": 1500}, {"chunk": 1500}, {"window": 1500, "sinks": True}], ids=str
)
def test_no_mask_is_made_of_a_long_sequence(limit: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be as large as the sequence squared."""
    case = Case(length=2000, heads=1, kv_heads=1, **limit)
    plain, operands = case.plain(case.operands())[0], case.operands()

    def refuse(*_: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(attention_kernels, "_added", refuse)
    out, _ = case.run(operands)
    close(out, plain)
    torch.autograd.grad(out.sum(), operands)
