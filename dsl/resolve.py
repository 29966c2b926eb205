"""`use`: the file or shipped model it names is merged below the present file, setting by setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moec.dsl import catalogue as c
from moec.dsl import syntax as s
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.limits import FILE_BYTES, USED_FILES
from moec.dsl.parse import parse_text
from moec.dsl.source import SourceText, Span

FindModel = Callable[[str], "tuple[str, str] | None"]
RIVALS = {"steps": "epochs", "epochs": "steps"}  # giving one replaces the other


def no_models(_name: str) -> tuple[str, str] | None:
    """A finder that knows no shipped models."""
    return None


@dataclass
class Resolver:
    """Follows `use` from one text on. `find_model` gives the file name and text of a shipped model."""

    find_model: FindModel
    shipped: Sequence[str]
    bag: DiagnosticBag
    _open: list[str] = field(default_factory=list)
    _files: int = 0

    def resolve(self, source: SourceText, folder: Path, identity: str) -> s.File:
        """The text with everything it uses merged in; without `use` items. Mistakes go to the bag."""
        file = parse_text(source, self.bag)
        _report_duplicates(file, self.bag)
        self._open.append(identity)
        merged = s.File((), file.span)
        for item in file.items:
            if isinstance(item, s.Use):
                used = self.bag.attempt(self._used, item, folder)
                merged = merge(merged, used) if used is not None else merged
        self._open.pop()
        own = tuple(item for item in file.items if not isinstance(item, s.Use))
        return merge(merged, replace(file, items=own))

    def _used(self, use: s.Use, folder: Path) -> s.File:
        self._files += 1
        if self._files > USED_FILES:
            raise Mistake(c.TOO_LARGE.at(use.span, f"a text uses at most {USED_FILES} files"))
        source, where, identity = self._file(use, folder) if use.quoted else self._shipped(use, folder)
        if identity in self._open:
            chain = " -> ".join([*map(_short, self._open[self._open.index(identity) :]), _short(identity)])
            raise Mistake(c.USE_CYCLE.at(use.span, f"this closes a cycle: {chain}"))
        return self.resolve(source, where, identity)

    def _shipped(self, use: s.Use, folder: Path) -> tuple[SourceText, Path, str]:
        found = self.find_model(use.target)
        if found is None:
            advice = nearest(use.target, self.shipped) or 'a file is named in quotes: use "file.moe"'
            label = f"there is no shipped model `{use.target}`"
            raise Mistake(c.NO_SUCH_MODEL.at(use.span, label, advice=advice))
        name, text = found
        return SourceText(name, text), folder, f"shipped:{name}"

    def _file(self, use: s.Use, folder: Path) -> tuple[SourceText, Path, str]:
        if not use.target or "\0" in use.target:
            raise Mistake(c.NO_SUCH_MODEL.at(use.span, "expected the path of a file"))
        path = folder / use.target
        source = read_source(path, use.span, use.target)
        return source, path.parent, str(path.resolve())


def _short(identity: str) -> str:
    return Path(identity.removeprefix("shipped:")).name


def read_source(path: Path, place: Span | None = None, name: str | None = None) -> SourceText:
    """A file as a text. Raises Mistake, at `place` if some text asked for it."""
    shown = name or str(path)
    try:
        if not path.is_file():
            why = "is not a regular file" if path.exists() else "does not exist"
            raise Mistake(c.UNREADABLE.at(place, f"{shown} {why}"))
        with path.open("rb") as stream:
            data = stream.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "has no usable path"
        raise Mistake(c.UNREADABLE.at(place, f"{shown}: {why}")) from None
    if len(data) > FILE_BYTES:
        raise Mistake(c.NOT_TEXT.at(place, f"{shown} is larger than {FILE_BYTES:_} bytes"))
    try:
        return SourceText(shown, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Mistake(c.NOT_TEXT.at(place, f"{shown} is not UTF-8: byte {error.start}")) from None


def _report_duplicates(file: s.File, bag: DiagnosticBag) -> None:
    kinds: set[str] = set()
    for item in file.items:
        if isinstance(item, s.Block):
            if item.kind.text in kinds:
                bag.add(c.DUPLICATE.at(item.kind.span, f"a second block `{item.kind.text}`"))
            kinds.add(item.kind.text)
            report_repeated_settings(item, bag)


def report_repeated_settings(block: s.Block, bag: DiagnosticBag) -> None:
    """A setting may be given once in a block; equations of a layer are no settings."""
    keys: set[str] = set()
    for statement in block.body:
        if isinstance(statement, s.Block):
            if statement.kind.text != "layers":
                report_repeated_settings(statement, bag)
            continue
        if statement.key in keys:
            bag.add(c.DUPLICATE.at(statement.targets[0].span, f"`{statement.key}` is given twice"))
        keys.add(statement.key)


# --- merging ---


def merge(below: s.File, above: s.File) -> s.File:
    """Blocks of `above` override those of `below`, setting by setting."""
    items: list[s.Item] = list(below.items)
    for item in above.items:
        index = _block_index(items, item)
        if index is None:
            items.append(item)
        else:
            old = items[index]
            assert isinstance(old, s.Block)
            assert isinstance(item, s.Block)
            items[index] = _merge_blocks(old, item)
    return s.File(tuple(items), above.span, above.tail)


def _block_index(items: Sequence[s.Item], wanted: s.Item) -> int | None:
    if not isinstance(wanted, s.Block):
        return None
    kind = wanted.kind.text
    return next((i for i, b in enumerate(items) if isinstance(b, s.Block) and b.kind.text == kind), None)


def _merge_blocks(below: s.Block, above: s.Block) -> s.Block:
    body = without_rivals(below.body, above.settings())
    for statement in above.body:
        if isinstance(statement, s.Setting):
            body = put_setting(body, statement)
        else:
            index = _block_index(body, statement)
            if index is None:
                body.append(statement)
            else:
                old = body[index]
                assert isinstance(old, s.Block)
                nested = statement.kind.text != "layers"
                body[index] = _merge_blocks(old, statement) if nested else statement
    header = above.header or below.header
    tail = (*below.tail, *above.tail)
    return s.Block(above.kind, header, tuple(body), above.span, above.trivia, tail)


def without_rivals(body: Sequence[s.Statement], settings: Sequence[s.Setting]) -> list[s.Statement]:
    """The statements without those that one of `settings` replaces under another name."""
    given = (x for x in settings if not (isinstance(x.value, s.Ref) and x.value.text == "none"))
    rivals = {RIVALS[setting.key] for setting in given if setting.key in RIVALS}
    return [x for x in body if not (isinstance(x, s.Setting) and x.key in rivals)]


def put_setting(body: Sequence[s.Statement], setting: s.Setting) -> list[s.Statement]:
    """The statements with this setting in the place of the one of its name, or at the end."""
    kept = list(body)
    for index, statement in enumerate(kept):
        if isinstance(statement, s.Setting) and statement.key == setting.key:
            kept[index] = setting
            return kept
    return [*kept, setting]
