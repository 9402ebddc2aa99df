// Told to Deno to run before a program that it watches, each time anew: says so
// to the agent, through the pipe that this module's address names.

const pipe = new URL(import.meta.url).searchParams.get("pipe");
Deno.writeFileSync(pipe, new Uint8Array(1), { create: false });
