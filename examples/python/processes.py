"""Run processes: output as it comes, standard input, exit codes, signals."""

import asyncio

from deno_sandbox import AsyncDenoDeploy


async def main():
    client = AsyncDenoDeploy()
    async with client.sandbox.create() as sandbox:
        # Output arrives line by line, while the process runs.
        child = await sandbox.spawn(
            "python3",
            args=["-uc", "for n in range(3): print('line', n)"],
            stdout="piped",
        )
        while line := await child.stdout.readline():
            print("streamed:", line.decode().strip())
        print("exit:", (await child.wait())["code"])

        # Standard input is bytes, a file, or anything that yields bytes.
        child = await sandbox.spawn("sort", stdin_data=[b"pear\n", b"apple\n"], stdout="piped")
        print("sorted:", (await child.stdout.read()).decode().split())
        await child.wait()

        # A process that fails is a status, not an exception.
        child = await sandbox.spawn("sh", args=["-c", "exit 7"])
        print("failed with:", (await child.wait())["code"])

        # Sent by another process, because the SDK's own kill() forgets the child.
        child = await sandbox.spawn("sleep", args=["600"])
        await (await sandbox.spawn("kill", args=["-TERM", str(child.pid)])).wait()
        status = await child.wait()
        print("killed by:", status["signal"], status["code"])


asyncio.run(main())
