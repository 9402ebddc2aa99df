// Copy a directory into a sandbox, and out again.

import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Sandbox } from "@deno/sandbox";

const sandbox = await Sandbox.create();
const local = await mkdtemp(join(tmpdir(), "example-"));

// Both ways the copy goes into a directory that is there, under its own name.
await mkdir(join(local, "work/sub"), { recursive: true });
await mkdir(join(local, "out"));
await writeFile(join(local, "work/sub/numbers.txt"), "3\n1\n2\n");
await sandbox.fs.upload(join(local, "work"), "/home/app");
await sandbox.sh`sort sub/numbers.txt > sorted.txt`.cwd("/home/app/work");
await sandbox.fs.download("/home/app/work", join(local, "out"));

console.log("downloaded:", (await readdir(join(local, "out/work"))).sort());
console.log("sorted:", (await readFile(join(local, "out/work/sorted.txt"), "utf8")).trim().split("\n"));

await rm(local, { recursive: true });
await sandbox.kill();
