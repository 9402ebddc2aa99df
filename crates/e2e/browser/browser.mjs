// Opens pages in Debian's Chromium, which trusts what is in the NSS database of
// its home. All waits are for conditions, and long: guests may be emulated.

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const PATIENCE_MS = 180_000;

/** Runs `work` on a new page; `packages` is where playwright-core is installed. */
export const withPage = async (packages, home, work) => {
  const require = createRequire(pathToFileURL(join(packages, "package.json")));
  const { chromium } = require("playwright-core");
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    // Tests run as root, whom Chromium's own sandbox does not take.
    args: ["--no-sandbox"],
    env: { ...process.env, HOME: home },
  });
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
    page.setDefaultTimeout(PATIENCE_MS);
    page.setDefaultNavigationTimeout(PATIENCE_MS);
    await work(page);
  } finally {
    await browser.close();
  }
};
