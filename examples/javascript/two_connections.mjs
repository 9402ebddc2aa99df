// Two connections to one sandbox see the same files and variables.

import { Sandbox } from "@deno/sandbox";

const first = await Sandbox.create();
const second = await Sandbox.connect({ id: first.id });

await first.fs.writeTextFile("note", "written by the first");
console.log(await second.fs.readTextFile("note"));
await second.env.set("GREETING", "set by the second");
console.log(await first.env.get("GREETING"));

await second.close();
await first.kill();
