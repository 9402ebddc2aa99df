"""Copy a directory into a sandbox, and out again."""

import asyncio
import os
import tempfile

from deno_sandbox import AsyncDenoDeploy


async def download(fs, remote, local):
    """The SDK's own download() cannot work over a network; this does."""
    os.makedirs(local)
    for entry in await fs.read_dir(remote):
        source, target = f"{remote}/{entry['name']}", os.path.join(local, entry["name"])
        if entry["is_directory"]:
            await download(fs, source, target)
        elif entry["is_symlink"]:
            os.symlink(await fs.read_link(source), target)
        else:
            with open(target, "wb") as file:
                file.write(await fs.read_file(source))


async def main():
    client = AsyncDenoDeploy()
    async with client.sandbox.create() as sandbox:
        with tempfile.TemporaryDirectory() as local:
            os.makedirs(f"{local}/in/sub")
            with open(f"{local}/in/sub/numbers.txt", "w") as file:
                file.write("3\n1\n2\n")
            await sandbox.fs.upload(f"{local}/in", "/home/app/work")
            child = await sandbox.spawn("sh", args=["-c", "sort sub/numbers.txt > sorted.txt"], cwd="/home/app/work")
            await child.wait()
            await download(sandbox.fs, "/home/app/work", f"{local}/out")
            print("downloaded:", sorted(os.listdir(f"{local}/out")))
            with open(f"{local}/out/sorted.txt") as file:
                print("sorted:", file.read().split())


asyncio.run(main())
