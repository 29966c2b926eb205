"""moec: a declarative compiler for Mixture-of-Experts language models.

    import moec

    spec = moec.load("mixtral_8x7b", ["parallel.expert=8", "parallel.shard=32"])
    compiled = moec.compile_spec(spec, moec.CompileOptions(ranks=64))
    moec.save(compiled, pathlib.Path("mixtral.bundle"))

Names are imported when they are first used: whoever only loads texts does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moec.compiler.emit.bundle import save
    from moec.compiler.errors import CompileError
    from moec.compiler.pipeline import Compiled, CompileOptions, compile_spec
    from moec.dsl import SourceErrors, Spec
    from moec.runtime.abi.bundle import Bundle, read_bundle
    from moec.specs import load

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "CompileError",
    "CompileOptions",
    "Compiled",
    "SourceErrors",
    "Spec",
    "__version__",
    "compile_spec",
    "load",
    "read_bundle",
    "save",
]

_HOMES = {
    "Bundle": "moec.runtime.abi.bundle",
    "CompileError": "moec.compiler.errors",
    "CompileOptions": "moec.compiler.pipeline",
    "Compiled": "moec.compiler.pipeline",
    "SourceErrors": "moec.dsl",
    "Spec": "moec.dsl",
    "compile_spec": "moec.compiler.pipeline",
    "load": "moec.specs",
    "read_bundle": "moec.runtime.abi.bundle",
    "save": "moec.compiler.emit.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moec' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
