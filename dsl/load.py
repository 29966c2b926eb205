"""The front end in order: read, resolve `use`, apply overrides, check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check import check_file
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.limits import FILE_BYTES
from moec.dsl.override import apply_overrides
from moec.dsl.parse import parse_text
from moec.dsl.resolve import FindModel, Resolver, no_models, read_source
from moec.dsl.source import SourceText


def load(
    spec: str | Path,
    overrides: Sequence[str] = (),
    find_model: FindModel = no_models,
    shipped: Sequence[str] = (),
    given_by: str = "--set",
) -> m.Spec:
    """A checked spec from a file, or from a shipped model by its bare name.

    `find_model` gives (file name, text) of a shipped model or None; `shipped` lists their names, for
    suggestions. Raises SourceErrors with everything that is wrong; mistakes in overrides are said to be of
    `given_by`.
    """
    bag = DiagnosticBag()
    found = bag.attempt(_read, spec, find_model, shipped)
    if found is None:
        bag.raise_if_any()
    assert found is not None
    source, folder, identity = found
    return _load(source, folder, identity, overrides, Resolver(find_model, shipped, bag), given_by)


def load_text(
    text: str,
    name: str = "<text>",
    overrides: Sequence[str] = (),
    find_model: FindModel = no_models,
    shipped: Sequence[str] = (),
    folder: Path | None = None,
) -> m.Spec:
    """A checked spec from a text; `use "file.moe"` in it is relative to `folder`, by default the working
    directory.

    `load_text(spec.text)` gives a spec equal to `spec`, which came from anywhere.
    """
    resolver = Resolver(find_model, shipped, DiagnosticBag())
    return _load(SourceText(name, text), folder or Path(), name, overrides, resolver)


def read_text(path: Path) -> str:
    """The text of a file. Raises SourceErrors if it has none that can be read."""
    bag = DiagnosticBag()
    source = bag.attempt(read_source, path)
    bag.raise_if_any()
    assert source is not None
    return source.text


def parse_source(source: SourceText) -> s.File:
    """The syntax tree of one text, `use` not followed. Raises SourceErrors."""
    bag = DiagnosticBag()
    file = bag.attempt(_parse, source, bag)
    bag.raise_if_any()
    assert file is not None
    return file


def _parse(source: SourceText, bag: DiagnosticBag) -> s.File:
    _check_size(source)
    return parse_text(source, bag)


def _check_size(source: SourceText) -> None:
    if len(source.text) > FILE_BYTES:
        raise Mistake(c.NOT_TEXT.at(None, f"{source.name} is larger than {FILE_BYTES:_} characters"))


def _load(
    source: SourceText,
    folder: Path,
    identity: str,
    overrides: Sequence[str],
    resolver: Resolver,
    given_by: str = "--set",
) -> m.Spec:
    bag = resolver.bag
    bag.attempt(_check_size, source)
    bag.raise_if_any()
    file = resolver.resolve(source, folder, identity)
    file = apply_overrides(file, overrides, bag, given_by)
    return check_file(file, bag)


def _read(spec: str | Path, find_model: FindModel, shipped: Sequence[str]) -> tuple[SourceText, Path, str]:
    text = str(spec)
    if isinstance(spec, str) and is_name(text):
        found = find_model(text)
        if found is not None:
            return SourceText(*found), Path(), f"shipped:{found[0]}"
        if not Path(text).exists():
            advice = nearest(text, list(shipped))
            raise Mistake(
                c.NO_SUCH_MODEL.at(None, f"there is no shipped model and no file `{text}`", advice=advice)
            )
    path = Path(text)
    return read_source(path), path.parent, _identity(path)


def _identity(path: Path) -> str:
    return str(path.resolve())


def is_name(text: str) -> bool:
    """Whether a SPEC on the command line can be the bare name of a shipped model."""
    return text.isidentifier() and text.isascii()
