"""`moec lsp` over standard input and output, asked by a real client."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from lsprotocol import types as t
from pygls.exceptions import JsonRpcException
from pygls.lsp.client import LanguageClient

from marked import shipped

TEXT = "# 🜛 beyond the first plane\n" + shipped("tiny")
WRONG = TEXT.replace("x += attention(", "x += atention(")


class Editor:
    """A client that keeps what the server says of a text unasked."""

    def __init__(self) -> None:
        self.client = LanguageClient("editor", "1")
        self.said: asyncio.Queue[t.PublishDiagnosticsParams] = asyncio.Queue()

        def keep(params: t.PublishDiagnosticsParams) -> None:
            self.said.put_nowait(params)

        self.client.feature(t.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)(keep)

    async def start(self) -> t.InitializeResult:
        await self.client.start_io(sys.executable, "-m", "moec", "lsp", "--stdio")
        return await self.client.initialize_async(t.InitializeParams(t.ClientCapabilities()))

    async def stop(self) -> None:
        await self.client.shutdown_async(None)
        self.client.exit(None)
        await self.client.stop()


def where(text: str, passage: str, inside: int = 0) -> t.Position:
    """The position of a passage, in UTF-16 units."""
    before = text[: text.index(passage) + inside]
    line = before.rpartition("\n")[2]
    return t.Position(before.count("\n"), len(line.encode("utf-16-le")) // 2)


async def mistakes(editor: Editor, document: t.TextDocumentIdentifier) -> None:
    """All of a text when it is opened, none when it has been put right."""
    client = editor.client
    opened = t.TextDocumentItem(document.uri, "moe", 1, WRONG)
    client.text_document_did_open(t.DidOpenTextDocumentParams(opened))
    (mistake,) = (await editor.said.get()).diagnostics
    assert mistake.code == "MOE0205"
    assert mistake.range.start == where(WRONG, "atention(")
    assert mistake.code_description == t.CodeDescription("moec-explain:/MOE0205")
    actions = await client.text_document_code_action_async(
        t.CodeActionParams(document, mistake.range, t.CodeActionContext([mistake]))
    )
    assert actions is not None
    assert [action.title for action in actions] == ["Write `attention`"]
    change(editor, document, 2, TEXT)
    assert not (await editor.said.get()).diagnostics
    text = await client.workspace_execute_command_async(t.ExecuteCommandParams("moec.explain", ["MOE0205"]))
    assert "MOE0205" in str(text)


def change(editor: Editor, document: t.TextDocumentIdentifier, version: int, text: str) -> None:
    whole = t.TextDocumentContentChangeWholeDocument(text)
    editor.client.text_document_did_change(
        t.DidChangeTextDocumentParams(t.VersionedTextDocumentIdentifier(version, document.uri), [whole])
    )


async def here(editor: Editor, document: t.TextDocumentIdentifier) -> None:
    """Hover and completion."""
    client = editor.client
    found = await client.text_document_hover_async(t.HoverParams(document, where(TEXT, "gqa(", 1)))
    assert found is not None
    assert isinstance(found.contents, t.MarkupContent)
    assert "**gqa**" in found.contents.value
    completions = await client.text_document_completion_async(
        t.CompletionParams(document, where(TEXT, "router:", 8))
    )
    assert isinstance(completions, t.CompletionList)
    assert "softmax" in {item.label for item in completions.items}
    assert not any("$" in (item.text_edit.new_text if item.text_edit else "") for item in completions.items)


async def names(editor: Editor, document: t.TextDocumentIdentifier) -> None:
    """Definition, references, rename."""
    client, bound = editor.client, where(TEXT, "attention =")
    place = await client.text_document_definition_async(
        t.DefinitionParams(document, where(TEXT, "attention(norm"))
    )
    assert isinstance(place, t.Location)
    assert place.range.start == bound
    places = await client.text_document_references_async(
        t.ReferenceParams(t.ReferenceContext(True), document, bound)
    )
    assert places is not None
    assert len(places) > 3
    edit = await client.text_document_rename_async(t.RenameParams(document, bound, "mixing"))
    assert edit is not None
    assert edit.changes is not None
    assert len(edit.changes[document.uri]) == len(places)
    with pytest.raises(JsonRpcException, match="bound already"):
        await client.text_document_rename_async(t.RenameParams(document, bound, "norm"))


async def whole_text(editor: Editor, document: t.TextDocumentIdentifier) -> None:
    """Outline and canonical form."""
    client = editor.client
    symbols = await client.text_document_document_symbol_async(t.DocumentSymbolParams(document))
    assert symbols is not None
    assert [symbol.name for symbol in symbols] == ["model tiny", "train", "checkpoint huggingface"]
    change(editor, document, 3, TEXT.replace("vocab   =", "vocab="))
    options = t.FormattingOptions(tab_size=4, insert_spaces=True)
    edits = await client.text_document_formatting_async(t.DocumentFormattingParams(document, options))
    assert edits is not None
    assert [one.new_text for one in edits] == [TEXT]


async def session(path: Path) -> None:
    editor = Editor()
    capabilities = (await editor.start()).capabilities
    assert capabilities.position_encoding in (None, t.PositionEncodingKind.Utf16)
    document = t.TextDocumentIdentifier(path.as_uri())
    for part in (mistakes, here, names, whole_text):
        await part(editor, document)
    editor.client.text_document_did_close(t.DidCloseTextDocumentParams(document))
    await editor.stop()


def test_a_session(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(session(tmp_path / "my model.moe"), timeout=60))
