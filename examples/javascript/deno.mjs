// Run Deno: evaluate code, keep a REPL, serve HTTP and ask it.

import { Sandbox } from "@deno/sandbox";

const sandbox = await Sandbox.create();
console.log("sum:", await sandbox.deno.eval("const a: number = 20; a + 22"));

// A REPL remembers, and its exceptions are exceptions here.
const repl = await sandbox.deno.repl({ stdout: "piped", stderr: "piped" });
await repl.eval("const words = ['self', 'hosted']; function shout(all) { return all.join(' ').toUpperCase(); }");
console.log("shouted:", await repl.call("shout", ["self", "hosted"]));
await repl.eval("words.lenght.toFixed()").catch((error) => console.log("thrown:", error.name, error.message));
await repl.close();

// The request goes to the process, whatever host it names.
const server = await sandbox.deno.run({
  code: "Deno.serve((request) => new Response(`you asked ${new URL(request.url).pathname}`))",
  stdout: "piped",
  stderr: "piped",
});
console.log("ready:", await server.httpReady);
console.log("answered:", await (await server.fetch("http://sandbox/there")).text());

await sandbox.kill();
