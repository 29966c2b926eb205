"""The components of a model by name, as a list of `memory.recompute` gives them.

A name is the path of a call, the prefix of its parameters' names: `attention`, `attention.norm`, `experts`,
`dense`. Inside of a mixture are `experts.router`, `experts.expert` (the products of all experts) and
`experts.shared`. At the ends of the model are `embed` and `logits`, which is the loss, too. A name stands for
all names that begin with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from moec.dsl.spec import Call, Gqa, Layer, Mla, ModelSpec, Moe, calls

PARTS_OF_MOE = ("router", "expert", "shared")


def component_names(model: ModelSpec) -> tuple[str, ...]:
    """All of them, in the order of the model."""
    found: dict[str, None] = {"embed": None}
    ends = [model.embed.norm] if model.embed.norm is not None else []
    for layer in dict.fromkeys(model.layers):
        for call in layer.calls():
            found.update(dict.fromkeys(_with_parts(call)))
    for call in (*ends, *calls(model.head.argument)):
        found.update(dict.fromkeys(_with_parts(call)))
    return (*found, "logits")


def _with_parts(call: Call) -> Iterator[str]:
    yield call.path
    if isinstance(call.component, Moe):
        absent = {"shared"} if call.component.shared is None else set()
        yield from (f"{call.path}.{part}" for part in PARTS_OF_MOE if part not in absent)


def components_of(layer: Layer, word: str) -> tuple[str, ...]:
    """The names of a layer's `attention` or `experts`, whatever they are called."""
    kinds: tuple[type, ...] = (Gqa, Mla) if word == "attention" else (Moe,)
    return tuple(call.path for call in layer.calls() if isinstance(call.component, kinds))


def is_inside(name: str, names: tuple[str, ...]) -> bool:
    """Whether a component is one of `names`, or inside of one."""
    return any(name == one or name.startswith(f"{one}.") for one in names)
