"""What the commands show of a checked text: `check`, `models`, `explain`."""

from __future__ import annotations

from moec.dsl import catalogue, parameters
from moec.dsl import spec as m
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.explicit import explicit
from moec.dsl.format import format_file
from moec.dsl.load import parse_source
from moec.dsl.parse import parse_text
from moec.dsl.source import SourceText


def summary(spec: m.Spec) -> dict[str, object]:
    """A model and its run as plain data, for `check --json` and `models`."""
    total, active = parameters.count(spec.model)
    train = spec.train
    return {
        "model": spec.model.name,
        "parameters": total,
        "active_parameters": active,
        "layers": len(spec.model.layers),
        "layer_kinds": len({id(layer) for layer in spec.model.layers}),
        "vocab": spec.model.vocab,
        "width": spec.model.width,
        "context": spec.model.context,
        "sequence": train.sequence,
        "batch_tokens": train.batch_tokens,
        "batch_sequences": train.batch_sequences,
        "steps": train.steps,
        "epochs": train.epochs,
        "tensors": spec.checkpoint.tensor_count if spec.checkpoint else None,
    }


def summary_text(spec: m.Spec) -> str:
    """The same in a few lines for a reader."""
    total, active = parameters.count(spec.model)
    model, train = spec.model, spec.train
    length = f"{train.steps:,} steps" if train.steps is not None else f"{train.epochs:,} epochs"
    batch = f"{train.batch_sequences:,} x {train.sequence:,} = {train.batch_tokens:,} tokens"
    lines = [
        f"{model.name}: {human(total)} parameters, {human(active)} active per token ({total:,} / {active:,})",
        f"  {len(model.layers)} layers, width {model.width}, vocab {model.vocab:,}",
        f"  context {model.context:,} tokens",
        f"  batch {batch}, {length}",
    ]
    if spec.checkpoint is not None:
        plain = not any(group.forms for group in spec.checkpoint.groups)
        words = "one for every parameter" if plain else "which hold every parameter once"
        lines.append(f"  weight map: {spec.checkpoint.tensor_count:,} tensors, {words}")
    return "\n".join(lines) + "\n"


def human(count: int) -> str:
    """A count in the field's short form: 46.7B, 1.9M."""
    for factor, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= factor:
            digits = 2 if count < 10 * factor else 1
            return f"{count / factor:.{digits}f}{letter}"
    return str(count)


def explain(code: str) -> str | None:
    """The paragraph of a code such as MOE0103, or None if there is no such code."""
    kind = catalogue.BY_CODE.get(code.upper())
    return f"{kind.code}: {kind.title}\n\n{kind.explanation}\n" if kind else None


def format_text(text: str, name: str = "<text>") -> str:
    """The canonical text of one file, `use` left as it is. Raises SourceErrors on a syntax error."""
    return format_file(parse_source(SourceText(name, text)))


def explicit_text(spec: m.Spec) -> str:
    """The canonical text of a checked spec with every default in full; loading it gives an equal model."""
    file = parse_text(SourceText("<resolved>", spec.text), DiagnosticBag())
    return format_file(explicit(file, spec))
