"""The weight map of a checked text -> that of the runtime."""

from __future__ import annotations

from moec.dsl.spec import Checkpoint
from moec.runtime.abi.weight_map import Form, FusedTensor, WeightMap


def weight_map(checkpoint: Checkpoint | None) -> WeightMap:
    """The same map, empty if there is none."""
    if checkpoint is None:
        return WeightMap({}, (), ())
    plain = {x.parameters[0]: x.name for x in checkpoint.tensors if not x.forms}
    fused = tuple(
        FusedTensor(x.name, x.parameters, tuple(Form(form.kind, form.count) for form in x.forms))
        for x in checkpoint.tensors
        if x.forms
    )
    blanks = (name for blank in checkpoint.blanks for name in blank.tensors())
    return WeightMap(plain, fused, (*checkpoint.ignored, *blanks))
