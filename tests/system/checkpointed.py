"""Bundles of other settings, without compiling anew: what no program depends on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from moec.runtime.abi.bundle import with_digest
from moec.runtime.abi.codec import dump


def edited(bundle: Path, out: Path, facts: dict[str, str] | None = None, **training: Any) -> Path:
    """A bundle with other `training` settings and `facts`, as compiling a changed text would make it."""
    shutil.copytree(bundle, out)
    data = json.loads((bundle / "manifest.json").read_bytes())
    data["facts"] |= facts or {}
    data["training"] |= training
    (out / "manifest.json").write_bytes(dump(with_digest(data)))
    return out
