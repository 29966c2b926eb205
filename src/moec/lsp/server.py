"""The protocol: requests of an editor -> functions of this package -> answers. The only user of pygls."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lsprotocol import types as t
from pygls import uris
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer

from moec import __version__, dsl
from moec.dsl.spec import ModelSpec

from . import complete, hover, mistakes, navigate, symbols
from .document import Document
from .places import Encoding, Places

PAUSE_S = 0.2  # after the last change of a text, before it is checked
_REQUEST_FAILED = -32803  # LSP 3.17: the request was understood, but cannot be done

_ITEM_KINDS: dict[complete.Kind, t.CompletionItemKind] = {
    "construct": t.CompletionItemKind.Function,
    "argument": t.CompletionItemKind.Property,
    "binding": t.CompletionItemKind.Variable,
    "setting": t.CompletionItemKind.Property,
    "value": t.CompletionItemKind.Value,
    "block": t.CompletionItemKind.Module,
    "keyword": t.CompletionItemKind.Keyword,
    "path": t.CompletionItemKind.Field,
    "model": t.CompletionItemKind.File,
}
_SYMBOL_KINDS: dict[symbols.Kind, t.SymbolKind] = {
    "block": t.SymbolKind.Module,
    "component": t.SymbolKind.Class,
    "value": t.SymbolKind.Constant,
    "setting": t.SymbolKind.Property,
    "equation": t.SymbolKind.Operator,
}
_ENCODINGS: dict[t.PositionEncodingKind, Encoding] = {
    t.PositionEncodingKind.Utf8: "utf-8",
    t.PositionEncodingKind.Utf16: "utf-16",
    t.PositionEncodingKind.Utf32: "utf-32",
}


class Placed(Protocol):
    """A request about a place in a text."""

    @property
    def text_document(self) -> t.TextDocumentIdentifier:
        """The text."""
        ...

    @property
    def position(self) -> t.Position:
        """The place in it."""
        ...


class MoeServer(LanguageServer):
    """Keeps the open texts, and of each the last model that it meant."""

    def __init__(self) -> None:
        super().__init__("moec", __version__)
        self._documents: dict[str, Document] = {}
        self._models: dict[str, ModelSpec] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}

    def document(self, uri: str) -> Document:
        """The present text of a document."""
        text = self.workspace.get_text_document(uri).source
        known = self._documents.get(uri)
        if known is None or known.text != text:
            path = uris.to_fs_path(uri) if uri.startswith("file:") else None
            known = self._documents[uri] = Document(text, Path(path) if path else None)
        return known

    def model(self, uri: str) -> ModelSpec | None:
        """The model that a text means, or the last one it meant."""
        model = self.document(uri).model
        if model is not None:
            self._models[uri] = model
        return self._models.get(uri)

    def places(self, document: Document) -> Places:
        """Positions in a text, as this editor counts them."""
        return Places(document.text, _ENCODINGS[t.PositionEncodingKind(self.workspace.position_encoding)])

    def range(self, document: Document, start: int, end: int) -> t.Range:
        """Characters [start, end) in an editor's terms."""
        places = self.places(document)
        return t.Range(t.Position(*places.position(start)), t.Position(*places.position(end)))

    def at(self, params: Placed) -> tuple[Document, int]:
        """The text and the offset that a request is about."""
        document = self.document(params.text_document.uri)
        where = params.position
        return document, self.places(document).offset((where.line, where.character))

    # --- mistakes ---

    def check_soon(self, uri: str) -> None:
        """Check a text when nobody has changed it for a moment."""
        self.forget_check(uri)
        self._waiting[uri] = asyncio.get_running_loop().call_later(PAUSE_S, self.check, uri)

    def forget_check(self, uri: str) -> None:
        """Do not do the check that waits."""
        waiting = self._waiting.pop(uri, None)
        if waiting is not None:
            waiting.cancel()

    def check(self, uri: str) -> None:
        """Show every mistake of a text."""
        self.forget_check(uri)
        document = self.document(uri)
        self.model(uri)
        found = [_diagnostic(self, document, problem) for problem in mistakes.problems(document)]
        version = self.workspace.get_text_document(uri).version
        self.text_document_publish_diagnostics(t.PublishDiagnosticsParams(uri, found, version))

    def check_all(self) -> None:
        """Check every open text anew, with what the files they use hold now."""
        self._documents.clear()
        for uri in list(self.workspace.text_documents):
            self.check(uri)

    def close(self, uri: str) -> None:
        """Forget a text."""
        self.forget_check(uri)
        self._documents.pop(uri, None)
        self._models.pop(uri, None)
        self.text_document_publish_diagnostics(t.PublishDiagnosticsParams(uri, []))


def _diagnostic(server: MoeServer, document: Document, problem: mistakes.Problem) -> t.Diagnostic:
    return t.Diagnostic(
        range=server.range(document, problem.start, problem.end),
        message=problem.message,
        severity=t.DiagnosticSeverity.Error,
        code=problem.code,
        code_description=t.CodeDescription(problem.link),
        source="moec",
    )


# --- documents ---


def _opened(server: MoeServer, params: t.DidOpenTextDocumentParams) -> None:
    server.check(params.text_document.uri)


def _changed(server: MoeServer, params: t.DidChangeTextDocumentParams) -> None:
    server.check_soon(params.text_document.uri)


def _saved(server: MoeServer, _params: t.DidSaveTextDocumentParams) -> None:
    server.check_all()


def _closed(server: MoeServer, params: t.DidCloseTextDocumentParams) -> None:
    server.close(params.text_document.uri)


# --- what is here ---


def _hover(server: MoeServer, params: t.HoverParams) -> t.Hover | None:
    document, offset = server.at(params)
    found = hover.hover(document, offset, server.model(params.text_document.uri))
    if found is None:
        return None
    text = t.MarkupContent(t.MarkupKind.Markdown, found.text)
    return t.Hover(text, server.range(document, found.start, found.end))


def _complete(server: MoeServer, params: t.CompletionParams) -> t.CompletionList:
    document, offset = server.at(params)
    found = complete.complete(document, offset, server.model(params.text_document.uri))
    where = server.range(document, found.start, offset)
    snippets = _takes_snippets(server.client_capabilities)
    items = [_item(item, where, snippets, index) for index, item in enumerate(found.items)]
    return t.CompletionList(is_incomplete=False, items=items)


def _takes_snippets(client: t.ClientCapabilities) -> bool:
    completion = client.text_document.completion if client.text_document else None
    return bool(completion and completion.completion_item and completion.completion_item.snippet_support)


def _item(item: complete.Item, where: t.Range, snippets: bool, index: int) -> t.CompletionItem:
    text = item.insert or item.label
    if not snippets:
        text = re.sub(r"\$\{\d:(\w+)\}|\$\d", lambda hole: hole[1] or "", text)
    return t.CompletionItem(
        label=item.label,
        kind=_ITEM_KINDS[item.kind],
        detail=item.detail or None,
        documentation=t.MarkupContent(t.MarkupKind.Markdown, item.text) if item.text else None,
        text_edit=t.TextEdit(where, text),
        insert_text_format=t.InsertTextFormat.Snippet if snippets else t.InsertTextFormat.PlainText,
        sort_text=f"{index:05}",
    )


# --- names ---


def _definition(server: MoeServer, params: t.DefinitionParams) -> t.Location | None:
    document, offset = server.at(params)
    found = navigate.definition(document, offset)
    return _location(server, params.text_document.uri, found) if found is not None else None


def _references(server: MoeServer, params: t.ReferenceParams) -> list[t.Location]:
    document, offset = server.at(params)
    found = navigate.references(document, offset, params.context.include_declaration)
    return [_location(server, params.text_document.uri, place) for place in found]


def _location(server: MoeServer, uri: str, place: navigate.Place) -> t.Location:
    elsewhere = uris.from_fs_path(str(place.path)) if place.path is not None else None
    return t.Location(elsewhere or uri, server.range(place.document, place.start, place.end))


def _prepare_rename(server: MoeServer, params: t.PrepareRenameParams) -> t.PrepareRenamePlaceholder:
    document, offset = server.at(params)
    try:
        mention = navigate.renamable(document, offset)
    except navigate.Refusal as refusal:
        raise JsonRpcException(str(refusal), _REQUEST_FAILED) from None
    return t.PrepareRenamePlaceholder(server.range(document, mention.start, mention.end), mention.name)


def _rename(server: MoeServer, params: t.RenameParams) -> t.WorkspaceEdit:
    document, offset = server.at(params)
    try:
        edits = navigate.rename(document, offset, params.new_name)
    except navigate.Refusal as refusal:
        raise JsonRpcException(str(refusal), _REQUEST_FAILED) from None
    return t.WorkspaceEdit({params.text_document.uri: [_edit(server, document, edit) for edit in edits]})


def _edit(server: MoeServer, document: Document, edit: navigate.Edit) -> t.TextEdit:
    return t.TextEdit(server.range(document, edit.start, edit.end), edit.text)


# --- the whole text ---


def _format(server: MoeServer, params: t.DocumentFormattingParams) -> list[t.TextEdit] | None:
    """A text with a syntax error stays as it is."""
    document = server.document(params.text_document.uri)
    try:
        text = dsl.format_text(document.text, document.name)
    except dsl.SourceErrors:
        return None
    return [t.TextEdit(server.range(document, 0, len(document.text)), text)] if text != document.text else []


def _symbols(server: MoeServer, params: t.DocumentSymbolParams) -> list[t.DocumentSymbol]:
    document = server.document(params.text_document.uri)
    return [_symbol(server, document, symbol) for symbol in symbols.symbols(document)]


def _symbol(server: MoeServer, document: Document, symbol: symbols.Symbol) -> t.DocumentSymbol:
    return t.DocumentSymbol(
        name=symbol.name,
        kind=_SYMBOL_KINDS[symbol.kind],
        range=server.range(document, symbol.start, symbol.end),
        selection_range=server.range(document, symbol.name_start, symbol.name_end),
        detail=symbol.detail or None,
        children=[_symbol(server, document, child) for child in symbol.children],
    )


def _actions(server: MoeServer, params: t.CodeActionParams) -> list[t.CodeAction]:
    document = server.document(params.text_document.uri)
    places = server.places(document)
    start, end = (
        places.offset((where.line, where.character)) for where in (params.range.start, params.range.end)
    )
    return [
        t.CodeAction(
            title=f"Write `{edit.text}`",
            kind=t.CodeActionKind.QuickFix,
            diagnostics=[_diagnostic(server, document, problem)],
            edit=t.WorkspaceEdit({params.text_document.uri: [_edit(server, document, edit)]}),
        )
        for problem, edit in mistakes.corrections(document, start, end)
    ]


def _explain(_server: MoeServer, code: str) -> str:
    return dsl.explain(str(code)) or f"there is no error code {code}"


# --- the server ---

_FEATURES: dict[str, tuple[Callable[..., Any], Any]] = {
    t.TEXT_DOCUMENT_DID_OPEN: (_opened, None),
    t.TEXT_DOCUMENT_DID_CHANGE: (_changed, None),
    t.TEXT_DOCUMENT_DID_SAVE: (_saved, None),
    t.TEXT_DOCUMENT_DID_CLOSE: (_closed, None),
    t.TEXT_DOCUMENT_HOVER: (_hover, None),
    t.TEXT_DOCUMENT_COMPLETION: (_complete, t.CompletionOptions(trigger_characters=[".", ":", "|", "("])),
    t.TEXT_DOCUMENT_DEFINITION: (_definition, None),
    t.TEXT_DOCUMENT_REFERENCES: (_references, None),
    t.TEXT_DOCUMENT_PREPARE_RENAME: (_prepare_rename, None),
    t.TEXT_DOCUMENT_RENAME: (_rename, t.RenameOptions(prepare_provider=True)),
    t.TEXT_DOCUMENT_FORMATTING: (_format, None),
    t.TEXT_DOCUMENT_DOCUMENT_SYMBOL: (_symbols, None),
    t.TEXT_DOCUMENT_CODE_ACTION: (_actions, t.CodeActionOptions([t.CodeActionKind.QuickFix])),
}


def make_server() -> MoeServer:
    """A server that knows all requests."""
    server = MoeServer()
    for name, (handler, options) in _FEATURES.items():
        server.feature(name, options)(handler)
    server.command("moec.explain")(_explain)
    return server


def serve() -> None:
    """Speak with one editor over standard input and output until it leaves."""
    make_server().start_io()
