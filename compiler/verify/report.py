"""What a verifier does with what it found: the whole graph, with each problem beside its node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import fx

from moec.compiler.errors import InternalCompilerError
from moec.compiler.graph import origin

Problems = Iterator[tuple[fx.Node, str]]
"""Nodes, and what is wrong with each."""


def check(name: str, graph: fx.Graph, problems: Sequence[tuple[fx.Node, str]]) -> None:
    """Raise InternalCompilerError if there are problems."""
    if not problems:
        return
    by_node: dict[fx.Node, list[str]] = {}
    for node, text in problems:
        by_node.setdefault(node, []).append(text)
    lines = []
    for node in graph.nodes:
        lines.append(node.format_node() or str(node))
        lines.extend(f"    ^ {text}" for text in by_node.get(node, ()))
    first = "; ".join(_named(node, text) for node, text in problems[:3])
    raise InternalCompilerError(f"{name} breaks {len(problems)} rules: {first}\n" + "\n".join(lines))


def _named(node: fx.Node, text: str) -> str:
    place = f" ({origin(node)})" if origin(node).line else ""
    return f"%{node.name}{place} {text}"
