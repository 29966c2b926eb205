"""Bundles that were changed and vouch for themselves, as an attacker would make them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moec.runtime.abi.bundle import with_digest
from moec.runtime.abi.codec import dump


def seal(path: Path, **files: bytes) -> None:
    """Write files into a bundle and make its manifest vouch for them; `_` stands for the dot of a name."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name, raw in files.items():
        file = name.replace("_", ".")
        (path / file).write_bytes(raw)
        manifest["files"][file] = hashlib.sha256(raw).hexdigest()
    (path / "manifest.json").write_bytes(dump(with_digest(manifest)))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change the data of the manifest, and let it vouch for itself."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_bytes(dump(with_digest(manifest)))
