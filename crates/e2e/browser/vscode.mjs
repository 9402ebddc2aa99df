// Opens a file in VS Code, edits it, saves it, runs it in the terminal, and stops
// VS Code: node vscode.mjs PACKAGES HOME ADDRESS SCREENSHOT

import assert from "node:assert/strict";
import { withPage } from "./browser.mjs";

const [packages, home, address, screenshot] = process.argv.slice(2);

await withPage(packages, home, async (page) => {
  const seconds = () => (performance.now() / 1000).toFixed(1);
  await page.goto(address);
  assert.ok(!page.url().includes("tombolo_access"), "the token stays in the address");
  await page.locator(".monaco-workbench .part.editor").waitFor();
  console.log("the workbench is there after", seconds());
  await page.getByRole("treeitem", { name: "hello.py" }).dblclick();
  await page.locator(".view-line", { hasText: "nothing yet" }).click();
  await page.keyboard.press("Control+A");
  await page.keyboard.type("print('written in ' + 'VS Code')");
  await page.keyboard.press("Control+S");
  await page.locator(".tab.active:not(.dirty)", { hasText: "hello.py" }).waitFor();
  console.log("the file is saved after", seconds());

  // What a client asked to see beside the editor.
  const frames = page.frameLocator("iframe.webview").frameLocator("iframe").frameLocator("iframe");
  await frames.getByText("a page of the sandbox").waitFor();
  console.log("the preview is there after", seconds());

  await page.keyboard.press("Control+Backquote");
  // The mark beside a prompt, which comes with it.
  await page.locator(".terminal-command-decoration").waitFor({ state: "attached" });
  await page.locator(".terminal-wrapper.active .xterm-screen").click();
  await page.keyboard.type("python3 hello.py | tee part && mv part result.txt\n");
  await page.getByRole("treeitem", { name: "result.txt" }).waitFor();
  console.log("the program has run after", seconds());
  await page.getByText("Activating Extensions").waitFor({ state: "hidden" });
  if (screenshot) await page.screenshot({ path: screenshot });

  await page.getByRole("button", { name: "Stop VS Code" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Stop" }).click();
  await page.getByText(/reconnect/i).first().waitFor();
  console.log("it has stopped after", seconds());
});
