"""A text with what is known of it: tokens, names, mistakes, and the model it means as far as it means one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from moec import dsl, models
from moec.dsl import syntax as s
from moec.dsl.check.model import check_model
from moec.dsl.diagnostics import DiagnosticBag, Mistake
from moec.dsl.limits import FILE_BYTES, USED_FILES
from moec.dsl.parse import parse_text
from moec.dsl.resolve import Resolver, read_source
from moec.dsl.source import SourceText
from moec.dsl.spec import ModelSpec
from moec.dsl.tokens import Token

from .names import Binding, Mention, Names, find_names
from .tolerant import Outline, end_of, read, start_of


@dataclass(frozen=True)
class Document:
    """One text. `path` is its file, None where it has none yet; what it uses is looked for beside it."""

    text: str
    path: Path | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path.name if self.path is not None else "<text>"

    @property
    def folder(self) -> Path:
        """Where the files it uses are looked for."""
        return self.path.parent if self.path is not None else Path()

    @cached_property
    def source(self) -> SourceText:
        """The text as the front end reads it; one that is too large is cut."""
        return SourceText(self.name, self.text[:FILE_BYTES])

    @cached_property
    def outline(self) -> Outline:
        """Its tokens and brackets."""
        return read(self.source)

    @cached_property
    def names(self) -> Names:
        """Its names, with those bound in the texts it uses."""
        inherited = {name: Binding(name) for used in self.used for name in used.own_names.bindings}
        return find_names(self.outline, inherited)

    @cached_property
    def own_names(self) -> Names:
        """Its names alone."""
        return find_names(self.outline)

    # --- the texts it uses ---

    @cached_property
    def used(self) -> tuple[Document, ...]:
        """All texts that it uses, by whatever way round; one that lies over others comes after them."""
        found: dict[Path, Document] = {}
        waiting = list(self._uses())
        while waiting and len(found) < USED_FILES:
            document = waiting.pop()
            if document.path is not None and document.path != self.path and document.path not in found:
                found[document.path] = document
                waiting += document._uses()
        return tuple(reversed(found.values()))

    def _uses(self) -> Iterator[Document]:
        tokens = self.outline.tokens
        for token, target in pairwise(tokens):
            document = self.target(target) if token.kind == "USE" else None
            if document is not None:
                yield document

    def target(self, token: Token) -> Document | None:
        """The text that the name or the path after a `use` stands for; None where it cannot be read."""
        if token.kind == "STRING":
            path = self.folder / token.text.strip('"')
            try:
                return Document(read_source(path).text, path.resolve())
            except (Mistake, OSError, ValueError):
                return None
        found = models.read(token.text) if token.kind == "NAME" else None
        return Document(found[1], Path(models.__file__).parent / found[0]) if found else None

    def bound_in(self, name: str) -> Document | None:
        """The document whose text binds a name of the model: this one, else the last used one that does."""
        documents = (self, *reversed(self.used))
        return next((x for x in documents if x.definition(name) is not None), None)

    @property
    def inherited_names(self) -> set[str]:
        """The names bound in the texts that it uses."""
        return {name for used in self.used for name in used.own_names.bindings}

    def value_text(self, name: str) -> str:
        """What this text binds a name to, on one line."""
        binding = self.own_names.bindings.get(name)
        if binding is None or not binding.value:
            return ""
        text = self.source.text[start_of(binding.value[0]) : end_of(binding.value[-1])]
        return " ".join(re.sub(r"#[^\n]*", "", text).split())

    def definition(self, name: str) -> Mention | None:
        """Where this text itself binds a name of the model."""
        found = (x for x in self.own_names.mentions if x.name == name and x.defines and x.scope is None)
        return next(found, None)

    # --- what it means ---

    @cached_property
    def checked(self) -> Checked:
        """Everything that is wrong with it, or what it means."""
        try:
            spec = dsl.load_text(
                self.text,
                self.name,
                find_model=models.read,
                shipped=models.names(),
                folder=self.folder,
            )
        except dsl.SourceErrors as errors:
            return Checked(errors.diagnostics, None)
        return Checked((), spec)

    @cached_property
    def tree(self) -> s.File | None:
        """Its syntax tree with what it uses merged in, without the items that are broken."""
        if len(self.text) > FILE_BYTES:
            return None
        bag = DiagnosticBag()
        resolver = Resolver(models.read, models.names(), bag)
        return resolver.resolve(self.source, self.folder, str(self.path))

    @cached_property
    def own_tree(self) -> s.File:
        """Its syntax tree alone, without the items that are broken."""
        return parse_text(self.source, DiagnosticBag())

    @cached_property
    def model(self) -> ModelSpec | None:
        """The model it means, if that part of it is sound."""
        if self.checked.spec is not None:
            return self.checked.spec.model
        block = self.tree.block("model") if self.tree is not None else None
        if block is None:
            return None
        bag = DiagnosticBag()
        model = bag.attempt(check_model, block, bag)
        return None if len(bag) else model


@dataclass(frozen=True)
class Checked:
    """The result of a check."""

    diagnostics: tuple[dsl.Diagnostic, ...]
    spec: dsl.Spec | None
