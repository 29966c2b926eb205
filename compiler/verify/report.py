"""What a verifier does with what it found: the whole graph, with each problem beside its node."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from moec.compiler.errors import InternalCompilerError


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
    first = "; ".join(text for _, text in problems[:3])
    raise InternalCompilerError(f"{name} breaks {len(problems)} rules: {first}\n" + "\n".join(lines))
