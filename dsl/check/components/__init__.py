"""The components of a model: `norm = rms_norm(eps: 1e-5)` -> `RmsNorm`, and so on."""

from __future__ import annotations

from moec.dsl.check.components.component import component
from moec.dsl.check.components.reading import Context

__all__ = ["Context", "component"]
