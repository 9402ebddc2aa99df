"""Run Deno: evaluate code, keep a REPL, serve HTTP and ask it."""

import asyncio

from deno_sandbox import AsyncDenoDeploy


async def main():
    client = AsyncDenoDeploy()
    async with client.sandbox.create() as sandbox:
        print("sum:", await sandbox.deno.eval("const a: number = 20; a + 22"))

        # A REPL remembers; what is thrown in it is raised here.
        async with await sandbox.deno.repl() as repl:
            await repl.eval("function shout(all) { return all.join(' ').toUpperCase(); }")
            print("shouted:", await repl.call("shout", [["self", "hosted"]]))
            try:
                await repl.eval("throw new RangeError('too far')")
            except Exception as error:
                print("raised:", error)

        # The request goes to the process, whatever host it names.
        server = await sandbox.deno.run(
            code="Deno.serve(() => new Response(null, { status: 204 }))",
            stdout="piped",
            stderr="piped",
        )
        print("ready:", await server.wait_http_ready())
        print("answered:", (await server.fetch("http://sandbox/there")).status_code)
        await server.kill()


asyncio.run(main())
