"""simplify: clean a traced graph of what tracing leaves behind, without changing a value.

%b = detach(%a)            uses of %b become uses of %a
%c = t(t(%a))              uses of %c become uses of %a
logical_and_(%a, %b)       logical_and(%a, %b): no operation of a region writes to its arguments
assertions on sizes        erased: the runtime checks the counts that arrive
equal calls                computed once, collectives excepted
dead nodes                 erased
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from moec.runtime.abi import collective_ops  # noqa: F401  (registers the collectives)

_aten = torch.ops.aten
_IDENTITIES = {_aten.detach.default, _aten.alias.default, _aten.lift_fresh_copy.default}
_ASSERTIONS = {
    _aten._assert_scalar.default,
    _aten._assert_async.msg,
    _aten.sym_constrain_range_for_size.default,
    _aten.sym_constrain_range.default,
    torch.ops.aten._assert_tensor_metadata.default,
}
_COLLECTIVES = {
    torch.ops.moec.all_to_all.default,
    torch.ops.moec.all_reduce.default,
    torch.ops.moec.shard_gather.default,
    torch.ops.moec.reduce_scatter.default,
}


def simplify(graph: fx.Graph) -> None:
    """Edit `graph` in place."""
    known: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _ASSERTIONS:
            graph.erase_node(node)
            continue
        if node.target is _aten.logical_and_.default:
            node.target = _aten.logical_and.default
        same = _same_value(node) or known.setdefault(_key(node), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    _erase_dead(graph)


def _same_value(node: fx.Node) -> fx.Node | None:
    """The earlier node that `node` only renames."""
    argument = node.args[0] if node.args else None
    if not isinstance(argument, fx.Node):
        return None
    if node.target in _IDENTITIES:
        return argument
    if node.target is _aten.t.default and argument.target is _aten.t.default:
        source = argument.args[0]
        assert isinstance(source, fx.Node)
        return source
    return None


def _key(node: fx.Node) -> Any:
    """Equal for calls of one function on the same arguments.

    Collectives are never equal: each one is a meeting.
    """
    if node.target in _COLLECTIVES or node.target is _aten._local_scalar_dense.default:
        return node
    return node.target, _frozen(node.args), _frozen(node.kwargs)


def _frozen(argument: Any) -> Any:
    if isinstance(argument, list | tuple):
        return tuple(_frozen(a) for a in argument)
    if isinstance(argument, dict):
        return tuple((key, _frozen(a)) for key, a in argument.items())
    return type(argument), argument  # 1 and 1.0 and True are different arguments


def _erase_dead(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)
