"""The front end needs the standard library and lark, nothing else, and lark in one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from moec import dsl

FOLDER = Path(dsl.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(path.relative_to(FOLDER).parts), "a relative import that leads out"
            found.add("moec.dsl" if node.level else node.module or "")
    return found


def test_checking_a_model_imports_neither_torch_nor_the_other_parts() -> None:
    program = (
        "import sys; from moec import dsl, models;"
        "dsl.load('qwen3_30b_a3b', find_model=models.read);"
        "bad = [n for n in sys.modules if n.split('.')[0] in ('torch', 'numpy', 'mpi4py', 'transformers')"
        " or n.startswith(('moec.compiler', 'moec.runtime'))];"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_the_parser_imports_lark() -> None:
    users = {path.name for path in FILES if any(name.startswith("lark") for name in _imports(path))}
    assert users == {"parse.py"}


def test_the_language_imports_only_itself_and_the_standard_library() -> None:
    for path in FILES:
        for name in _imports(path):
            ours = name == "moec.dsl" or name.startswith("moec.dsl.")
            assert ours or name.split(".")[0] in (*sys.stdlib_module_names, "lark"), (path.name, name)


def test_files_and_functions_are_small() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, (path.name, node.name)
