"use strict";
// What a client asks of VS Code beside a folder, told by variables of its
// process: a page to show beside the editor, and whether a button stops it.

const vscode = require("vscode");

function activate(context) {
  const { TOMBOLO_VSCODE_PREVIEW: preview, TOMBOLO_VSCODE_STOP_BUTTON: button } = process.env;
  const stop = async () => {
    const answer = await vscode.window.showWarningMessage(
      "Stop VS Code in this sandbox? Everything else in the sandbox goes on.",
      { modal: true },
      "Stop",
    );
    // Extensions run in a child of the server, which ends everything else.
    if (answer === "Stop") process.kill(process.ppid, "SIGTERM");
  };
  context.subscriptions.push(vscode.commands.registerCommand("tombolo.stop", stop));
  if (button === "1") {
    const item = vscode.window.createStatusBarItem("tombolo.stop", vscode.StatusBarAlignment.Left, -1000);
    item.name = "Tombolo";
    item.text = "$(debug-stop) Stop VS Code";
    item.command = "tombolo.stop";
    item.show();
    context.subscriptions.push(item);
  }
  if (preview) {
    const beside = { viewColumn: vscode.ViewColumn.Beside, preserveFocus: true };
    vscode.commands.executeCommand("simpleBrowser.api.open", vscode.Uri.parse(preview), beside);
  }
}

module.exports = { activate };
