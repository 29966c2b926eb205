"""What holds of every module: who imports whom, size, docstring, no stub, nothing that turns data into code.

Read from syntax trees, so that a word in a docstring is no finding. A check takes a module and gives its
findings as `name:line: what is wrong`; every check is also shown to find something in a made-up module.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from source_tree import FOLDERS, OWN, ROOT, Module, dotted_names, imports, parse, programs, source

FILE_LINES = 400
FUNCTION_LINES = 60

# Beside the standard library. The first line whose name is that of a module or of its package counts.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "moec.models": (),
    "moec.dsl": ("moec.dsl", "lark"),
    "moec.runtime.abi": ("moec.runtime.abi", "torch"),
    "moec.runtime": (
        "moec.runtime",
        "torch",
        "mpi4py",
        "numpy",
        "tokenizers",
        "pyarrow",
        "rich",
        "tensorboardX",
    ),
    "moec.compiler": ("moec.compiler", "moec.dsl", "moec.runtime.abi", "moec.__version__", "torch"),
    "moec.highlight": ("moec.highlight", "moec.dsl", "pygments"),
    "moec.lsp": ("moec.lsp", "moec.dsl", "moec.models", "moec.__version__", "pygls", "lsprotocol"),
    "moec": ("moec", "torch", "numpy", "safetensors", "typer", "jinja2"),
}
ONLY_IN = {
    "jinja2": "moec.launching.render",
    "lark": "moec.dsl.parse",
    "lsprotocol": "moec.lsp.server",
    "mpi4py": "moec.runtime.transport.mpi_library",
    "pyarrow": "moec.runtime.data.parquet",
    "pygls": "moec.lsp.server",
    "pygments": "moec.highlight.lexer",
    "rich": "moec.runtime.record.live",
    "tensorboardX": "moec.runtime.trackers.tensorboard",
    "tokenizers": "moec.runtime.data.tokenizer",
}
LAZY = {
    "moec.cli": "a command loads what it needs, so that `check` and `--help` need no torch",
    "moec.runtime.data.parquet": "a node that reads no Parquet needs no pyarrow",
    "moec.runtime.data.tokenizer": "a node that reads bytes, or Megatron's ids, needs no tokenizers",
    "moec.runtime.trackers": "a tracker's library is one that a machine may lack",
    "moec.runtime.viewing.following": "a picture that goes into a pipe needs no rich",
    "moec.runtime.record.progress": "a node that shows no progress in place needs no rich",
    "moec.runtime.transport.factory": "a transport loads libraries that a machine may lack",
}
IMPORTED_EXTRAS = ("lsp", "highlight", "data", "tensorboard")
"""Extras of pyproject.toml that are libraries that moec imports."""

CODE_FROM_DATA = (
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "eval", "exec",
    "torch.load", "torch.serialization", "torch.package", "torch.jit.load", "torch.hub",
)  # fmt: skip
PICKLING_METHOD = re.compile(
    r"\w+_object(_list)?|i?[bs]?send|i?recv|i?bcast|(all)?gather|scatter|alltoall|(all)?reduce"
)
"""Of torch.distributed, and of mpi4py, where those in lower case send Python objects."""
MACHINE_PATH = re.compile(r"(?<![\w.~$}-])/(?:work|home|root|Users)/\w")


def within(target: str, *packages: str) -> bool:
    return any(target == package or target.startswith(f"{package}.") for package in packages)


# --- imports ---


def wrong_imports(module: Module) -> Iterator[str]:
    """A module imports what the table gives to its folder, and some libraries are for one module only."""
    allowed = next(names for package, names in MAY_IMPORT.items() if within(module.name, package))
    for one in imports(module):
        library = one.target.split(".")[0]
        legal = library in sys.stdlib_module_names or within(one.target, *allowed)
        if not legal or ONLY_IN.get(library, module.name) != module.name:
            yield module.at(one.line, f"imports {one.target}")


def bare_imports(module: Module) -> Iterator[str]:
    """`import dsl` works from the checkout and makes twins of every class of moec.dsl."""
    for one in imports(module):
        if within(one.target, *FOLDERS, "src"):
            yield module.at(one.line, f"imports {one.target}")


def late_imports(module: Module) -> Iterator[str]:
    """Imports stand at the top, where a reader sees what a module needs; LAZY has the exceptions and why."""
    for one in imports(module):
        if one.in_function and not within(module.name, *LAZY):
            yield module.at(one.line, f"imports {one.target} in a function")


def pass_imports(module: Module) -> Iterator[str]:
    """A pass knows no other pass: their order stands in the pipeline alone."""
    the_pass = re.compile(r"moec\.compiler\.passes\.(\w+)\.\1")
    for one in imports(module):
        if within(module.name, "moec.compiler.passes") and the_pass.fullmatch(one.target):
            yield module.at(one.line, f"imports the pass {one.target}")


def ring(modules: dict[str, Module]) -> list[str]:
    """The modules of one ring of imports, if there is one. Imports in functions and for types make none."""
    graph: dict[str, set[str]] = {}
    for name, module in modules.items():
        at_start = (i for i in imports(module) if not i.in_function and not i.for_types)
        graph[name] = {loaded_for(i.target, modules) for i in at_start} - {name, ""}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def loaded_for(target: str, modules: dict[str, Module]) -> str:
    """The module that `target` is, or is a name of; "" for other libraries."""
    while target and target not in modules:
        target = target.rpartition(".")[0]
    return target


# --- form ---


def size(module: Module) -> Iterator[str]:
    """Files and functions that fit into a head."""
    lines = module.text.count("\n")
    if lines >= FILE_LINES:
        yield module.at(lines, f"{lines} lines")
    for function in module.functions:
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length >= FUNCTION_LINES:
            yield module.at(function.lineno, f"{function.name} has {length} lines")


def documentation(module: Module) -> Iterator[str]:
    """Every module says what it is."""
    if not ast.get_docstring(parse(module.text)):
        yield module.at(1, "no docstring")


def stubs(module: Module) -> Iterator[str]:
    """Nothing waits to be written: a body of `...` is for protocols and overloads."""
    classes = [node for node in module.nodes if isinstance(node, ast.ClassDef)]
    declared = {id(f) for c in classes if "Protocol" in map(last_name, c.bases) for f in c.body}
    for function in module.functions:
        declares = id(function) in declared or "overload" in map(last_name, function.decorator_list)
        if ast.unparse(function.body[-1]) == "..." and not declares:
            yield module.at(function.lineno, f"{function.name} does nothing")
    for name, line in sorted(dotted_names(module)):
        if name == "NotImplementedError":
            yield module.at(line, name)


def last_name(node: ast.expr) -> str:
    """`b` of `a.b[c]`."""
    return ast.unparse(node).split("[")[0].split(".")[-1]


# --- data stays data ---


def code_from_data(module: Module) -> Iterator[str]:
    """Nothing is unpickled or evaluated, under any name it may be imported by."""
    for name, line in sorted(dotted_names(module)):
        if within(name, *CODE_FROM_DATA):
            yield module.at(line, f"uses {name}")
    for node in module.nodes:
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield module.at(node.value.lineno, "allow_pickle")


def objects_sent(module: Module) -> Iterator[str]:
    """Ranks send each other bytes and tensors: methods that pickle what they are given are not called."""
    if not any(within(i.target, "mpi4py", "torch.distributed") for i in imports(module)):
        return
    for node in module.nodes:
        match node:
            case ast.Call(ast.Attribute(attr=name)) if PICKLING_METHOD.fullmatch(name):
                yield module.at(node.lineno, f"calls {name}")


# --- the tests ---

Check = Callable[[Module], Iterator[str]]
CHECKS: tuple[Check, ...] = (
    wrong_imports, bare_imports, late_imports, pass_imports,
    size, documentation, stubs, code_from_data, objects_sent,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_source(check: Check) -> None:
    """The check finds nothing in moec."""
    assert len(source()) > 50
    assert [finding for module in source().values() for finding in check(module)] == []


def test_no_rings() -> None:
    """No module needs itself to be imported, by whatever way round."""
    assert ring(source()) == []


def test_tests_import_moec() -> None:
    """Tests and benchmarks see the classes that users see."""
    assert [finding for module in programs() for finding in bare_imports(module)] == []


def test_libraries_are_declared() -> None:
    """Every library that moec imports is a dependency in pyproject.toml, and the other way round."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    dependencies = [*project["dependencies"], *(d for e in IMPORTED_EXTRAS for d in extras[e])]
    declared = {re.split(r"[<>=\[ ]", dependency)[0] for dependency in dependencies}
    used = {i.target.split(".")[0] for module in source().values() for i in imports(module)}
    assert used - sys.stdlib_module_names - {"moec"} == declared


def test_no_path_of_a_machine() -> None:
    """What is in the repository works in any folder of any user."""
    folders = (*FOLDERS, "tests", "benchmarks", "docs", "editors", *(f"src/moec/{own}" for own in OWN), ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    files += [*ROOT.glob("*.*"), ROOT / "Makefile", *(ROOT / "src/moec").glob("*.py")]
    texts = {
        path: path.read_text("utf-8", errors="replace")
        for path in files
        if path.is_file() and not {"__pycache__", "node_modules", ".hypothesis"} & set(path.parts)
    }
    assert [str(path) for path, text in texts.items() if MACHINE_PATH.search(text)] == []


@pytest.mark.parametrize("name", ["moec.dsl", "moec.models", "moec.cli.main"])
def test_light(name: str) -> None:
    """The language and the command line start without the heavy libraries."""
    heavy = {"torch", "numpy", "mpi4py", "tokenizers", "pygls", "pygments"}
    program = f"import sys, {name}; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_training_needs_torch_numpy_and_mpi4py_only() -> None:
    """On a node where no other library is installed the runtime is imported, whatever is optional."""
    others = ["tokenizers", "pyarrow", "rich", "typer", "lark", "safetensors", "jinja2"]
    program = f"import sys; sys.modules.update(dict.fromkeys({others})); import moec.runtime.run"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("check", "name", "text"),
    [
        (wrong_imports, "moec.dsl.x", "import torch.nn"),
        (wrong_imports, "moec.dsl.x", "import lark"),
        (wrong_imports, "moec.dsl.x", "from .. import models"),
        (wrong_imports, "moec.compiler.a.x", "from ...runtime import executor"),
        (wrong_imports, "moec.runtime.x", "def f():\n    import_module('moec.dsl')"),
        (wrong_imports, "moec.runtime.abi.x", "from moec.runtime import executor"),
        (wrong_imports, "moec.runtime.x", "from mpi4py import MPI"),
        (wrong_imports, "moec.lsp.hover", "from pygls.lsp.server import LanguageServer"),
        (wrong_imports, "moec.lsp.x", "from moec.runtime import executor"),
        (bare_imports, "tests.x", "from compiler.graph import Region"),
        (late_imports, "moec.dsl.x", "def f():\n    import json"),
        (pass_imports, "moec.compiler.passes.x", "from .place import place"),
        (size, "moec.x", "\n" * FILE_LINES),
        (size, "moec.x", "def f():\n" + "    1\n" * FUNCTION_LINES),
        (documentation, "moec.x", "1"),
        (stubs, "moec.x", "class A:\n    def f(self):\n        'Text.'\n        ..."),
        (stubs, "moec.x", "raise NotImplementedError('f')"),
        (code_from_data, "moec.x", "from torch import load as read"),
        (code_from_data, "moec.x", "import torch as t\nt.load(1)"),
        (code_from_data, "moec.x", "f = eval"),
        (code_from_data, "moec.x", "import numpy as np\nnp.load(f, allow_pickle=True)"),
        (objects_sent, "moec.x", "from mpi4py import MPI\nMPI.COMM_WORLD.bcast(1)"),
        (objects_sent, "moec.x", "import torch.distributed as d\nd.all_gather_object(a, b)"),
    ],
)
def test_checks_find(check: Check, name: str, text: str) -> None:
    """Each check finds what it is for, once, and nothing in a module of one docstring."""
    assert len(list(check(Module(name, text)))) == 1
    assert list(check(Module(name, '"""Says eval(pickle)."""\n'))) == []


def test_ring_is_found() -> None:
    """Relative imports and names of packages count; an import for types does not."""
    texts = {"moec.a": "from .b import f", "moec.b": "from moec import c", "moec.c": "from .a import g"}
    modules = {name: Module(name, text) for name, text in texts.items()}
    assert set(ring(modules)) == set(texts)
    for_types = Module("moec.c", "if TYPE_CHECKING:\n    from .a import g")
    assert ring({**modules, "moec.c": for_types}) == []
