// Write, read, walk, glob, and work inside an open file.

import { Sandbox, SeekMode } from "@deno/sandbox";

const sandbox = await Sandbox.create();
const { fs } = sandbox;

await fs.mkdir("project/src", { recursive: true });
await fs.writeTextFile("project/README", "hello\n");
await fs.writeFile("project/src/data.bin", Uint8Array.from({ length: 256 }, (_, n) => n));
console.log("text:", await fs.readTextFile("project/README"));
console.log("bytes:", (await fs.readFile("project/src/data.bin")).length);

for await (const entry of fs.walk("project", { includeDirs: false })) console.log("walked:", entry.path);
for await (const entry of fs.expandGlob("project/**/*.bin")) console.log("globbed:", entry.name);

const file = await fs.open("project/README", { read: true, write: true });
await file.seek(0, SeekMode.End);
await file.write(new TextEncoder().encode("world\n"));
await file.seek(0, SeekMode.Start);
const buffer = new Uint8Array(100);
console.log("handle:", await file.read(buffer), "bytes");
await file.close();

await fs.readTextFile("missing").catch((error) => console.log("missing:", error.code));

await sandbox.kill();
