"""Calls every public method of the unmodified Python SDK against a real server.

Prints one JSON line per row: {"row", "state", "detail"}. A row is named after
the method it calls, perhaps with a variant behind a space. States: "pass";
"not_built" (the server refused clearly); "client_defect" (the SDK cannot do
it with any server); "fail".
"""

import asyncio
import contextlib
import io
import json
import os
import re
import ssl
import stat
import tempfile
import time
import uuid
from datetime import datetime, timezone

import httpx
import websockets
from deno_sandbox import AsyncDenoDeploy, DenoDeploy, sandbox as sandbox_module
from deno_sandbox import apps, console, env, fs, layers, process, revisions
from deno_sandbox import snapshots, timelines, volumes
from deno_sandbox.errors import (
    AuthenticationError,
    HTTPStatusError,
    ProcessAlreadyExited,
    RpcValidationError,
    UnknownRpcMethod,
)

ROW_SECONDS = 60
NOT_BUILT = "NOT_BUILT_YET"
ROWS = []


class ClientDefect(Exception):
    """What the SDK gets wrong by itself, seen happening as described."""


def row(name):
    def register(function):
        ROWS.append((name, function))
        return function

    return register


def is_not_built(error):
    if isinstance(error, UnknownRpcMethod):
        return True
    if isinstance(error, HTTPStatusError):
        return error.status_code == 501 and error.code == NOT_BUILT
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 501
    if isinstance(error, websockets.InvalidStatus):
        return error.response.status_code == 501
    return False


class World:
    """What rows share: a client, a sandbox, and a directory of one's own."""

    def __init__(self, client, sandbox):
        self.client = client
        self.sb = sandbox
        self.fs = sandbox.fs

    async def directory(self):
        path = f"/home/app/{uuid.uuid4().hex}"
        await self.fs.mkdir(path)
        return path

    async def tree(self):
        root = await self.directory()
        await self.fs.mkdir(f"{root}/sub")
        await self.fs.write_text_file(f"{root}/a.txt", "a")
        await self.fs.write_text_file(f"{root}/sub/b.py", "b")
        await self.fs.symlink("a.txt", f"{root}/link")
        return root

    async def file(self, text=""):
        path = f"{await self.directory()}/file"
        await self.fs.write_text_file(path, text)
        return path

    async def handle(self, text=""):
        path = await self.file(text)
        return await self.fs.open(path, read=True, write=True)

    async def shell(self, script, **options):
        options.setdefault("stdout", "piped")
        return await self.sb.spawn("sh", args=["-c", script], **options)

    async def shell_text(self, script, **options):
        child = await self.shell(script, **options)
        text = (await child.stdout.read()).decode()
        status = await child.wait()
        assert status["success"], status
        return text


async def error_of(awaitable):
    try:
        await awaitable
    except Exception as error:
        return error
    raise AssertionError("there was no error")


# The client and its sandboxes


@row("sandbox.create")
async def _(w):
    async with w.client.sandbox.create() as sb:
        assert sb.id.startswith("sbx_") and sb.trace_id and not sb.closed
    assert sb.closed


@row("sandbox.create memory, env, labels, debug, region")
async def _(w):
    options = {"memory_mb": 1280, "env": {"MY_VAR": "x"}, "labels": {"job": "t"}}
    async with w.client.sandbox.create(**options, debug=False, region="ord") as sb:
        child = await sb.spawn("sh", args=["-c", "echo $MY_VAR"], stdout="piped")
        assert await child.stdout.read() == b"x\n"
        await child.wait()


@row("sandbox.create timeout")
async def _(w):
    manager = w.client.sandbox.create(timeout="3s")
    sb = await manager.__aenter__()
    child = await sb.spawn("sleep", args=["600"])
    started = time.monotonic()
    await error_of(child.wait())
    assert time.monotonic() - started < 20
    # The SDK kills the processes it knows when it closes. That is quiet while the
    # connection is still open, and an error of its own on a closed one.
    with contextlib.suppress(Exception):
        await manager.__aexit__(None, None, None)
    await error_of(w.client.sandbox.connect(sb.id).__aenter__())


@row("sandbox.create allow_net nothing")
async def _(w):
    async with w.client.sandbox.create(allow_net=[]) as sb:
        assert (await sb.env.get("HOME")) == "/home/app"


HOST = "api.example.com"


@row("sandbox.create allow_net")
async def _(w):
    async with w.client.sandbox.create(allow_net=[HOST]) as sb:
        own = World(w.client, sb)
        code = f"curl -s -o /dev/null -w '%{{http_code}}' https://{HOST}/"
        assert await own.shell_text(code) == "200"
        assert "egress_denied" in await own.shell_text("curl -s https://evil.example/")


@row("sandbox.create secrets")
async def _(w):
    key = os.environ["API_KEY"]
    secrets = {"API_KEY": {"hosts": [HOST], "value": key}}
    async with w.client.sandbox.create(allow_net=[HOST], secrets=secrets) as sb:
        placeholder = await sb.env.get("API_KEY")
        assert re.fullmatch("DENO_SECRET_PLACEHOLDER_[0-9a-f]{64}", placeholder), placeholder
        call = f'curl -s -H "authorization: $API_KEY" https://{HOST}/'
        echo = await World(w.client, sb).shell_text(call)
        assert placeholder in echo and key not in echo, echo


REFUSED_OPTIONS = {
    "root": {"root": "snap"},
    "volumes": {"volumes": {"/data": "vol"}},
}
for option, options in REFUSED_OPTIONS.items():

    @row(f"sandbox.create {option}")
    async def _(w, options=options):
        async with w.client.sandbox.create(**options):
            pass


@row("sandbox.create port")
async def _(w):
    async with w.client.sandbox.create(port=8000) as own:
        assert own.url is None
    error = await error_of(w.client.sandbox.create(port=65_536).__aenter__())
    assert error.response.status_code == 400, error


@row("sandbox.create with a bad token")
async def _(w):
    stranger = AsyncDenoDeploy({"token": "ddo_wrong"})
    error = await error_of(stranger.sandbox.create().__aenter__())
    assert isinstance(error, AuthenticationError), error


@row("sandbox.connect")
async def _(w):
    path = await w.file("shared")
    async with w.client.sandbox.connect(w.sb.id, debug=False) as other:
        assert await other.fs.read_text_file(path) == "shared"
        await other.fs.write_text_file(path, "back")
    assert await w.fs.read_text_file(path) == "back"


@row("sandbox.list")
async def _(w):
    page = await w.client.sandbox.list()
    mine = [meta for meta in page.items if meta["id"] == w.sb.id]
    assert mine and mine[0]["status"] == "running" and mine[0]["region"] == "ord"
    assert mine[0]["stopped_at"] is None and mine[0]["created_at"]


@row("sandbox.list labels")
async def _(w):
    label = {"job": uuid.uuid4().hex}
    async with w.client.sandbox.create(labels=label) as sb:
        page = await w.client.sandbox.list(labels=label)
        assert [meta["id"] for meta in page.items] == [sb.id]


@row("page.get_next_page")
async def _(w):
    page = await w.client.sandbox.list()
    assert not page.has_more and page.next_cursor is None
    assert await page.get_next_page() is None


@row("page iteration")
async def _(w):
    page = await w.client.sandbox.list()
    assert page.items
    seen = [item async for item in page]
    if not seen:
        raise ClientDefect("iterating over a list skips its first page")


@row("sb.spawn")
async def _(w):
    child = await w.sb.spawn("sh", args=["-c", "echo out; echo err >&2; exit 3"], stdout="piped", stderr="piped")
    assert child.pid > 0
    assert await child.stdout.read() == b"out\n"
    assert await child.stderr.read() == b"err\n"
    assert await child.wait() == {"success": False, "code": 3, "signal": None}


@row("sb.spawn cwd, clear_env")
async def _(w):
    assert await w.shell_text("pwd", cwd="/tmp") == "/tmp\n"
    assert await w.shell_text("echo $FOO", env={"FOO": "bar"}) == "bar\n"


@row("sb.spawn env with underscores")
async def _(w):
    text = await w.shell_text("env", env={"MY_VAR": "x"})
    if "MY_VAR=x" not in text and "MYVar=x" in text:
        raise ClientDefect("the SDK sends MY_VAR as MYVar")
    assert "MY_VAR=x" in text


@row("sb.spawn stdin_data")
async def _(w):
    data = [b"x" * 65536 for _ in range(16)]
    assert await w.shell_text("wc -c", stdin_data=data) == f"{16 * 65536}\n"


@row("sb.spawn null and inherited streams")
async def _(w):
    child = await w.sb.spawn("true", stdin="null", stdout="null", stderr="null")
    assert (await child.wait())["success"]
    child = await w.sb.spawn("true")
    assert (await child.wait())["success"]


@row("sb.spawn what is not there")
async def _(w):
    error = await error_of(w.sb.spawn("no-such-program"))
    assert "NotFound" in str(error), error


@row("sb.spawn as root by sudo")
async def _(w):
    assert await w.shell_text("sudo id -u") == "0\n"


@row("sb.fetch")
async def _(w):
    options = {"allow_net": [HOST], "secrets": {"API_KEY": {"hosts": [HOST], "value": os.environ["API_KEY"]}}}
    async with w.client.sandbox.create(**options) as own:
        response = await own.fetch(f"https://{HOST}/")
        assert response.status_code == 200
        assert ["content-type", "application/json"] in response.headers, response.headers
        denied = await own.fetch("https://evil.example/")
        assert denied.status_code == 403
        assert "Only http" in str(await error_of(own.fetch("ftp://example.com/")))


@row("sb.close")
async def _(w):
    async with w.client.sandbox.create() as sb:
        await sb.spawn("sleep", args=["600"])
        await sb.close()
        assert sb.closed


@row("sb.kill")
async def _(w):
    async with w.client.sandbox.create(timeout="10m") as sb:
        await sb.kill()
        error = await error_of(w.client.sandbox.connect(sb.id).__aenter__())
        assert error.response.status_code == 400, error


@row("sb.extend_timeout")
async def _(w):
    async with w.client.sandbox.create(timeout="60s") as sb:
        granted = await sb.extend_timeout(300)
        left = (granted - datetime.now(timezone.utc)).total_seconds()
        assert 200 < left <= 301, left


def trusting():
    return ssl.create_default_context(cafile=os.environ["INGRESS_ROOT"])


async def visit(url, enough=lambda answer: answer.status_code == 200):
    """What an exposed port answers, asked again until it is enough."""
    place = httpx.URL(url)
    # Names below localhost are not known to every system.
    near = place.copy_with(host="127.0.0.1")
    headers = {"host": place.netloc.decode()}
    async with httpx.AsyncClient(verify=trusting()) as client:
        while True:
            extensions = {"sni_hostname": place.host}
            answer = await client.get(near, headers=headers, extensions=extensions)
            if enough(answer):
                return answer
            await asyncio.sleep(0.1)


@row("sb.expose_http")
async def _(w):
    await w.fs.write_text_file("/tmp/exposed.txt", "exposed")
    url = await w.sb.expose_http(port=8001)
    assert re.fullmatch(r"https://[0-9a-f]{32}\.tombolo\.localhost:\d+", url), url
    early = await visit(url, lambda answer: True)
    assert (early.status_code, early.json()["code"]) == (502, "NOTHING_LISTENS")
    args = ["-m", "http.server", "8001", "--directory", "/tmp"]
    server = await w.sb.spawn("python3", args=args, stdout="null", stderr="null")
    assert (await visit(f"{url}/exposed.txt")).text == "exposed"
    await server.kill()


@row("sb.expose_http pid")
async def _(w):
    child = await deno(w, SERVER)
    assert await child.wait_http_ready()
    url = await w.sb.expose_http(pid=child.pid)
    answer = await visit(url, lambda answer: answer.status_code == 201)
    assert answer.text == "x"
    await child.kill()


@row("sb.expose_http with a WebSocket")
async def _(w):
    child = await deno(w, ECHO)
    assert await child.wait_http_ready()
    place = httpx.URL(await w.sb.expose_http(pid=child.pid))
    opened = websockets.connect(
        f"wss://{place.netloc.decode()}/",
        ssl=trusting(),
        server_hostname=place.host,
        host="127.0.0.1",
        port=place.port,
        max_size=None,
    )
    async with opened as socket:
        for message in ["text", b"bytes", "x" * 300_000]:
            await socket.send(message)
            assert await socket.recv() == message
    await child.kill()


@row("sandbox.create ssh")
async def _(w):
    async with w.client.sandbox.create(ssh=True) as own:
        assert re.fullmatch("[0-9a-f]{32}", (await own.expose_ssh())["username"])


@row("sb.expose_ssh")
async def _(w):
    exposed = await w.sb.expose_ssh()
    assert exposed["hostname"] == "localhost", exposed
    assert isinstance(exposed["port"], int), exposed
    assert re.fullmatch("[0-9a-f]{32}", exposed["username"]), exposed


# Processes


@row("process.wait")
async def _(w):
    child = await w.shell("kill -9 $$")
    status = await child.wait()
    assert status == {"success": False, "code": 137, "signal": "SIGKILL"}, status


@row("process.kill")
async def _(w):
    pid_file = f"{await w.directory()}/pid"
    child = await w.shell(f"echo $$ > {pid_file}; echo ready; exec sleep 600")
    assert await child.stdout.readline() == b"ready\n"
    pid = int(await w.fs.read_text_file(pid_file))
    await child.kill()
    await w.shell_text(f"while kill -0 {pid} 2>/dev/null; do :; done")


@row("process.kill after its end")
async def _(w):
    child = await w.shell("true")
    await child.wait()
    await child.kill()


@row("process streamed output")
async def _(w):
    child = await w.shell("echo one; read line; echo $line", stdin_data=later(b"two\n"))
    assert await child.stdout.readline() == b"one\n"
    assert await child.stdout.readline() == b"two\n"
    await child.wait()


async def later(data):
    yield data


# Files


@row("fs.write_file")
async def _(w):
    path = await w.file()
    await w.fs.write_file(path, b"\x00\xff" * 100_000, mode=0o600)
    assert await w.fs.read_file(path) == b"\x00\xff" * 100_000
    await w.fs.write_file(path, b"!", append=True)
    assert (await w.fs.stat(path))["size"] == 200_001
    assert "AlreadyExists" in str(await error_of(w.fs.write_file(path, b"", create_new=True)))


@row("fs.write_file iterables and files")
async def _(w):
    path = await w.file()

    async def chunks():
        yield b"a"
        yield b"b"

    for data in ([b"a", b"b"], chunks(), io.BytesIO(b"ab")):
        await w.fs.write_file(path, data)
        assert await w.fs.read_file(path) == b"ab"


@row("fs.read_file")
async def _(w):
    path = await w.file("text")
    assert await w.fs.read_file(path) == b"text"
    assert "NotFound" in str(await error_of(w.fs.read_file(path + "x")))


@row("fs.read_file larger than a frame")
async def _(w):
    path = await w.file()
    await w.fs.write_file(path, b"x" * (2 << 20))
    error = await error_of(w.fs.read_file(path))
    assert "Application Error" in str(error), error
    raise ClientDefect("the SDK takes no frame over 1 MiB; open and read instead")


@row("fs.read_text_file")
async def _(w):
    assert await w.fs.read_text_file(await w.file("ä €")) == "ä €"


@row("fs.write_text_file")
async def _(w):
    path = await w.file("one")
    await w.fs.write_text_file(path, " two", append=True, mode=0o640)
    assert await w.fs.read_text_file(path) == "one two"


@row("fs.read_dir")
async def _(w):
    entries = await w.fs.read_dir(await w.tree())
    kinds = {entry["name"]: (entry["is_file"], entry["is_directory"], entry["is_symlink"]) for entry in entries}
    assert kinds == {"a.txt": (True, False, False), "sub": (False, True, False), "link": (False, False, True)}, kinds


@row("fs.remove")
async def _(w):
    root = await w.tree()
    await w.fs.remove(f"{root}/a.txt")
    await error_of(w.fs.remove(root))
    await w.fs.remove(root, recursive=True)
    assert "NotFound" in str(await error_of(w.fs.stat(root)))


@row("fs.mkdir")
async def _(w):
    root = await w.directory()
    await w.fs.mkdir(f"{root}/a/b", recursive=True, mode=0o700)
    assert (await w.fs.stat(f"{root}/a/b"))["is_directory"]
    assert "AlreadyExists" in str(await error_of(w.fs.mkdir(f"{root}/a")))


@row("fs.rename")
async def _(w):
    path = await w.file("x")
    await w.fs.rename(path, path + "2")
    assert await w.fs.read_text_file(path + "2") == "x"


@row("fs.stat")
async def _(w):
    info = await w.fs.stat(f"{await w.tree()}/link")
    assert info["is_file"] and info["size"] == 1 and info["uid"] == 1000 and info["mtime"], info


@row("fs.lstat")
async def _(w):
    assert (await w.fs.lstat(f"{await w.tree()}/link"))["is_symlink"]


@row("fs.chmod")
async def _(w):
    path = await w.file()
    await w.fs.chmod(path, 0o705)
    assert stat.S_IMODE((await w.fs.stat(path))["mode"]) == 0o705


@row("fs.chown")
async def _(w):
    path = await w.file()
    await w.fs.chown(path, 1000, None)
    assert (await w.fs.stat(path))["uid"] == 1000


@row("fs.copy_file")
async def _(w):
    path = await w.file("x")
    await w.fs.copy_file(path, path + "2")
    assert await w.fs.read_text_file(path + "2") == "x"


@row("fs.walk")
async def _(w):
    root = await w.tree()
    found = {entry["path"] for entry in await w.fs.walk(root)}
    assert found == {root, f"{root}/a.txt", f"{root}/link", f"{root}/sub", f"{root}/sub/b.py"}, found
    options = {"include_dirs": False, "include_symlinks": False, "exts": [".py"], "max_depth": 3}
    found = [entry["name"] for entry in await w.fs.walk(root, **options)]
    assert found == ["b.py"], found


@row("fs.expand_glob")
async def _(w):
    root = await w.tree()
    found = await w.fs.expand_glob("**/*.{txt,py}", root=root, include_dirs=False)
    paths = sorted(item if isinstance(item, str) else item["path"] for item in found)
    assert paths == [f"{root}/a.txt", f"{root}/sub/b.py"], paths


@row("fs.link")
async def _(w):
    path = await w.file("x")
    await w.fs.link(path, path + "2")
    assert (await w.fs.stat(path))["nlink"] == 2


@row("fs.symlink")
async def _(w):
    path = await w.file("x")
    await w.fs.symlink(path, path + "2", type="file")
    assert await w.fs.read_text_file(path + "2") == "x"


@row("fs.read_link")
async def _(w):
    assert await w.fs.read_link(f"{await w.tree()}/link") == "a.txt"


@row("fs.real_path")
async def _(w):
    root = await w.tree()
    assert await w.fs.real_path(f"{root}/sub/../link") == f"{root}/a.txt"


@row("fs.make_temp_dir")
async def _(w):
    path = await w.fs.make_temp_dir(prefix="p", suffix="s")
    assert (await w.fs.stat(path))["is_directory"] and path.startswith("/tmp/p") and path.endswith("s")


@row("fs.make_temp_file")
async def _(w):
    root = await w.directory()
    path = await w.fs.make_temp_file(dir=root)
    assert (await w.fs.stat(path))["is_file"] and path.startswith(root)


@row("fs.truncate")
async def _(w):
    path = await w.file("four")
    await w.fs.truncate(path, 2)
    assert await w.fs.read_text_file(path) == "fo"
    await w.fs.truncate(path)
    assert await w.fs.read_text_file(path) == ""


@row("fs.umask")
async def _(w):
    before = await w.fs.umask(0o077)
    assert await w.fs.umask(before) == 0o077
    assert await w.fs.umask() == before


@row("fs.utime")
async def _(w):
    path = await w.file()
    await w.fs.utime(path, "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z")
    assert (await w.fs.stat(path))["mtime"].startswith("2021-01-01T00:00:00")


@row("fs.upload")
async def _(w):
    target = f"{await w.directory()}/up"
    with tempfile.TemporaryDirectory() as local:
        os.mkdir(f"{local}/sub")
        os.symlink("sub/file", f"{local}/link")
        with open(f"{local}/sub/file", "wb") as file:
            file.write(b"\xff" * 100_000)
        await w.fs.upload(local, target)
    assert await w.fs.read_file(f"{target}/link") == b"\xff" * 100_000


@row("fs.download")
async def _(w):
    error = await error_of(w.fs.download("/tmp/x", "/home/app"))
    assert isinstance(error, UnknownRpcMethod), error
    raise ClientDefect("the SDK asks the server to write to the client's disk")


@row("fs.create")
async def _(w):
    path = await w.file("old")
    async with await w.fs.create(path) as handle:
        await handle.write(b"new!")
    assert await w.fs.read_text_file(path) == "new!"


@row("fs.open")
async def _(w):
    path = await w.file("text")
    async with await w.fs.open(path, append=True, write=True) as handle:
        await handle.write(b"+")
    assert await w.fs.read_text_file(path) == "text+"
    assert "NotFound" in str(await error_of(w.fs.open(path + "x")))


@row("file.write")
async def _(w):
    async with await w.handle() as handle:
        assert await handle.write(b"four") == 4


@row("file.read")
async def _(w):
    async with await w.handle("text") as handle:
        assert await handle.read(3) == b"tex"
        assert await handle.read(9) == b"t"
        assert await handle.read(9) == b""


@row("file.seek")
async def _(w):
    async with await w.handle("text") as handle:
        assert await handle.seek(-2, 2) == 2
        assert await handle.read(9) == b"xt"


@row("file.truncate")
async def _(w):
    async with await w.handle("text") as handle:
        await handle.truncate(2)
        assert (await handle.stat())["size"] == 2


@row("file.stat")
async def _(w):
    async with await w.handle("text") as handle:
        info = await handle.stat()
        assert info["size"] == 4 and info["is_file"], info


@row("file.sync")
async def _(w):
    async with await w.handle("text") as handle:
        await handle.sync()


@row("file.sync_data")
async def _(w):
    async with await w.handle("text") as handle:
        await handle.sync_data()


@row("file.utime")
async def _(w):
    async with await w.handle("text") as handle:
        await handle.utime(1e9, 1e9 + 0.5)
        assert (await handle.stat())["mtime"].startswith("2001-09-09T01:46:40.5")


@row("file.lock")
async def _(w):
    path = await w.file()
    async with await w.fs.open(path, write=True) as first, await w.fs.open(path, write=True) as second:
        await first.lock(True)
        waiting = asyncio.ensure_future(second.lock(True))
        assert (await second.stat())["size"] == 0
        assert not waiting.done()
        await first.unlock()
        await waiting


@row("file.unlock")
async def _(w):
    async with await w.handle() as handle:
        await handle.lock(False)
        await handle.unlock()


@row("file.close")
async def _(w):
    handle = await w.handle()
    await handle.close()
    assert "BadResource" in str(await error_of(handle.stat()))


# The environment


@row("env.set")
async def _(w):
    await w.sb.env.set("ROW_SET", "1")
    assert await w.shell_text("echo $ROW_SET") == "1\n"


@row("env.get")
async def _(w):
    await w.sb.env.set("ROW_GET", "1")
    assert await w.sb.env.get("ROW_GET") == "1"
    assert await w.sb.env.get("ROW_NONE") is None


@row("env.as_dict")
async def _(w):
    everything = await w.sb.env.as_dict()
    if "HOME" not in everything and everything.get("h_o_m_e") == "/home/app":
        raise ClientDefect("the SDK returns HOME as h_o_m_e")
    assert everything["HOME"] == "/home/app"


@row("env.delete")
async def _(w):
    await w.sb.env.set("ROW_DELETE", "1")
    await w.sb.env.delete("ROW_DELETE")
    assert await w.sb.env.get("ROW_DELETE") is None


async def deno(w, code, **options):
    return await w.sb.deno.run(code=code, stdout="piped", stderr="piped", **options)


ECHO = """Deno.serve({ port: 0, onListen() {} }, (request) => {
  const { socket, response } = Deno.upgradeWebSocket(request);
  socket.onmessage = ({ data }) => socket.send(data);
  return response;
})"""
SERVER = "Deno.serve({ port: 0, onListen() {} }, () => new Response('x', { status: 201 }))"


@row("deno.run")
async def _(w):
    code = "console.log(Deno.args, await new Response(Deno.stdin.readable).text())"
    child = await deno(w, code, script_args=["a"], stdin_data=[b"in", b"put"])
    assert await child.stdout.read() == b'[ "a" ] input\n'
    assert (await child.wait())["success"]
    child = await deno(w, "let = ;")
    assert b"SyntaxError" in await child.stderr.read()
    assert (await child.wait())["code"] == 1
    assert not await child.wait_http_ready()


@row("deno.run entrypoint")
async def _(w):
    path = await w.file("const a: string = 'x'; console.log(a)")
    await w.fs.rename(path, f"{path}.ts")
    child = await w.sb.deno.run(entrypoint=f"{path}.ts", stdout="piped", stderr="piped")
    assert await child.stdout.read() == b"x\n"
    await child.wait()


@row("deno.run every extension")
async def _(w):
    for extension in ("js", "cjs", "mjs", "ts", "cts", "mts", "jsx", "tsx"):
        child = await deno(w, "console.log(1)", extension=extension)
        assert await child.stdout.read() == b"1\n", extension
        await child.wait()
    error = await error_of(deno(w, "1", extension="py"))
    assert "extension is not one of" in str(error), error
    assert isinstance(await error_of(w.sb.deno.run()), RpcValidationError)


@row("deno_process.wait_http_ready")
async def _(w):
    child = await deno(w, SERVER)
    assert await child.wait_http_ready()
    await child.kill()
    error = await error_of(w.sb._rpc.call("denoHttpWait", {"pid": 999_999}))
    assert isinstance(error, ProcessAlreadyExited), error


@row("deno_process.fetch")
async def _(w):
    child = await deno(w, SERVER)
    response = await child.fetch("https://example.com/a", method="POST")
    assert response.status_code == 201
    assert ["content-length", "1"] in response.headers, response.headers
    await child.kill()
    ended = await deno(w, "1")
    assert "ConnectionRefused" in str(await error_of(ended.fetch("http://h/")))
    await ended.wait()


@row("deno_process.kill")
async def _(w):
    child = await deno(w, SERVER)
    await child.kill()
    await child.kill()


@row("deno.eval")
async def _(w):
    assert await w.sb.deno.eval("const a: number = 20; a * 2 + 2") == 42


@row("deno.repl")
async def _(w):
    repl = await w.sb.deno.repl(script_args=["x"], cwd="/tmp", stdout="piped", stderr="piped")
    async with repl:
        assert await repl.eval("[Deno.args, Deno.cwd()]") == [["x"], "/tmp"]
        await repl.eval("console.log('printed')")
        assert await repl.stdout.readline() == b"printed\n"


@row("repl.eval")
async def _(w):
    async with await w.sb.deno.repl() as repl:
        await repl.eval("let kept: number = 1")
        assert await repl.eval("kept") == 1
        assert await repl.eval("await Promise.resolve({ a: [null, 'x'] })") == {"a": [None, "x"]}
        assert await repl.eval("undefined") is None
        error = str(await error_of(repl.eval("throw new RangeError('m')")))
        assert "'RangeError'" in error and "'m'" in error and "at <anonymous>:1:7" in error, error
        assert "'SyntaxError'" in str(await error_of(repl.eval("let = ;")))
        error = str(await error_of(repl.eval("'x'.repeat(2_000_000)")))
        assert "'RangeError'" in error and "EMSGSIZE" in error, error
        # What cannot be described is still told, and the REPL lives on.
        for code in (
            "throw Object.assign(new Error(), { message: Object.create(null) })",
            "throw { [Symbol.for('Deno.customInspect')]() { throw 1 } }",
            "throw Object.assign(new AggregateError([]), { errors: 7 })",
            "throw new Proxy({}, { getPrototypeOf() { throw 1 } })",
            "throw new AggregateError(Array(9).fill(new Error('\\u{1}'.repeat(9000))))",
        ):
            error = await error_of(repl.eval(code))
            assert error and not isinstance(error, ProcessAlreadyExited), (code, error)
        ended = await error_of(repl.eval("Deno.exit(1)"))
        assert isinstance(ended, ProcessAlreadyExited), ended
    child = await w.shell("sleep 600")
    error = await error_of(w.sb._rpc.call("denoReplEval", {"pid": child.pid, "code": "1"}))
    assert "not a REPL" in str(error), error
    await child.kill()


@row("repl.call")
async def _(w):
    async with await w.sb.deno.repl() as repl:
        await repl.eval("const add = (a, b) => a + b")
        assert await repl.call("add", [1, 2]) == 3
        assert await repl.call("async (a) => [a]", ["x"]) == ["x"]


@row("repl.close")
async def _(w):
    repl = await w.sb.deno.repl()
    await repl.close()
    await repl.close()
    assert isinstance(await error_of(repl.eval("1")), ProcessAlreadyExited)


# What is not built yet: the call must be refused, and at once.


async def drain(items):
    async for _ in items:
        pass


LATER = {
    "deno.deploy": lambda w: w.sb.deno.deploy("app"),
    "build.wait": lambda w: drain(w.client.revisions.progress("r")),
    "build.logs": lambda w: drain(w.client.revisions.build_logs("r")),
    "apps.get": lambda w: w.client.apps.get("a"),
    "apps.list": lambda w: w.client.apps.list(),
    "apps.create": lambda w: w.client.apps.create(slug="a"),
    "apps.update": lambda w: w.client.apps.update("a", slug="b"),
    "apps.delete": lambda w: w.client.apps.delete("a"),
    "apps.logs": lambda w: w.client.apps.logs("a", start="2026-01-01T00:00:00Z"),
    "apps.logs_stream": lambda w: drain(w.client.apps.logs_stream("a", start="2026-01-01T00:00:00Z")),
    "revisions.get": lambda w: w.client.revisions.get("r"),
    "revisions.get of an app": lambda w: w.client.revisions.get("a", "r"),
    "revisions.list": lambda w: w.client.revisions.list("a"),
    "revisions.delete": lambda w: w.client.revisions.delete("r"),
    "revisions.cancel": lambda w: w.client.revisions.cancel("r"),
    "revisions.progress": lambda w: drain(w.client.revisions.progress("r")),
    "revisions.build_logs": lambda w: drain(w.client.revisions.build_logs("r")),
    "revisions.timelines": lambda w: w.client.revisions.timelines("r"),
    "revisions.deploy": lambda w: w.client.revisions.deploy("a", {}),
    "revisions.set_retention": lambda w: w.client.revisions.set_retention("r", "auto"),
    "layers.get": lambda w: w.client.layers.get("l"),
    "layers.list": lambda w: w.client.layers.list(),
    "layers.create": lambda w: w.client.layers.create("l"),
    "layers.update": lambda w: w.client.layers.update("l", slug="m"),
    "layers.delete": lambda w: w.client.layers.delete("l"),
    "layers.apps": lambda w: w.client.layers.apps("l"),
    "timelines.list": lambda w: w.client.timelines.list("a"),
    "volumes.create": lambda w: w.client.volumes.create("v", "ord", "1GB"),
    "volumes.get": lambda w: w.client.volumes.get("v"),
    "volumes.list": lambda w: w.client.volumes.list(),
    "volumes.delete": lambda w: w.client.volumes.delete("v"),
    "volumes.snapshot": lambda w: w.client.volumes.snapshot("v", slug="s"),
    "snapshots.get": lambda w: w.client.snapshots.get("s"),
    "snapshots.list": lambda w: w.client.snapshots.list(),
    "snapshots.delete": lambda w: w.client.snapshots.delete("s"),
}
for name, call in LATER.items():

    @row(name)
    async def _(w, call=call):
        await call(w)


@row("errors of bad parameters")
async def _(w):
    error = await error_of(w.sb._rpc.call("readFile", {"path": 7}))
    assert isinstance(error, RpcValidationError) and error.errors[0]["path"] == ["path"], error


@row("sync twins")
async def _(w):
    await asyncio.to_thread(sync_twins)


def sync_twins():
    client = DenoDeploy()
    with client.sandbox.create() as sb:
        child = sb.spawn("cat", stdout="piped", stdin_data=[b"hi"])
        assert child.stdout.read() == b"hi" and child.wait()["success"]
        sb.fs.write_text_file("/tmp/a", "x")
        with sb.fs.open("/tmp/a") as handle:
            assert handle.read(9) == b"x"
        sb.env.set("A", "b")
        assert sb.env.get("A") == "b"
        assert sb.id in [meta["id"] for meta in client.sandbox.list().items]
        with client.sandbox.connect(sb.id) as other:
            assert other.fs.read_text_file("/tmp/a") == "x"
        sb.kill()


# The rows above must name every public method there is.

SURFACE = {
    "sandbox": sandbox_module.AsyncSandboxApi,
    "sb": sandbox_module.AsyncSandbox,
    "deno": sandbox_module.AsyncSandboxDeno,
    "build": sandbox_module.AsyncBuild,
    "process": process.AsyncChildProcess,
    "deno_process": process.AsyncDenoProcess,
    "repl": process.AsyncDenoRepl,
    "fs": fs.AsyncSandboxFs,
    "file": fs.AsyncFsFile,
    "env": env.AsyncSandboxEnv,
    "page": console.AsyncPaginatedList,
    "apps": apps.AsyncApps,
    "revisions": revisions.AsyncRevisions,
    "layers": layers.AsyncLayers,
    "timelines": timelines.AsyncTimelines,
    "volumes": volumes.AsyncVolumes,
    "snapshots": snapshots.AsyncSnapshots,
}
CONSTRUCTORS = {"process.create", "deno_process.create", "repl.create"}


@row("every public method has a row")
async def _(w):
    named = {name.split(" ")[0] for name, _ in ROWS} | CONSTRUCTORS
    missing = [
        f"{owner}.{method}"
        for owner, type_ in SURFACE.items()
        for method, value in vars(type_).items()
        if not method.startswith("_") and (callable(value) or isinstance(value, classmethod))
        and f"{owner}.{method}" not in named
    ]
    assert not missing, missing


async def outcome(world, function):
    try:
        await asyncio.wait_for(function(world), ROW_SECONDS)
    except ClientDefect as defect:
        return "client_defect", str(defect)
    except asyncio.TimeoutError:
        return "fail", f"no answer within {ROW_SECONDS} s"
    except BaseException as error:
        if is_not_built(error):
            return "not_built", ""
        return "fail", f"{type(error).__name__}: {error}"
    return "pass", ""


async def main():
    client = AsyncDenoDeploy()
    only = os.environ.get("ROWS")
    async with client.sandbox.create(timeout="20m") as sandbox:
        world = World(client, sandbox)
        for name, function in ROWS:
            if only and only not in name:
                continue
            state, detail = await outcome(world, function)
            print(json.dumps({"row": name, "state": state, "detail": detail}), flush=True)
        await sandbox.kill()


asyncio.run(main())
