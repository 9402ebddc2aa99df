// How long a sandbox lives: sessions, durations, extensions.

import { setTimeout as delay } from "node:timers/promises";
import { Client, Sandbox } from "@deno/sandbox";

const client = new Client();

const state = async (id) => (await client.sandboxes.list()).find((row) => row.id === id).status;
const ends = async (id) => {
  while ((await state(id)) === "running") await delay(200);
};

// By default a sandbox ends with the connection that made it.
const session = await Sandbox.create();
console.log("session:", await state(session.id));
await session.close();
await ends(session.id);
console.log("session closed:", await state(session.id));

// With a duration it stays, whoever is connected, until its time is over.
const timed = await Sandbox.create({ timeout: "5s" });
await timed.close();
console.log("duration:", await state(timed.id));
await ends(timed.id);
console.log("duration over:", await state(timed.id));

// The end can be moved away while it runs, and killed at any time.
const extended = await Sandbox.create({ timeout: "60s" });
console.log("extended:", (await extended.extendTimeout("5m")) > new Date(Date.now() + 200_000));
await extended.kill();
console.log("killed:", await state(extended.id));
