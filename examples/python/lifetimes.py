"""How long a sandbox lives: sessions, durations, extensions."""

import asyncio

from deno_sandbox import AsyncDenoDeploy


async def state(client, sandbox_id):
    rows = (await client.sandbox.list()).items
    return next(row["status"] for row in rows if row["id"] == sandbox_id)


async def ends(client, sandbox_id):
    while await state(client, sandbox_id) == "running":
        await asyncio.sleep(0.2)


async def main():
    client = AsyncDenoDeploy()

    # By default a sandbox ends with the connection that made it.
    async with client.sandbox.create() as session:
        print("session:", await state(client, session.id))
    await asyncio.wait_for(ends(client, session.id), 30)
    print("session closed:", await state(client, session.id))

    # With a duration it stays, whoever is connected, until its time is over.
    async with client.sandbox.create(timeout="5s") as timed:
        pass
    print("duration:", await state(client, timed.id))
    await asyncio.wait_for(ends(client, timed.id), 30)
    print("duration over:", await state(client, timed.id))

    # The end can be moved away while it runs, and killed at any time.
    async with client.sandbox.create(timeout="60s") as extended:
        print("extended:", (await extended.extend_timeout(300)).tzinfo is not None)
        await extended.kill()
    print("killed:", await state(client, extended.id))


asyncio.run(main())
