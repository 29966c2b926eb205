"""What the commands show of a checked text: `check`, `models`, `explain`."""

from __future__ import annotations

from moec.dsl import catalogue, parameters
from moec.dsl import spec as m
from moec.dsl.compare import Varying, kinds, varying
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.explicit import explicit
from moec.dsl.families import ranges
from moec.dsl.format import format_file
from moec.dsl.load import parse_source
from moec.dsl.parse import parse_text
from moec.dsl.source import SourceText

VARYING_SHOWN = 8


def summary(spec: m.Spec) -> dict[str, object]:
    """A model and its run as plain data, for `check --json` and `models`."""
    total, active = parameters.count(spec.model)
    train = spec.train
    return {
        "model": spec.model.name,
        "parameters": total,
        "active_parameters": active,
        "layers": len(spec.model.layers),
        "layer_kinds": len(kinds(spec.model)),
        "varies": {one.path: _cases(one) for one in varying(spec.model)},
        "tied": spec.model.head.tied,
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


def _cases(one: Varying) -> list[dict[str, object]]:
    return [{"value": value, "layers": list(layers)} for value, layers in one.cases]


def summary_text(spec: m.Spec) -> str:
    """The same in a few lines for a reader."""
    total, active = parameters.count(spec.model)
    model, train = spec.model, spec.train
    length = f"{train.steps:,} steps" if train.steps is not None else f"{train.epochs:,} epochs"
    batch = f"{train.batch_sequences:,} x {train.sequence:,} = {train.batch_tokens:,} tokens"
    lines = [
        f"{model.name}: {human(total)} parameters, {human(active)} active per token ({total:,} / {active:,})",
        f"  {_layers(model)}, width {model.width}, vocab {model.vocab:,}{_tied(model)}",
        *_varying(model),
        f"  context {model.context:,} tokens",
        f"  batch {batch}, {length}",
    ]
    if spec.checkpoint is not None:
        plain = not any(group.forms for group in spec.checkpoint.groups)
        words = "one for every parameter" if plain else "which hold every parameter once"
        lines.append(f"  weight map: {spec.checkpoint.tensor_count:,} tensors, {words}")
    return "\n".join(lines) + "\n"


def _layers(model: m.ModelSpec) -> str:
    count = len(kinds(model))
    return f"{len(model.layers)} layers" + (f" of {count} kinds" if count > 1 else "")


def _tied(model: m.ModelSpec) -> str:
    return ", output tied to the embedding" if model.head.tied else ""


def _varying(model: m.ModelSpec) -> list[str]:
    """A line for everything that is another in every layer, the first few of them."""
    found = varying(model)
    lines = [f"    {one.path}: {_case_text(one, len(model.layers))}" for one in found[:VARYING_SHOWN]]
    left = len(found) - len(lines)
    return lines + ([f"    and {left} more"] if left else [])


def _case_text(one: Varying, layers: int) -> str:
    """`128 in 0..3; none elsewhere`: the case whose layers are longest to tell comes last."""
    cases = sorted(one.cases, key=lambda case: len(ranges(case[1])))
    shown = [f"{value} in {ranges(places)}" for value, places in cases[:VARYING_SHOWN]]
    if len(shown) < len(cases):
        return "; ".join(shown) + "; ..."
    if sum(len(places) for _, places in cases) == layers:
        shown[-1] = f"{cases[-1][0]} elsewhere"
    return "; ".join(shown)


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
