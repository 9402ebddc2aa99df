// Run processes: output as it comes, standard input, exit codes, signals.

import { Sandbox } from "@deno/sandbox";

const sandbox = await Sandbox.create();

// Output arrives while the process runs.
const counter = await sandbox.spawn("python3", {
  args: ["-uc", "for n in range(3): print('line', n)"],
  stdout: "piped",
});
for await (const chunk of counter.stdout.pipeThrough(new TextDecoderStream())) {
  process.stdout.write(`streamed: ${chunk}`);
}
console.log("exit:", (await counter.status).code);

// Standard input is a stream.
const sort = await sandbox.spawn("sort", { stdin: "piped", stdout: "piped" });
await ReadableStream.from(["pear\n", "apple\n"]).pipeThrough(new TextEncoderStream()).pipeTo(sort.stdin);
console.log("sorted:", (await sort.output()).stdoutText.trim().split("\n"));

// The shell template quotes what is put in; noThrow makes a failure a status.
console.log("shell:", (await sandbox.sh`echo ${"two words"}`.text()).trim());
console.log("failed with:", (await sandbox.sh`exit 7`.noThrow()).status.code);

const sleeper = await sandbox.spawn("sleep", { args: ["600"] });
await sleeper.kill("SIGTERM");
const { signal, code } = await sleeper.status;
console.log("killed by:", signal, code);

await sandbox.kill();
