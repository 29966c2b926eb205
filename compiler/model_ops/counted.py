"""What routers draw by counter: noise of their input, and experts by hash.

Legend: T tokens, D width, B sequences, S tokens of a sequence, K choices.
"""

from __future__ import annotations

from torch import Tensor

from moec.runtime.abi import counter_ops


def jitter(x: Tensor, key: Tensor, first: Tensor, sequence: int, eps: float) -> Tensor:
    """(T, D) times uniform numbers from [1 - eps, 1 + eps). Fedus et al., 2021, appendix B.

    An element's number is a function of `key` () int64, of the position in the run of its sequence, of which
    x begins with the one at `first` () int64, and of its place in that.
    """
    out: Tensor = counter_ops.jitter(x, key, first, sequence, eps)
    return out


def hash_experts(tokens: Tensor, k: int, experts: int) -> Tensor:
    """(B, S) int64 -> (T, K) int64: k different experts by the token's id. Roller et al., 2021."""
    chosen: Tensor = counter_ops.hash_experts(tokens, k, experts)
    return chosen
