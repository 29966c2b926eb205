"""What tests of verifiers share: a model, finding nodes to break, and the form of every message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import fx

from moec.compiler.errors import InternalCompilerError
from small_models import small_spec

SPEC = small_spec("per layer", expert=2, shard=4, replicate=2, expert_shard=2)


def node(graph: fx.Graph, name: str) -> fx.Node:
    """By its name."""
    found: fx.Node = next(n for n in graph.nodes if n.name == name)
    return found


def first(graph: fx.Graph, target: Callable[..., Any]) -> fx.Node:
    """The first call of an operation."""
    found: fx.Node = next(n for n in graph.nodes if n.target is target)
    return found


def caught(verify: Callable[[], None], message: str) -> None:
    """The error names the node and says what is wrong, and shows the graph with a mark at it."""
    with pytest.raises(InternalCompilerError) as error:
        verify()
    summary, _, graph = str(error.value).partition("\n")
    assert message in summary
    assert "    ^ " in graph
    assert error.value.exit_code == 70
