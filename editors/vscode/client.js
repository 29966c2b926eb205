// Starts `moec lsp` for .moe files, and shows what `moec explain` says of a code.
"use strict";

const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

const EXPLAIN = "moec-explain"; // the scheme of links on the codes of diagnostics

let client;

function start() {
  const command = vscode.workspace.getConfiguration("moec").get("command", "moec");
  client = new LanguageClient(
    "moec",
    "moec",
    { command, args: ["lsp"] },
    { documentSelector: [{ scheme: "file", language: "moe" }, { scheme: "untitled", language: "moe" }] },
  );
  return client.start().catch((error) => {
    vscode.window.showErrorMessage(
      `\`${command} lsp\` does not start: ${error.message}. Install it with pip install 'moec[lsp]', ` +
        "or say where it is in the setting moec.command.",
    );
  });
}

async function restart() {
  if (client) {
    await client.stop().catch(() => undefined);
  }
  await start();
}

async function activate(context) {
  const explanations = {
    provideTextDocumentContent: (uri) =>
      client.sendRequest("workspace/executeCommand", {
        command: "moec.explain",
        arguments: [uri.path.replace(/^\//, "")],
      }),
  };
  context.subscriptions.push(
    vscode.workspace.registerTextDocumentContentProvider(EXPLAIN, explanations),
    vscode.commands.registerCommand("moec.restart", restart),
    vscode.workspace.onDidChangeConfiguration((change) => {
      if (change.affectsConfiguration("moec.command")) {
        restart();
      }
    }),
  );
  await start();
}

function deactivate() {
  return client ? client.stop() : undefined;
}

module.exports = { activate, deactivate };
