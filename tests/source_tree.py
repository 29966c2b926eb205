"""The source of moec as syntax trees, for tests of its form.

for module in source().values():
    for one in imports(module): ...
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("compiler", "dsl", "models", "runtime")
"""What lies at the root and is imported as moec.<folder>."""
OWN = ("cli", "highlight", "launching", "lsp")
"""What lies below src/moec itself."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A source file as it is imported."""

    name: str
    text: str
    is_package: bool = False

    @property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(parse(self.text)))

    @property
    def functions(self) -> list[Function]:
        return [node for node in self.nodes if isinstance(node, Function)]

    def at(self, line: int, what: str) -> str:
        """A finding."""
        return f"{self.name}:{line}: {what}"


@dataclass(frozen=True)
class Import:
    """`target` is absolute, with the imported name at its end; it goes by the name `alias`, if it has one."""

    target: str
    alias: str | None
    line: int
    in_function: bool
    for_types: bool


@cache
def parse(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def source() -> dict[str, Module]:
    """The modules of moec by name."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    modules = [_read(path, ROOT, "moec") for path in files]
    files = [path for folder in OWN for path in (ROOT / "src/moec" / folder).rglob("*.py")]
    files += (ROOT / "src/moec").glob("*.py")
    modules += [_read(path, ROOT / "src") for path in files]
    return {module.name: module for module in sorted(modules, key=lambda module: module.name)}


def programs() -> list[Module]:
    """Python files that are no part of moec."""
    files = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    return [_read(path, ROOT) for path in sorted(files)]


def _read(path: Path, base: Path, *prefix: str) -> Module:
    parts = (*prefix, *path.relative_to(base).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    return Module(".".join(parts[:-1] if is_package else parts), path.read_text("utf-8"), is_package)


@cache
def imports(module: Module) -> tuple[Import, ...]:
    """All imports, wherever they stand; import_module("...") is one too."""
    return tuple(_imports_in(parse(module.text), module, False, False))


def _imports_in(node: ast.AST, module: Module, in_function: bool, for_types: bool) -> Iterator[Import]:
    for target, alias in _imported(node, module):
        yield Import(target, alias, node.lineno, in_function, for_types)  # type: ignore[attr-defined]
    in_function |= isinstance(node, Function | ast.Lambda)
    for_types |= isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        yield from _imports_in(child, module, in_function, for_types)


def _imported(node: ast.AST, module: Module) -> Iterator[tuple[str, str | None]]:
    """(absolute target, alias) of one statement or call."""
    match node:
        case ast.Import(names):
            yield from ((alias.name, alias.asname) for alias in names)
        case ast.ImportFrom(base, names, level):
            start = _package(module, level) + ([base] if base else [])
            yield from ((".".join([*start, name.name]), name.asname or name.name) for name in names)
        case ast.Call(ast.Name("import_module"), [ast.Constant(str(name)), *_]):
            yield name, None
        case ast.Call(ast.Attribute(attr="import_module"), [ast.Constant(str(name)), *_]):
            yield name, None


def _package(module: Module, level: int) -> list[str]:
    """Where a relative import of so many dots starts."""
    if level == 0:
        return []
    up = level - 1 if module.is_package else level
    parts = module.name.split(".")
    return parts[: len(parts) - up]


def dotted_names(module: Module) -> set[tuple[str, int]]:
    """(name, line) of everything used, `a.b.c` whole, with aliases resolved."""
    full = {i.alias: i.target for i in imports(module) if i.alias}
    found = {(i.target, i.line) for i in imports(module)}
    for node in module.nodes:
        if isinstance(node, ast.Name | ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            found.add((full.get(first, first) + dot + rest, node.lineno))
    return found
