// Visits programs of a sandbox: node pages.mjs PACKAGES HOME EXPRESS DENO PYTHON

import assert from "node:assert/strict";
import { withPage } from "./browser.mjs";

const [packages, home, express, deno, python] = process.argv.slice(2);

await withPage(packages, home, async (page) => {
  // A form, a redirect, a cookie: Express sees the address that the browser sees.
  await page.goto(express);
  await page.getByRole("textbox").fill("a person");
  await page.getByRole("button").click();
  await page.getByText("hello, a person").waitFor();
  assert.equal(page.url(), `${express}/greeting`);
  await page.getByText(`from ${express}`).waitFor();

  // A WebSocket of the page, both ways, and a stream of events.
  await page.goto(deno);
  await page.getByText("echo of 1, echo of 2, echo of 3").waitFor();
  await page.getByText("event 1, event 2, event 3").waitFor();

  // A listing of files, and one that is downloaded whole.
  await page.goto(python);
  await page.getByRole("link", { name: "large.bin" }).waitFor();
  const download = page.waitForEvent("download");
  await page.getByRole("link", { name: "large.bin" }).click();
  const stream = await (await download).createReadStream();
  let length = 0;
  for await (const chunk of stream) length += chunk.length;
  assert.equal(length, 20_000_000);

  // Another exposure is another origin: nothing of the first is seen there.
  assert.deepEqual(await page.context().cookies(python), []);
});
