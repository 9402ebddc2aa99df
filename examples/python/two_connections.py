"""Two connections to one sandbox see the same files and variables."""

import asyncio

from deno_sandbox import AsyncDenoDeploy


async def main():
    client = AsyncDenoDeploy()
    async with client.sandbox.create() as first:
        async with client.sandbox.connect(first.id) as second:
            await first.fs.write_text_file("note", "written by the first")
            print(await second.fs.read_text_file("note"))
            await second.env.set("GREETING", "set by the second")
            print(await first.env.get("GREETING"))


asyncio.run(main())
