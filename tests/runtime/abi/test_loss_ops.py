"""The loss over chunks is the loss, its gradients are those of plain torch, whatever the chunk."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moec.runtime.abi.loss_ops import token_losses

TOKENS, WIDTH, WORDS = 13, 6, 11
CHUNKS = (1, 4, 13, 100)
FORMS = [(1.0, 0.0, False), (0.5, 0.0, True), (1.0, 3.0, False), (2.0, 3.0, True)]
"""(scale, softcap, bias)"""


def operands(
    dtype: torch.dtype, bias: bool, tokens: int = TOKENS
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    numbers = torch.Generator().manual_seed(3)
    x = torch.randn(tokens, WIDTH, generator=numbers, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(WORDS, WIDTH, generator=numbers, dtype=torch.float64).to(dtype).requires_grad_()
    offset = torch.randn(WORDS, generator=numbers, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, WORDS, (tokens,), generator=numbers)
    targets[::3] = -100
    return x, weight, offset if bias else None, targets


def plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, cap: float
) -> Tensor:
    """Of torch alone: what the reference graph computes."""
    logits = F.linear(x, weight, bias).to(torch.promote_types(x.dtype, torch.float32)) * scale
    logits = (logits / cap).tanh() * cap if cap else logits
    return F.cross_entropy(logits, targets, ignore_index=-100, reduction="none")


def differentiated(losses: Tensor, *leaves: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad(losses.sum() / 7, [leaf for leaf in leaves if leaf is not None]))


@pytest.mark.parametrize(("scale", "cap", "bias"), FORMS)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_losses_and_gradients_are_those_of_all_logits(
    scale: float, cap: float, bias: bool, chunk: int
) -> None:
    """In float64: sums in another order, some 30 terms, so 30 units in the last place."""
    *leaves, targets = operands(torch.float64, bias)
    x, weight, offset = leaves
    expected = plain(x, weight, offset, targets, scale, cap)
    found = token_losses(x, weight, offset, targets, scale, cap, chunk)
    torch.testing.assert_close(found, expected, rtol=30 * 2.3e-16, atol=1e-15)
    assert found[::3].eq(0).all(), "what is ignored bears no loss"
    for now, before in zip(differentiated(found, *leaves), differentiated(expected, *leaves), strict=True):
        torch.testing.assert_close(now, before, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_chunk_has_the_bits_of_all_logits(dtype: torch.dtype) -> None:
    """The same kernels on the same numbers."""
    *leaves, targets = operands(dtype, True)
    x, weight, offset = leaves
    expected, found = (
        plain(x, weight, offset, targets, 0.5, 3.0),
        token_losses(x, weight, offset, targets, 0.5, 3.0, 99),
    )
    assert torch.equal(found, expected)
    for now, before in zip(differentiated(found, *leaves), differentiated(expected, *leaves), strict=True):
        assert torch.equal(now, before)


def test_halves_are_summed_over_chunks_in_float32() -> None:
    """The matrix's gradient over 4096 chunks of one token: summed in bfloat16, it would not move past 256."""
    tokens = 4096
    x = torch.ones(tokens, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    losses = token_losses(x, weight, None, torch.zeros(tokens, dtype=torch.int64), 1.0, 0.0, 1)
    (grad,) = torch.autograd.grad(losses.sum(), [weight])
    assert grad.flatten().tolist() == [-2048.0, 2048.0], "half a token's probability each"


@pytest.mark.parametrize("tokens", [0, 1])
def test_no_tokens_and_one(tokens: int) -> None:
    *leaves, targets = operands(torch.float64, True, tokens)
    losses = token_losses(*leaves, targets, 1.0, 0.0, 4)
    grads = differentiated(losses, *leaves)
    assert [g.shape for g in grads] == [leaf.shape for leaf in leaves if leaf is not None]
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize(("scale", "cap", "bias"), FORMS)
def test_the_operation_is_what_it_says_it_is(scale: float, cap: float, bias: bool) -> None:
    *leaves, targets = operands(torch.float64, bias)
    arguments = (*leaves, targets, scale, cap, 4)
    torch.library.opcheck(token_losses, arguments)
    assert torch.autograd.gradcheck(lambda *given: token_losses(*given, *arguments[3:]), arguments[:3])


@pytest.mark.parametrize("wrong", [-1, WORDS, -99])
def test_a_target_that_is_no_word_is_refused(wrong: int) -> None:
    *leaves, targets = operands(torch.float64, False)
    targets[1] = wrong
    with pytest.raises(ValueError, match="targets are below 11, or -100"):
        token_losses(*leaves, targets, 1.0, 0.0, 4)
