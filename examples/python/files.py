"""Write, read, walk, glob, and work inside an open file."""

import asyncio

from deno_sandbox import AsyncDenoDeploy


async def main():
    client = AsyncDenoDeploy()
    async with client.sandbox.create() as sandbox:
        fs = sandbox.fs
        await fs.mkdir("project/src", recursive=True)
        await fs.write_text_file("project/README", "hello\n")
        await fs.write_file("project/src/data.bin", bytes(range(256)))
        print("text:", await fs.read_text_file("project/README"), end="")
        print("bytes:", len(await fs.read_file("project/src/data.bin")))

        for entry in await fs.walk("project", include_dirs=False):
            print("walked:", entry["path"])
        print("globbed:", len(await fs.expand_glob("project/**/*.bin")))

        async with await fs.open("project/README", read=True, write=True) as file:
            await file.seek(0, 2)
            await file.write(b"world\n")
            await file.seek(0, 0)
            print("handle:", await file.read(100))

        try:
            await fs.read_text_file("missing")
        except Exception as error:
            print("missing:", "NotFound" in str(error))


asyncio.run(main())
