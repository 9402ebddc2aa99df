// Calls every public method of the unmodified JavaScript SDK against a real
// server. Prints one JSON line per row: {row, state, detail}. A row is named
// after the method it calls, perhaps with a variant behind a space. States:
// "pass"; "not_built" (the server refused clearly); "client_defect" (the SDK
// cannot do it with any server); "fail".

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdir, mkdtemp, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import https from "node:https";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// The SDK is installed beside nothing of ours: the directory is an argument.
const require = createRequire(pathToFileURL(join(process.argv[2], "package.json")));
const sdk = require("@deno/sandbox");
const { Client, FsFile, KillController, Sandbox, Snapshot, Volume } = sdk;

const ROW_MS = 60_000;
// VS Code starts two processes of Node and reads tens of megabytes.
const EDITOR_MS = 180_000;
const NOT_BUILT = "NOT_BUILT_YET";
const rows = [];
const row = (name, run, patience = ROW_MS) => rows.push({ name, run, patience });

/** What the SDK gets wrong by itself, seen happening as described. */
class ClientDefect extends Error {}

const isNotBuilt = (error) => {
  for (let cause = error; cause; cause = cause.cause) {
    if (cause.code === NOT_BUILT) return true;
    if (cause instanceof sdk.RpcError && cause.code === -32601) return true;
    if (String(cause.message).includes(NOT_BUILT)) return true;
  }
  return false;
};

const errorOf = (promise) =>
  Promise.resolve(promise).then(
    () => assert.fail("there was no error"),
    (error) => {
      if (error instanceof assert.AssertionError) throw error;
      return error;
    },
  );

const collect = async (items) => {
  const all = [];
  for await (const item of items) all.push(item);
  return all;
};

const text = async (stream) => new TextDecoder().decode(Buffer.concat(await collect(stream)));
const streamOf = (...chunks) => ReadableStream.from(chunks);
const bytes = (string) => new TextEncoder().encode(string);

/** What an exposed port answers, asked again until it is `enough`. */
const visit = async (url, enough = (answer) => answer.status === 200) => {
  const { hostname, port, pathname, search, host } = new URL(url);
  const options = {
    // Names below localhost are not known to every system.
    lookup: (_name, { all }, done) => (all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4)),
    ca: await readFile(process.env.INGRESS_ROOT),
    agent: false,
    headers: { host },
  };
  const once = () => new Promise((resolve, reject) => {
    const request = https.get({ ...options, hostname, port: port || 443, path: pathname + search }, async (response) => {
      resolve({ status: response.statusCode, body: await text(response) });
    });
    request.on("error", reject);
  });
  for (;;) {
    const answer = await once();
    if (enough(answer)) return answer;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};

// Closed when the row that made them ends: Node 20 has no `await using`.
const kept = [];
const keep = (sandbox) => {
  kept.push(sandbox);
  return sandbox;
};

const client = new Client();
const sb = await Sandbox.create({ timeout: "20m" });
const { fs } = sb;

const directory = async () => {
  const path = `/home/app/${randomUUID()}`;
  await fs.mkdir(path);
  return path;
};
const file = async (content = "") => {
  const path = `${await directory()}/file`;
  await fs.writeTextFile(path, content);
  return path;
};
const handle = async (content = "") => fs.open(await file(content), { read: true, write: true });
const tree = async () => {
  const root = await directory();
  await fs.mkdir(`${root}/sub`);
  await fs.writeTextFile(`${root}/a.txt`, "a");
  await fs.writeTextFile(`${root}/sub/b.py`, "b");
  await fs.symlink("a.txt", `${root}/link`);
  return root;
};
const shell = (script, options = {}) =>
  sb.spawn("sh", { args: ["-c", script], stdout: "piped", ...options });
const shellText = async (script, options) => (await (await shell(script, options)).output()).stdoutText;

// Sandboxes

row("Sandbox.create", async () => {
  const own = keep(await Sandbox.create());
  assert.match(own.id, /^sbx_ord_[0-9a-z]{20}$/);
});
row("Sandbox.create memory, env, labels, debug, region", async () => {
  const options = { memory: "1280MiB", env: { MY_VAR: "x" }, labels: { job: "t" }, region: "ord" };
  const own = keep(await Sandbox.create({ ...options, debug: false }));
  assert.equal(await own.sh`echo $MY_VAR`.text(), "x\n");
});
row("Sandbox.create token and endpoints", async () => {
  const { DENO_DEPLOY_TOKEN: token, DENO_DEPLOY_ENDPOINT: apiEndpoint, DENO_SANDBOX_ENDPOINT: sandboxEndpoint } =
    process.env;
  const own = keep(await Sandbox.create({ token, apiEndpoint, sandboxEndpoint: () => sandboxEndpoint }));
  assert.ok(own.id);
});
row("Sandbox.create timeout", async () => {
  const own = await Sandbox.create({ timeout: "3s" });
  const child = await own.spawn("sleep", { args: ["600"] });
  await errorOf(child.status);
  await own.closed;
  assert.equal((await errorOf(Sandbox.connect(own.id))).code, "SANDBOX_ALREADY_TERMINATED");
});
row("Sandbox.create allowNet nothing", async () => {
  const own = keep(await Sandbox.create({ allowNet: [] }));
  assert.ok(own.id);
});
const HOST = "api.example.com";
const textOf = async (own, script) =>
  (await (await own.spawn("sh", { args: ["-c", script], stdout: "piped" })).output()).stdoutText;
row("Sandbox.create allowNet", async () => {
  const own = keep(await Sandbox.create({ allowNet: [HOST] }));
  const code = `curl -s -o /dev/null -w '%{http_code}' https://${HOST}/`;
  assert.equal(await textOf(own, code), "200");
  assert.match(await textOf(own, "curl -s https://evil.example/"), /egress_denied/);
});
row("Sandbox.create secrets", async () => {
  const value = process.env.API_KEY;
  const secrets = { API_KEY: { hosts: [HOST], value } };
  const own = keep(await Sandbox.create({ allowNet: [HOST], secrets }));
  const placeholder = await own.env.get("API_KEY");
  assert.match(placeholder, /^DENO_SECRET_PLACEHOLDER_[0-9a-f]{64}$/);
  const echo = await textOf(own, `curl -s -H "authorization: $API_KEY" https://${HOST}/`);
  assert.ok(echo.includes(placeholder) && !echo.includes(value), echo);
});
const refused = {
  root: { root: "snap" },
  volumes: { volumes: { "/data": "vol" } },
};
for (const [option, options] of Object.entries(refused)) {
  row(`Sandbox.create ${option}`, () => Sandbox.create(options));
}
row("Sandbox.create port", async () => {
  const own = keep(await Sandbox.create({ port: 8000 }));
  await own.fs.writeTextFile("/tmp/a.txt", "served");
  await own.spawn("python3", { args: ["-m", "http.server", "8000", "--directory", "/tmp"], stdout: "null", stderr: "null" });
  assert.equal((await visit(`${own.url}/a.txt`)).body, "served");
});
row("Sandbox.connect", async () => {
  const path = await file("shared");
  const other = keep(await Sandbox.connect({ id: sb.id }));
  assert.equal(await other.fs.readTextFile(path), "shared");
  await other.fs.writeTextFile(path, "back");
  assert.equal(await fs.readTextFile(path), "back");
});
row("sandbox.id", () => assert.equal(sb.id.length, 28));
row("sandbox.ssh", () => assert.equal(sb.ssh, undefined));
row("sandbox.url", () => assert.equal(sb.url, undefined));
row("sandbox.fs", () => assert.ok(sb.fs));
row("sandbox.env", () => assert.ok(sb.env));
row("sandbox.deno", () => assert.ok(sb.deno));
row("sandbox.closed", async () => {
  const own = await Sandbox.create();
  await own.close();
  await own.closed;
});
row("sandbox.spawn", async () => {
  const child = await shell("echo out; echo err >&2; exit 3", { stderr: "piped" });
  const { status, stdoutText, stderrText } = await child.output();
  assert.deepEqual([status.code, status.success, stdoutText, stderrText], [3, false, "out\n", "err\n"]);
});
row("sandbox.spawn cwd, env, clearEnv", async () => {
  assert.equal(await shellText("pwd; echo $MY_VAR", { cwd: "/tmp", env: { MY_VAR: "x" } }), "/tmp\nx\n");
  assert.equal(await shellText("echo $HOME", { clearEnv: true, env: { PATH: "/usr/bin:/bin" } }), "\n");
});
row("sandbox.spawn signal", async () => {
  const abort = new AbortController();
  const child = await shell("echo ready; exec sleep 600", { signal: abort.signal });
  await child.stdout.getReader().read();
  abort.abort();
  assert.equal((await child.status).signal, "SIGTERM");
});
row("sandbox.spawn null and inherited streams", async () => {
  const child = await sb.spawn("true", { stdin: "null", stdout: "null", stderr: "null" });
  assert.deepEqual([child.stdin, child.stdout, child.stderr], [null, null, null]);
  assert.ok((await child.status).success);
  assert.ok((await (await sb.spawn("true")).status).success);
});
row("sandbox.spawn what is not there", async () => {
  assert.equal((await errorOf(sb.spawn("no-such-program"))).constructor.name, "NotFound");
});
row("sandbox.sh", async () => {
  assert.equal(await sb.sh`echo ${"a b"}`.text(), "a b\n");
});
row("sh chained options", async () => {
  const { status } = await sb.sh`pwd > /tmp/chained`.cwd("/tmp").noThrow();
  assert.ok(status.success);
  const where = await fs.readTextFile("/tmp/chained");
  if (where === "/home/app\n") throw new ClientDefect("of several options in a chain the SDK keeps the last");
  assert.equal(where, "/tmp\n");
});
row("sh.text", async () => assert.equal(await sb.sh`echo hi`.text(), "hi\n"));
row("sh.json", async () => assert.deepEqual(await sb.sh`echo '{"a": 1}'`.json(), { a: 1 }));
row("sh.result", async () => assert.ok((await sb.sh`true`.result()).status.success));
row("sh.then", async () => assert.equal((await errorOf(sb.sh`exit 4`)).code, 4));
row("sh.noThrow", async () => assert.equal((await sb.sh`exit 4`.noThrow()).status.code, 4));
row("sh.sudo", async () => {
  await sb.sh`id -u > /tmp/sudo`.sudo();
  assert.equal(await fs.readTextFile("/tmp/sudo"), "0\n");
});
row("sh.cwd", async () => {
  await sb.sh`pwd > /tmp/cwd`.cwd("/tmp");
  assert.equal(await fs.readTextFile("/tmp/cwd"), "/tmp\n");
});
row("sh.env", async () => {
  await sb.sh`echo $MY_VAR > /tmp/env`.env("MY_VAR", "x");
  assert.equal(await fs.readTextFile("/tmp/env"), "x\n");
});
row("sh.stdout", async () => assert.equal((await sb.sh`echo x`.stdout("null")).stdoutText, null));
row("sh.stderr", async () => assert.equal((await sb.sh`echo x >&2`.stderr("piped")).stderrText, "x\n"));
row("sh.spawn", async () => {
  const child = await sb.sh`echo x`.stdout("piped").spawn();
  assert.equal((await child.output()).stdoutText, "x\n");
});
row("sh.signal", async () => {
  const controller = new KillController();
  const child = await sb.sh`sleep 600`.noThrow().signal(controller.signal).spawn();
  controller.kill("SIGKILL");
  assert.equal((await child.output()).status.code, 137);
});
row("sandbox.fetch", async () => {
  const value = process.env.API_KEY;
  const own = keep(await Sandbox.create({ allowNet: [HOST], secrets: { API_KEY: { hosts: [HOST], value } } }));
  const authorization = await own.env.get("API_KEY");
  const response = await own.fetch(`https://${HOST}/x`, { headers: { authorization } });
  assert.deepEqual([response.status, response.headers.get("content-type")], [200, "application/json"]);
  // The host saw the value; what it said of it is the placeholder again.
  assert.deepEqual(await response.json(), { path: "/x", authorization, body: "" });
  const denied = await own.fetch("https://evil.example/");
  assert.equal(denied.status, 403);
  assert.equal((await denied.json()).error, "egress_denied");
  const error = await errorOf(own.fetch("ftp://example.com/"));
  assert.ok(error instanceof TypeError && /Only http/.test(error.message), error.message);
});
row("sandbox.close", async () => {
  const own = await Sandbox.create();
  await own.close();
  await errorOf(own.fs.readTextFile("/etc/hostname"));
});
row("sandbox.kill", async () => {
  const own = await Sandbox.create({ timeout: "10m" });
  await own.kill();
  assert.equal((await errorOf(Sandbox.connect(own.id))).code, "SANDBOX_ALREADY_TERMINATED");
});
row("sandbox.extendTimeout", async () => {
  const own = keep(await Sandbox.create({ timeout: "60s" }));
  const left = ((await own.extendTimeout("5m")) - Date.now()) / 1000;
  assert.ok(left > 200 && left <= 301, `${left}`);
});
row("sandbox.exposeHttp", async () => {
  await fs.writeTextFile("/tmp/exposed.txt", "exposed");
  const url = await sb.exposeHttp({ port: 8001 });
  assert.match(url, /^https:\/\/[0-9a-f]{32}\.tombolo\.localhost:\d+$/);
  const early = await visit(url, () => true);
  assert.deepEqual([early.status, JSON.parse(early.body).code], [502, "NOTHING_LISTENS"]);
  const server = await sb.spawn("python3", { args: ["-m", "http.server", "8001", "--directory", "/tmp"], stdout: "null", stderr: "null" });
  const answer = await visit(`${url}/exposed.txt`);
  assert.deepEqual([answer.status, answer.body], [200, "exposed"]);
  assert.notEqual(await sb.exposeHttp({ port: 8001 }), url);
  await server.kill();
});
row("sandbox.exposeHttp pid", async () => {
  const process = await serving("(request) => new Response(request.headers.get('x-forwarded-proto'))");
  assert.ok(await process.httpReady);
  const url = await sb.exposeHttp({ pid: process.pid });
  assert.equal((await visit(url)).body, "https");
  await process.kill();
  assert.equal((await visit(url, (answer) => answer.status === 502)).status, 502);
});
row("Sandbox.create ssh", async () => {
  const own = keep(await Sandbox.create({ ssh: true }));
  assert.match(own.ssh.username, /^[0-9a-f]{32}$/);
});
row("sandbox.exposeSsh", async () => {
  const { hostname, username } = await sb.exposeSsh();
  assert.equal(hostname, "localhost");
  assert.match(username, /^[0-9a-f]{32}$/);
  assert.notEqual((await sb.exposeSsh()).username, username);
});
row("sandbox.exposeVscode", async () => {
  const editorSettings = { "editor.fontSize": 20 };
  const options = { env: { MINE: "1" }, editorSettings, disableStopButton: true };
  const settings = "/home/app/.local/share/code-server/User/settings.json";
  await fs.mkdir("/home/app/.local/share/code-server/User", { recursive: true });
  await fs.writeTextFile(settings, "no settings");
  const refusal = await errorOf(sb.exposeVscode("/home/app", options));
  assert.match(String(refusal), /left as they are.*line 1/);
  await fs.writeTextFile(settings, '{\n  // Mine.\n  "files.eol": "auto",\n}\n');
  const code = await sb.exposeVscode("/home/app", options);
  const page = await visit(`${code.url}/?folder=/home/app`);
  assert.match(page.body, /vscode-workbench-web-configuration/);
  const expected = '{\n  // Mine.\n  "files.eol": "auto",\n  "editor.fontSize": 20,\n}\n';
  assert.equal(await fs.readTextFile(settings), expected);
  // The SDK gives VS Code its own token, which must not be anywhere in the sandbox.
  const look = `cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | sort -u`;
  const seen = (await shellText(`sudo sh -c "${look}"`)).split("\n");
  assert.ok(seen.includes("MINE=1"));
  assert.deepEqual(seen.filter((line) => /SANDBOX_TOKEN|ddo_/.test(line)), []);
  const output = text(code.stdout);
  const errors = text(code.stderr);
  await code.kill();
  assert.deepEqual(await code.status, { success: true, code: 0, signal: null, oom: false });
  assert.match(await output, /HTTP server listening on http:\/\/127\.0\.0\.1:\d+/);
  assert.equal(typeof (await errors), "string");
  assert.match(String(await errorOf(sb.exposeVscode("/"))), /root/);
  assert.equal((await errorOf(sb.exposeVscode("/nowhere"))).constructor.name, "NotFound");
}, EDITOR_MS);
row("sandbox.deploy", () => sb.deploy("app"));

// Processes

row("process.pid", async () => assert.ok((await sb.spawn("true")).pid > 0));
row("process.stdin", async () => {
  const child = await sb.spawn("wc", { args: ["-c"], stdin: "piped", stdout: "piped" });
  const writer = child.stdin.getWriter();
  for (let i = 0; i < 16; i++) await writer.write(new Uint8Array(65536));
  await writer.close();
  assert.equal((await child.output()).stdoutText, `${16 * 65536}\n`);
});
row("process.stdout", async () => {
  const child = await shell("echo one; read line; echo $line", { stdin: "piped" });
  const reader = child.stdout.getReader();
  assert.equal(Buffer.from((await reader.read()).value).toString(), "one\n");
  const writer = child.stdin.getWriter();
  await writer.write(bytes("two\n"));
  assert.equal(Buffer.from((await reader.read()).value).toString(), "two\n");
  assert.ok((await child.status).success);
});
row("process.stdout cancelled", async () => {
  // Without end: only a closed pipe stops it.
  const child = await sb.spawn("yes", { stdout: "piped" });
  await child.stdout.cancel(new Error("enough"));
  assert.equal((await child.status).signal, "SIGPIPE");
});
row("process.stderr", async () => {
  const child = await shell("echo x >&2", { stderr: "piped" });
  assert.equal(await text(child.stderr), "x\n");
});
row("process.status", async () => {
  const { success, code, signal } = await (await shell("kill -9 $$")).status;
  assert.deepEqual([success, code, signal], [false, 137, "SIGKILL"]);
});
row("process.kill", async () => {
  const child = await shell("echo ready; exec sleep 600");
  await child.stdout.getReader().read();
  await child.kill("SIGINT");
  assert.equal((await child.status).signal, "SIGINT");
  await child.kill();
});
row("process.output", async () => {
  const { stdout, stderr } = await (await shell("printf '\\377'", { stderr: "null" })).output();
  assert.deepEqual([[...stdout], stderr], [[255], null]);
});

// Files

row("fs.readFile", async () => {
  const path = await file("text");
  assert.equal(Buffer.from(await fs.readFile(path)).toString(), "text");
  assert.equal((await errorOf(fs.readFile(`${path}x`))).constructor.name, "NotFound");
});
row("fs.readFile aborted", async () => {
  const path = await file();
  await fs.truncate(path, 32 << 20);
  const abort = new AbortController();
  const reading = fs.readFile(path, { signal: abort.signal });
  abort.abort();
  assert.equal((await errorOf(reading)).name, "AbortError");
});
row("fs.writeFile", async () => {
  const path = await file();
  await fs.writeFile(path, new Uint8Array(200_000).fill(255), { mode: 0o600 });
  await fs.writeFile(path, streamOf(bytes("!"), bytes("?")), { append: true });
  const content = await fs.readFile(path);
  assert.equal(content.length, 200_002);
  assert.equal((await errorOf(fs.writeFile(path, bytes(""), { createNew: true }))).constructor.name, "AlreadyExists");
});
row("fs.readTextFile", async () => assert.equal(await fs.readTextFile(await file("ä €")), "ä €"));
row("fs.readTextFile of megabytes", async () => {
  const content = "x".repeat(4 << 20);
  assert.equal((await fs.readTextFile(await file(content))).length, content.length);
});
row("fs.writeTextFile", async () => {
  const path = await file("one");
  await fs.writeTextFile(path, streamOf(" two", " three"), { append: true });
  assert.equal(await fs.readTextFile(path), "one two three");
});
row("fs.readDir", async () => {
  const entries = await collect(fs.readDir(await tree()));
  const kinds = entries.map((e) => `${e.name} ${e.isFile} ${e.isDirectory} ${e.isSymlink}`).sort();
  assert.deepEqual(kinds, ["a.txt true false false", "link false false true", "sub false true false"]);
});
row("fs.remove", async () => {
  const root = await tree();
  await fs.remove(`${root}/a.txt`);
  await errorOf(fs.remove(root));
  await fs.remove(root, { recursive: true });
  assert.equal((await errorOf(fs.stat(root))).constructor.name, "NotFound");
});
row("fs.mkdir", async () => {
  const root = await directory();
  await fs.mkdir(`${root}/a/b`, { recursive: true, mode: 0o700 });
  assert.ok((await fs.stat(`${root}/a/b`)).isDirectory);
  assert.equal((await errorOf(fs.mkdir(`${root}/a`))).constructor.name, "AlreadyExists");
});
row("fs.rename", async () => {
  const path = await file("x");
  await fs.rename(path, `${path}2`);
  assert.equal(await fs.readTextFile(`${path}2`), "x");
});
row("fs.stat", async () => {
  const info = await fs.stat(`${await tree()}/link`);
  assert.deepEqual([info.isFile, info.size, info.uid, info.isSocket], [true, 1, 1000, false]);
  assert.ok(Math.abs(info.mtime - Date.now()) < 60_000);
});
row("fs.lstat", async () => assert.ok((await fs.lstat(`${await tree()}/link`)).isSymlink));
row("fs.chmod", async () => {
  const path = await file();
  await fs.chmod(path, 0o705);
  assert.equal((await fs.stat(path)).mode & 0o777, 0o705);
});
row("fs.chown", async () => {
  const path = await file();
  await fs.chown(path, 1000, null);
  assert.equal((await errorOf(fs.chown(path, 0, 0))).constructor.name, "PermissionDenied");
});
row("fs.copyFile", async () => {
  const path = await file("x");
  await fs.copyFile(path, `${path}2`);
  assert.equal(await fs.readTextFile(`${path}2`), "x");
});
row("fs.walk", async () => {
  const root = await tree();
  const all = (await collect(fs.walk(root))).map((e) => e.path).sort();
  assert.deepEqual(all, [root, `${root}/a.txt`, `${root}/link`, `${root}/sub`, `${root}/sub/b.py`]);
  const options = { includeDirs: false, includeSymlinks: false, exts: [".py"], match: [/sub/], skip: [/a\.txt$/] };
  assert.deepEqual((await collect(fs.walk(root, options))).map((e) => e.name), ["b.py"]);
});
row("fs.expandGlob", async () => {
  const root = await tree();
  const found = await collect(fs.expandGlob("**/*.{txt,py}", { root, includeDirs: false, exclude: ["none"] }));
  assert.deepEqual(found.map((e) => e.path).sort(), [`${root}/a.txt`, `${root}/sub/b.py`]);
});
row("fs.link", async () => {
  const path = await file("x");
  await fs.link(path, `${path}2`);
  assert.equal((await fs.stat(path)).nlink, 2);
});
row("fs.symlink", async () => {
  const path = await file("x");
  await fs.symlink(path, `${path}2`, { type: "file" });
  assert.equal(await fs.readTextFile(`${path}2`), "x");
});
row("fs.readLink", async () => assert.equal(await fs.readLink(`${await tree()}/link`), "a.txt"));
row("fs.realPath", async () => {
  const root = await tree();
  assert.equal(await fs.realPath(`${root}/sub/../link`), `${root}/a.txt`);
});
row("fs.makeTempDir", async () => {
  const path = await fs.makeTempDir({ prefix: "p", suffix: "s" });
  assert.match(path, /^\/tmp\/p.+s$/);
  assert.ok((await fs.stat(path)).isDirectory);
});
row("fs.makeTempFile", async () => {
  const dir = await directory();
  const path = await fs.makeTempFile({ dir });
  assert.ok(path.startsWith(dir) && (await fs.stat(path)).isFile);
});
row("fs.truncate", async () => {
  const path = await file("four");
  await fs.truncate(path, 2);
  assert.equal(await fs.readTextFile(path), "fo");
  await fs.truncate(path);
  assert.equal(await fs.readTextFile(path), "");
});
row("fs.umask", async () => {
  const before = await fs.umask(0o077);
  assert.equal(await fs.umask(before), 0o077);
  assert.equal(await fs.umask(), before);
});
row("fs.utime", async () => {
  const path = await file();
  await fs.utime(path, new Date("2020-01-01"), new Date("2021-01-01"));
  assert.equal((await fs.stat(path)).mtime.toISOString(), "2021-01-01T00:00:00.000Z");
});
row("fs.create", async () => {
  const path = await file("old");
  const opened = await fs.create(path);
  await opened.write(bytes("new!"));
  await opened.close();
  assert.equal(await fs.readTextFile(path), "new!");
});
row("fs.open", async () => {
  const path = await file("text");
  const opened = await fs.open(path, { append: true });
  await opened.write(bytes("+"));
  await opened.close();
  assert.equal(await fs.readTextFile(path), "text+");
  assert.equal((await errorOf(fs.open(`${path}x`))).constructor.name, "NotFound");
});
const withLocal = async (use) => {
  const local = await mkdtemp(join(tmpdir(), "conformance-"));
  try {
    await use(local);
  } finally {
    await rm(local, { recursive: true });
  }
};
const uploaded = async (local) => {
  await mkdir(join(local, "up/sub"), { recursive: true });
  await writeFile(join(local, "up/sub/file"), Buffer.alloc(100_000, 255));
  await symlink("sub/file", join(local, "up/link"));
  const target = await directory();
  await fs.upload(join(local, "up"), target);
  return `${target}/up`;
};
row("fs.upload", () =>
  withLocal(async (local) => {
    const target = await uploaded(local);
    assert.equal((await fs.readFile(`${target}/link`)).length, 100_000);
  }));
row("fs.download", () =>
  withLocal(async (local) => {
    const target = join(local, "down");
    await mkdir(target);
    await fs.download(await uploaded(local), target);
    assert.equal((await readFile(join(target, "up/sub/file"))).length, 100_000);
    assert.equal(await readlink(join(target, "up/link")), "sub/file");
  }));

// File handles

const withHandle = (content, use) => async () => {
  const opened = await handle(content);
  try {
    await use(opened);
  } finally {
    await opened.close();
  }
};
row("file.write", withHandle("", async (f) => assert.equal(await f.write(bytes("four")), 4)));
row("file.read", withHandle("text", async (f) => {
  const buffer = new Uint8Array(9);
  assert.equal(await f.read(buffer), 4);
  assert.equal(await f.read(buffer), null);
}));
row("file.seek", withHandle("text", async (f) => {
  assert.equal(await f.seek(-1, 2), 3);
  assert.equal(await f.seek(2n, 0), 2);
}));
row("file.truncate", withHandle("text", async (f) => {
  await f.truncate(2);
  assert.equal((await f.stat()).size, 2);
}));
row("file.stat", withHandle("text", async (f) => assert.equal((await f.stat()).size, 4)));
row("file.sync", withHandle("", (f) => f.sync()));
row("file.syncData", withHandle("", (f) => f.syncData()));
row("file.utime", withHandle("", async (f) => {
  await f.utime(new Date("2020-01-01"), new Date("2021-01-01"));
  assert.equal((await f.stat()).mtime.getUTCFullYear(), 2021);
}));
row("file.lock", async () => {
  const path = await file();
  const [first, second] = [await fs.open(path, { write: true }), await fs.open(path, { write: true })];
  await first.lock(true);
  let locked = false;
  const waiting = second.lock(true).then(() => (locked = true));
  assert.equal((await second.stat()).size, 0);
  assert.equal(locked, false);
  await first.unlock();
  await waiting;
  await first.close();
  await second.close();
});
row("file.unlock", withHandle("", async (f) => {
  await f.lock();
  await f.unlock();
}));
row("file.readable", async () => assert.equal(await text((await handle("text")).readable), "text"));
row("file.writable", async () => {
  const path = await file();
  await streamOf(bytes("a"), bytes("b")).pipeTo((await fs.open(path, { write: true })).writable);
  assert.equal(await fs.readTextFile(path), "ab");
});
row("file.close", async () => {
  const opened = await handle();
  await opened.close();
  assert.equal((await errorOf(opened.stat())).constructor.name, "BadResource");
});

// The environment

row("env.set", async () => {
  await sb.env.set("ROW_SET", "1");
  assert.equal(await shellText("echo $ROW_SET"), "1\n");
});
row("env.get", async () => {
  assert.equal(await sb.env.get("HOME"), "/home/app");
  assert.equal((await sb.env.get("ROW_NONE")) ?? undefined, undefined);
});
row("env.toObject", async () => assert.equal((await sb.env.toObject()).HOME, "/home/app"));
row("env.delete", async () => {
  await sb.env.set("ROW_DELETE", "1");
  await sb.env.delete("ROW_DELETE");
  assert.equal((await sb.env.toObject()).ROW_DELETE, undefined);
});

// Deno

const quiet = { stdout: "piped", stderr: "piped" };
const run = (options) => sb.deno.run({ ...quiet, ...options });
const serving = (handler) => run({ code: `Deno.serve({ port: 0, onListen() {} }, ${handler});` });
const timesOut = (promise, ms = 20_000) =>
  Promise.race([promise, new Promise((_, reject) => setTimeout(() => reject(new Error("timed out")), ms))]);

row("deno.run", async () => {
  const process = await run({ code: "console.log(Deno.args, Deno.cwd()); Deno.exit(3)", scriptArgs: ["a", "--b"], cwd: "/tmp" });
  const { stdoutText, status } = await process.output();
  assert.deepEqual([stdoutText, status.code], ['[ "a", "--b" ] /tmp\n', 3]);
});
row("deno.run every extension", async () => {
  const os = { cjs: 'const os = require("node:os");', cts: 'const os: any = require("node:os");' };
  const typed = { ts: "const a: number = 1;", mts: "enum A { B }", tsx: "const a = 1 as number;" };
  const extensions = ["js", "cjs", "mjs", "ts", "cts", "mts", "jsx", "tsx"];
  await Promise.all(extensions.map(async (extension) => {
    const code = `${os[extension] ?? 'import os from "node:os";'} ${typed[extension] ?? ""} console.log(typeof os.cpus);`;
    const { stdoutText, stderrText } = await (await run({ code, extension })).output();
    assert.equal(stdoutText, "function\n", `${extension}: ${stderrText}`);
  }));
});
row("deno.run stdin, env, clearEnv", async () => {
  const code = "console.log(Deno.env.get('A'), Deno.env.get('HOME'), await new Response(Deno.stdin.readable).text())";
  const process = await run({ code, stdin: "piped", env: { A: "1" }, clearEnv: true });
  const writer = process.stdin.getWriter();
  await writer.write(bytes("typed"));
  await writer.close();
  assert.equal((await process.output()).stdoutText, "1 undefined typed\n");
});
row("deno.run long code", async () => {
  const code = `console.log(${JSON.stringify("x".repeat(1_000_000))}.length)`;
  assert.equal((await (await run({ code })).output()).stdoutText, "1000000\n");
});
row("deno.run code that is wrong", async () => {
  const process = await run({ code: "let = ;" });
  assert.equal(await process.httpReady, false);
  const { status, stderrText } = await process.output();
  assert.equal(status.code, 1);
  assert.match(stderrText, /Expected|expected/);
  assert.equal((await errorOf(run({ code: "1", extension: "py" }))).name, "ZodError");
  const missing = await (await run({ entrypoint: "none.ts" })).output();
  assert.match(missing.stderrText, /Module not found/);
});
/** Writes until the restart is told: Deno begins to watch after the program has begun to run, so that
 * a change right after its first output may not be seen. */
const changes = async (path, text, restarted) => {
  for (let tries = 0; tries < 20; tries++) {
    await fs.writeTextFile(path, text);
    const waited = new Promise((resolve) => setTimeout(resolve, 1000, "waited"));
    if (await Promise.race([restarted, waited]) !== "waited") return;
  }
  throw new Error("the program is not started anew");
};
row("deno.run entrypoint, watch", async () => {
  const path = await file("console.log('one')");
  await fs.rename(path, `${path}.ts`);
  const process = await run({ entrypoint: `${path}.ts`, watch: true });
  const restarted = new Promise((resolve) => process.addEventListener("restart", resolve));
  const reader = process.stdout.getReader();
  assert.equal(new TextDecoder().decode((await reader.read()).value), "one\n");
  await changes(`${path}.ts`, "console.log('two')", restarted);
  // Once for each change that was seen by then.
  assert.match(new TextDecoder().decode((await reader.read()).value), /^(two\n)+$/);
  await process.kill();
  assert.equal((await process.status).signal, "SIGTERM");
});
row("denoProcess.httpReady", async () => {
  const process = await serving("() => new Response()");
  assert.equal(await process.httpReady, true);
  const node = await run({ code: "import http from 'node:http'; http.createServer().listen(0)" });
  assert.equal(await node.httpReady, true);
  const ends = await run({ code: "1" });
  assert.equal(await ends.httpReady, false);
  const killed = await run({ code: "setInterval(() => {}, 1000)" });
  await killed.kill();
  assert.equal(await killed.httpReady, false);
  await Promise.all([process, node].map((server) => server.kill()));
});
row("denoProcess.fetch", async () => {
  const process = await serving(`async (request) => {
    const { pathname, host } = new URL(request.url);
    if (pathname === "/moved") return Response.redirect(new URL("/there", request.url));
    if (pathname === "/none") return new Response(null, { status: 204 });
    const headers = { "x-host": host, "x-method": request.method };
    return new Response(await request.text() || pathname, { headers });
  }`);
  // At once, before it listens.
  const posted = await process.fetch("https://example.com/a", { method: "POST", body: "b".repeat(200_000) });
  assert.deepEqual([posted.headers.get("x-host"), posted.headers.get("x-method")], ["example.com", "POST"]);
  assert.equal((await posted.text()).length, 200_000);
  assert.equal(await (await process.fetch("http://h/moved")).text(), "/there");
  const manual = await process.fetch("http://h/moved", { redirect: "manual" });
  assert.deepEqual([manual.status, manual.headers.get("location")], [302, "http://h/there"]);
  const none = await process.fetch("http://h/none");
  assert.deepEqual([none.status, none.body], [204, null]);
  await process.kill();
  await process.status;
  const error = await errorOf(process.fetch("http://h/"));
  assert.deepEqual([error.constructor.name, error.code], ["ConnectionRefused", "ECONNREFUSED"]);
});
row("denoProcess.fetch aborted, broken off", async () => {
  const process = await serving(`(request) => {
    if (request.url.endsWith("/never")) return new Promise(() => {});
    return new Response(new ReadableStream({ start: (it) => it.enqueue(new Uint8Array(9)) }));
  }`);
  await process.httpReady;
  for (const path of ["never", "body"]) {
    const controller = new AbortController();
    const reading = process.fetch(`http://h/${path}`, { signal: controller.signal })
      .then((response) => response.arrayBuffer());
    setTimeout(() => controller.abort(), 300);
    assert.equal((await timesOut(errorOf(reading))).name, "AbortError", path);
  }
  const reader = (await process.fetch("http://h/body")).body.getReader();
  assert.equal((await reader.read()).value.length, 9);
  await process.kill("SIGKILL");
  await timesOut(errorOf(reader.read()));
});
row("deno.eval", async () => {
  assert.equal(await sb.deno.eval("const a: number = 20; a * 2 + 2"), 42);
});
let shared;
const repl = async () => shared ??= await sb.deno.repl(quiet);
row("deno.repl", async () => {
  const own = await sb.deno.repl({ ...quiet, scriptArgs: ["x"], env: { A: "1" }, cwd: "/tmp" });
  assert.deepEqual(await own.eval("[Deno.args, Deno.env.get('A'), Deno.cwd()]"), [["x"], "1", "/tmp"]);
  await own.eval("console.log('printed'); console.error('{\"ok\":1}')");
  await own.close();
  const { stdoutText, stderrText, status } = await own.output();
  assert.deepEqual([stdoutText, stderrText, status.code], ["printed\n", '{"ok":1}\n', 0]);
});
row("repl.eval", async () => {
  const it = await repl();
  await fs.writeTextFile("/home/app/imported.ts", "export const imported: number = 5; export default 6;");
  const cases = [
    ["1 + 1", 2],
    ["let kept = 1; kept", 1],
    ["let kept = 2; kept", 2],
    ["kept", 2],
    ["await Promise.resolve('awaited')", "awaited"],
    ["Promise.resolve('too')", "too"],
    ["enum Color { Red, Green }; Color.Green", 1],
    ["interface X {}; (3 as any)", 3],
    ["import six, { imported as five } from './imported.ts'; six + five", 11],
    ["(await import('./imported.ts')).imported", 5],
    ["undefined", null],
    ["() => 1", null],
    ["", null],
    ["({ a: [1, null, 'x'], b: undefined })", { a: [1, null, "x"] }],
    ["new Map([['k', new Set([1])]])", [["k", [1]]]],
    ["new Uint8Array([1, 2])", [1, 2]],
    ["NaN", null],
    ["'\\ud83d\\ude00\\u0000'", "\u{1f600}\0"],
  ];
  for (const [code, value] of cases) assert.deepEqual(await it.eval(code), value, code);
  const all = await Promise.all([1, 2, 3].map((n) => it.eval(`await new Promise((r) => setTimeout(r, ${400 - n * 100})); ${n}`)));
  assert.deepEqual(all, [1, 2, 3]);
});
row("repl.eval large values", async () => {
  const it = await repl();
  assert.equal((await it.eval("'x'.repeat(3_000_000)")).length, 3_000_000);
  const error = await errorOf(it.eval("'x'.repeat(20_000_000)"));
  assert.ok(error instanceof RangeError && error.code === "EMSGSIZE", error.message);
});
row("repl.eval what is thrown", async () => {
  const it = await repl();
  const cases = [
    ["throw new RangeError('m')", "RangeError", "m"],
    ["await Promise.reject(new TypeError('m'))", "TypeError", "m"],
    ["let = ;", "SyntaxError", /Unexpected/],
    ["nowhere", "ReferenceError", /nowhere is not defined/],
    ["Deno.readTextFileSync('/nowhere')", "NotFound", /No such file/],
    ["await import('./nowhere.ts')", "TypeError", /Module not found/],
    ["new AbortController().signal.throwIfAborted() ?? AbortSignal.abort().throwIfAborted()", "DOMException", /abort/],
    ["throw 'text'", "Error", /text/],
    ["1n", "TypeError", /BigInt/],
    ["const ring = {}; ring.ring = ring; ring", "TypeError", /circular/],
  ];
  for (const [code, name, message] of cases) {
    const error = await errorOf(it.eval(code));
    assert.equal(error.constructor.name, name, code);
    assert.match(error.message, new RegExp(message), code);
  }
  const error = await errorOf(it.eval("function thrower() { throw new Error('m', { cause: new RangeError('c') }); }\nthrower()"));
  assert.match(error.stack, /at thrower \(<anonymous>:1:28\)/);
  assert.doesNotMatch(error.stack, /run\/tombolo|ext:core/);
  assert.ok(error.cause instanceof RangeError);
  // What nobody waits for ends nothing.
  await it.eval("setTimeout(() => { throw new Error('late'); }, 0); Promise.reject(new Error('lost')); 0");
  assert.equal(await it.eval("await new Promise((resolve) => setTimeout(resolve, 50)); 'alive'"), "alive");
});
row("repl.call", async () => {
  const it = await repl();
  await it.eval("function add(a: number, b: number) { return a + b; }");
  assert.equal(await it.call("add", 1, 2), 3);
  assert.deepEqual(await it.call("async (...all) => all", { my_key: 1 }, [null], "x"), [{ my_key: 1 }, [null], "x"]);
  assert.equal((await errorOf(it.call("none"))).constructor.name, "ReferenceError");
  assert.match((await errorOf(it.call("3"))).message, /not a function/);
  assert.match((await errorOf(it.call("() => { throw new RangeError('m') }"))).message, /^m$/);
});
row("repl.close", async () => {
  const it = await repl();
  await it.close();
  await it.close();
  const gone = await errorOf(it.eval("1"));
  assert.ok(gone instanceof TypeError && gone.code === "ENOENT", gone.message);
  assert.equal((await it.status).code, 0);
});
row("repl.eval that ends, hangs or is killed", async () => {
  const [exits, hangs, killed] = await Promise.all([1, 2, 3].map(() => sb.deno.repl(quiet)));
  const pending = [
    exits.eval("Deno.exit(3)"),
    hangs.eval("console.log('hangs'); for (;;) {}"),
    killed.eval("await new Promise(() => {})"),
  ].map((promise) => errorOf(promise));
  // One that is idle yet would just end.
  await timesOut(hangs.stdout.getReader().read());
  assert.equal((await timesOut(exits.status)).code, 3);
  await hangs.close();
  await killed.kill();
  for (const error of await timesOut(Promise.all(pending))) {
    assert.ok(error instanceof TypeError && error.code === "ENOENT", error.message);
  }
  assert.equal((await timesOut(hangs.status)).signal, "SIGKILL");
});

// What is not built yet: the call must be refused, and at once.

const later = {
  "deno.deploy": () => sb.deno.deploy("app"),
  "apps.get": () => client.apps.get("a"),
  "apps.list": () => client.apps.list(),
  "apps.create": () => client.apps.create({ slug: "a" }),
  "apps.update": () => client.apps.update("a", { slug: "b" }),
  "apps.delete": () => client.apps.delete("a"),
  "apps.deploy": () => client.apps.deploy("a", { assets: {} }),
  "apps.logs": () => client.apps.logs("a", { start: new Date() }),
  "layers.get": () => client.layers.get("l"),
  "layers.list": () => client.layers.list(),
  "layers.create": () => client.layers.create({ slug: "l" }),
  "layers.update": () => client.layers.update("l", { slug: "m" }),
  "layers.delete": () => client.layers.delete("l"),
  "layers.apps": () => client.layers.apps("l"),
  "volumes.get": () => client.volumes.get("v"),
  "volumes.list": () => client.volumes.list(),
  "volumes.create": () => client.volumes.create({ slug: "v", region: "ord", capacity: "1GB" }),
  "volumes.delete": () => client.volumes.delete("v"),
  "volumes.snapshot": () => client.volumes.snapshot("v", { slug: "s" }),
  "Volume.create": () => Volume.create({ slug: "v", region: "ord", capacity: "1GB" }),
  "Volume.get": () => Volume.get("v"),
  "snapshots.get": () => client.snapshots.get("s"),
  "snapshots.list": () => client.snapshots.list(),
  "snapshots.delete": () => client.snapshots.delete("s"),
  "Snapshot.create": () => Snapshot.create("v", { slug: "s" }),
  "Snapshot.get": () => Snapshot.get("s"),
  "revisions.get": () => client.revisions.get("r"),
  "revisions.list": () => client.revisions.list("a"),
  "revisions.progress": () => collect(client.revisions.progress("r")),
  "revisions.buildLogs": () => collect(client.revisions.buildLogs("r")),
  "revisions.cancel": () => client.revisions.cancel("r"),
  "revisions.timelines": () => client.revisions.timelines("r"),
  "revisions.delete": () => client.revisions.delete("r"),
  "timelines.list": () => client.timelines.list("a"),
};
for (const [name, run] of Object.entries(later)) row(name, run);

row("sandboxes.create", async () => {
  const own = keep(await client.sandboxes.create({}));
  assert.ok(own.id);
});
row("sandboxes.connect", async () => {
  const other = keep(await client.sandboxes.connect(sb.id, {}));
  assert.equal(other.id, sb.id);
});
row("sandboxes.list", async () => {
  const labels = { job: randomUUID() };
  const own = keep(await Sandbox.create({ labels }));
  const [mine, ...others] = await client.sandboxes.list({ labels });
  assert.deepEqual([mine.id, mine.status, mine.stoppedAt, mine.labels], [own.id, "running", null, labels]);
  assert.equal(others.length, 0);
  assert.ok((await client.sandboxes.list()).some((meta) => meta.id === sb.id));
});

row("errors InvalidTokenError", async () => {
  assert.ok((await errorOf(Sandbox.create({ token: "ddo_wrong" }))) instanceof sdk.InvalidTokenError);
});
row("errors ConnectionEstablishmentError", async () => {
  const error = await errorOf(Sandbox.connect("sbx_ord_00000000000000000000"));
  assert.ok(error instanceof sdk.ConnectionEstablishmentError, error.name);
  assert.deepEqual([error.status, error.code], [404, "SANDBOX_NOT_FOUND"]);
});
row("errors ConnectionClosedError", async () => {
  const own = await Sandbox.create();
  await own.close();
  assert.ok((await errorOf(own.fs.stat("/"))) instanceof sdk.ConnectionClosedError);
});
row("errors SandboxCommandError", async () => {
  assert.ok((await errorOf(sb.sh`exit 1`)) instanceof sdk.SandboxCommandError);
});
row("errors MissingTokenError and other checks of the client", async () => {
  assert.ok((await errorOf(Sandbox.create({ memory: "1MiB" }))) instanceof sdk.InvalidMemoryError);
  assert.ok((await errorOf(Sandbox.create({ timeout: "soon" }))) instanceof sdk.InvalidTimeoutError);
});

// The rows above must name every public method there is.

const prototypes = (object) => {
  const names = [];
  for (let proto = object; proto && proto !== Object.prototype; proto = Object.getPrototypeOf(proto)) {
    if ([EventTarget.prototype, Function.prototype].includes(proto)) break;
    // What a class takes from another one of theirs has its rows there.
    if (proto !== object && [sdk.ChildProcess.prototype, sdk.DenoProcess.prototype].includes(proto)) break;
    names.push(...Object.getOwnPropertyNames(proto));
  }
  return names;
};
const surface = () => ({
  sandbox: sb,
  sh: Object.getPrototypeOf(sb.sh`true`),
  fs: sb.fs,
  env: sb.env,
  deno: sb.deno,
  file: FsFile.prototype,
  process: sdk.ChildProcess.prototype,
  denoProcess: sdk.DenoProcess.prototype,
  repl: sdk.DenoRepl.prototype,
  apps: client.apps,
  layers: client.layers,
  volumes: client.volumes,
  snapshots: client.snapshots,
  revisions: client.revisions,
  timelines: client.timelines,
  sandboxes: client.sandboxes,
});
row("every public method has a row", () => {
  const named = new Set(rows.map(({ name }) => name.split(" ")[0]));
  const missing = Object.entries(surface()).flatMap(([owner, object]) =>
    prototypes(object)
      .filter((name) => name !== "constructor" && !name.startsWith("_"))
      .map((name) => `${owner}.${name}`)
      .filter((name) => !named.has(name)),
  );
  assert.deepEqual(missing, []);
});

const outcome = async (run, patience) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${patience / 1000} s`)), patience);
  });
  try {
    await Promise.race([run(), late]);
    return { state: "pass", detail: "" };
  } catch (error) {
    if (error instanceof ClientDefect) return { state: "client_defect", detail: error.message };
    if (isNotBuilt(error)) return { state: "not_built", detail: "" };
    return { state: "fail", detail: `${error?.name}: ${error?.message}` };
  } finally {
    clearTimeout(timer);
    await Promise.all(kept.splice(0).map((sandbox) => sandbox.close()));
  }
};

for (const { name, run, patience } of rows) {
  if (process.env.ROWS && !name.includes(process.env.ROWS)) continue;
  console.log(JSON.stringify({ row: name, ...(await outcome(run, patience)) }));
}
// The SDK rejects calls that wait for programs which still run, and nobody waits for it.
process.on("unhandledRejection", (error) => {
  if (error?.code !== "ECONNABORTED") throw error;
});
await sb.kill();
process.exit(0);
