// The frames that the agent and the programs here exchange over a unix socket:
// the length of the payload in four bytes, little-endian, one byte for the
// kind, the payload. One connection carries one request and its answer, so the
// socket's own flow control is that of the request.

export const HEAD = 0;
export const DATA = 1;
export const END = 2;
export const ERROR = 3;
export const CANCEL = 4;
export const OPEN = 5;

const PREFIX_LEN = 5;
// The agent takes no more. A write costs much more than its bytes do.
const CHUNK_LEN_MAX = 1_048_576;
const CAUSES_MAX = 4;
const TEXT_LEN_MAX = 8_192;
// Much less than the agent passes on and the server tells.
const ERROR_LEN_MAX = 262_144;

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const { parse, stringify } = JSON;

export const text = (payload) => decoder.decode(payload);
export const json = (payload) => parse(text(payload));

/** Calls `handle` for each connection, and closes it when that is done. */
export async function serve(path, handle) {
  const listener = Deno.listen({ transport: "unix", path });
  for await (const connection of listener) {
    handle(connection)
      // The agent is gone, or gave up: there is nobody to tell.
      .catch(() => {})
      .finally(() => {
        try {
          connection.close();
        } catch { /* It broke, and is closed. */ }
      });
  }
}

async function fill(connection, bytes) {
  for (let at = 0; at < bytes.length;) {
    const count = await connection.read(bytes.subarray(at));
    if (count === null) return false;
    at += count;
  }
  return true;
}

/** The next frame, or null at the end of the connection. */
export async function receive(connection) {
  const prefix = new Uint8Array(PREFIX_LEN);
  if (!await fill(connection, prefix)) return null;
  const payload = new Uint8Array(new DataView(prefix.buffer).getUint32(0, true));
  if (!await fill(connection, payload)) return null;
  return { kind: prefix[4], payload };
}

export async function send(connection, kind, payload = new Uint8Array()) {
  const bytes = typeof payload === "string" ? encoder.encode(payload) : payload;
  const frame = new Uint8Array(PREFIX_LEN + bytes.length);
  new DataView(frame.buffer).setUint32(0, bytes.length, true);
  frame[4] = kind;
  frame.set(bytes, PREFIX_LEN);
  for (let at = 0; at < frame.length;) at += await connection.write(frame.subarray(at));
}

/** Sends data of any length. */
export async function sendData(connection, payload) {
  const bytes = typeof payload === "string" ? encoder.encode(payload) : payload;
  for (let at = 0; at < bytes.length; at += CHUNK_LEN_MAX) {
    await send(connection, DATA, bytes.subarray(at, at + CHUNK_LEN_MAX));
  }
}

const cut = (string) =>
  string.length > TEXT_LEN_MAX ? `${string.slice(0, TEXT_LEN_MAX)}…` : string;

/** A text of what somebody else made, which may throw. */
const shown = (show, value, otherwise) => {
  try {
    return cut(String(show(value)));
  } catch {
    return otherwise;
  }
};

/** Reads a member of what somebody else made, which may throw. */
const member = (object, name) => {
  try {
    return object[name];
  } catch {
    return undefined;
  }
};

/** What stands before code of the REPL, in its first line. */
export const TURN = "await __turn();";

/** Leaves only what its author knows of a stack. */
const ownStack = (stack) => {
  const lines = cut(stack).split("\n");
  const ours = lines.findIndex((line) =>
    /^\s+at .*(Session\.post \(ext:deno_node|\/tombolo\/deno\/|\.deno\/[a-z]+\.mjs)/.test(line)
  );
  const kept = ours < 0 ? lines : lines.slice(0, ours);
  while (/^\s+at .*\(ext:core\//.test(kept.at(-1))) kept.pop();
  return kept.join("\n").replace(
    /(<anonymous>:1:)(\d+)/g,
    (whole, place, column) => column > TURN.length ? place + (column - TURN.length) : whole,
  );
};

const isError = (value) => {
  try {
    return value instanceof Error || value instanceof DOMException;
  } catch {
    // A proxy that does not say.
    return false;
  }
};

function describe(thrown, depth) {
  if (!isError(thrown)) {
    const show = typeof thrown === "string" ? (string) => string : Deno.inspect;
    return {
      constructorName: "Error",
      message: `Uncaught ${shown(show, thrown, "value that cannot be shown")}`,
    };
  }
  const name = member(member(thrown, "constructor"), "name");
  const described = {
    constructorName: typeof name === "string" && name !== "" ? cut(name) : "Error",
    message: shown((error) => error.message ?? "", thrown, ""),
  };
  const stack = member(thrown, "stack");
  if (typeof stack === "string") described.stack = ownStack(stack);
  if (thrown instanceof DOMException) described.name = shown((error) => error.name, thrown, "Error");
  const code = member(thrown, "code");
  if (typeof code === "string") described.code = cut(code);
  if (depth === CAUSES_MAX) return described;
  const cause = member(thrown, "cause");
  if (cause !== undefined && cause !== null) described.cause = describe(cause, depth + 1);
  if (thrown instanceof AggregateError) {
    described.errors = [];
    try {
      // One level of them, so that they cannot multiply.
      for (const error of thrown.errors) {
        if (described.errors.push(describe(error, CAUSES_MAX)) === CAUSES_MAX) break;
      }
    } catch { /* They are no list. */ }
  }
  return described;
}

/** Makes a description of what was thrown, unless that prevents it or is too much. */
const told = (thrown, depth) => {
  try {
    const json = encoder.encode(stringify(describe(thrown, depth)));
    return json.length > ERROR_LEN_MAX ? undefined : json;
  } catch {
    return undefined;
  }
};

const UNTOLD = encoder.encode(
  '{"constructorName":"Error","message":"Uncaught exception that cannot be described"}',
);

/** Answers with what was thrown, as the SDKs' wire has it: without its causes if that is too long. */
export const sendError = (connection, thrown) =>
  send(connection, ERROR, told(thrown, 0) ?? told(thrown, CAUSES_MAX) ?? UNTOLD);
