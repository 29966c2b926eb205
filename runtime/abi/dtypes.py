"""Number formats by the names that manifests have for them, and the format that halves are summed up in."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

DtypeName = Literal["float32", "float64", "bfloat16"]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
}

NAMES: dict[torch.dtype, DtypeName] = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
}


def wide(x: Tensor | torch.dtype) -> torch.dtype:
    """float32 for bfloat16 and float16, whose sums and statistics are made in it; else the dtype itself."""
    return torch.promote_types(x.dtype if isinstance(x, Tensor) else x, torch.float32)
