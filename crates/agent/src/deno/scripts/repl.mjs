// The REPL: evaluates code in the global scope of this process, and answers
// with its value as JSON.
//
// V8's own REPL mode, which the inspector gives, is what makes `await` at the
// top level and a second `let` of the same name work. Code is TypeScript, whose
// types are taken out before.

import { Session } from "node:inspector";
import { registerHooks, stripTypeScriptTypes } from "node:module";
import { pathToFileURL } from "node:url";
import {
  END,
  HEAD,
  json,
  receive,
  send,
  sendData,
  sendError,
  serve,
  TURN,
} from "./frames.mjs";

// What code may replace in its own process later.
const { stringify } = JSON;
const { cwd, exit } = Deno;

const session = new Session();
session.connect();
const post = (method, parameters) =>
  new Promise((resolve, reject) => {
    session.post(method, parameters, (error, result) => error ? reject(error) : resolve(result));
  });

// Errors that nobody waits for are told, and the REPL lives on, as Deno's own does.
for (
  const [event, words, member] of [
    ["error", "Uncaught", "error"],
    ["unhandledrejection", "Uncaught (in promise)", "reason"],
  ]
) {
  globalThis.addEventListener(event, (told) => {
    told.preventDefault();
    console.error(words, told[member]);
  });
}

// Code of the REPL has no address. Deno resolves what it imports as if the
// working directory were a file, one level too high.
registerHooks({
  resolve(specifier, context, next) {
    if (context.parentURL !== undefined || !/^\.{0,2}\//.test(specifier)) {
      return next(specifier, context);
    }
    return next(new URL(specifier, pathToFileURL(`${cwd()}/`)).href, context);
  },
});

// What code is run after: the inspector's call has returned then. From within
// it code could not end the process, and would see our frames in its stacks.
Object.defineProperty(globalThis, "__turn", {
  value: () => new Promise((resolve) => setTimeout(resolve, 0)),
});

// The inspector gives what is plain, and names objects. To have one it is told
// to call a function of ours with it.
let taken;
globalThis.__take = (value) => {
  taken = value;
};
const { result: taker } = await post("Runtime.evaluate", { expression: "__take" });
delete globalThis.__take;

async function valueOf({ type, objectId, value, unserializableValue: text }) {
  if (objectId === undefined) {
    if (text === undefined) return [value];
    return [type === "bigint" ? BigInt(text.slice(0, -1)) : Number(text)];
  }
  const called = post("Runtime.callFunctionOn", {
    functionDeclaration: "function (value) { this(value); }",
    objectId: taker.objectId,
    arguments: [{ objectId }],
  });
  // It was called before `post` returned; later it may be another's turn.
  const given = taken;
  taken = undefined;
  await called;
  return [given];
}

let groups = 0;

async function evaluate(code) {
  const objectGroup = `tombolo-${groups++}`;
  const { result, exceptionDetails } = await post("Runtime.evaluate", {
    expression: TURN + script(code),
    objectGroup,
    replMode: true,
    awaitPromise: true,
  });
  const [value] = await valueOf(exceptionDetails?.exception ?? result);
  await post("Runtime.releaseObjectGroup", { objectGroup });
  if (exceptionDetails) throw value;
  // The value may be a promise, which this waits for too.
  return value;
}

/** TypeScript as a script. V8 judges what cannot be read as TypeScript. */
function script(code) {
  for (const mode of ["strip", "transform"]) {
    try {
      return withoutImports(stripTypeScriptTypes(code, { mode }));
    } catch { /* What has to be rewritten, or is wrong. */ }
  }
  return withoutImports(code);
}

const BLANK = /(?:\s|;|\/\/[^\n]*|\/\*[^]*?\*\/|(["'])use strict\1)*/y;
const IMPORT =
  /import(?![\w$])\s*(?!\(|\.)(?:([\w$]+)\s*,?\s*)?(?:\*\s*as\s+([\w$]+)|\{([^}]*)\})?\s*(?:from\s*)?("[^"\n]*"|'[^'\n]*')\s*(?:with\s*(\{[^}]*\}))?/y;

/** Declarations of imports, which begin a module and are no part of a script, as calls. */
function withoutImports(code) {
  let at = 0;
  let rewritten = "";
  for (;;) {
    BLANK.lastIndex = at;
    const [blank] = BLANK.exec(code);
    IMPORT.lastIndex = at + blank.length;
    const found = IMPORT.exec(code);
    if (found === null) return rewritten + code.slice(at);
    const [whole, name, namespace, names, from, attributes] = found;
    const options = attributes === undefined ? "" : `, { with: ${attributes} }`;
    const module = `await import(${from}${options})`;
    const bound = [
      name === undefined ? "" : `default: ${name},`,
      (names ?? "").replace(/([\w$]+|"[^"]*"|'[^']*')\s+as\s+/g, "$1: "),
    ].join(" ");
    // The lines that follow keep their numbers.
    const lines = "\n".repeat(whole.split("\n").length - bound.split("\n").length);
    const declared = namespace !== undefined
      ? `const ${namespace} = ${module}` +
        (name === undefined ? "" : `, { default: ${name} } = ${namespace}`)
      : bound.trim() === ""
      ? module
      : `const { ${bound} } = ${module}`;
    rewritten += `${blank}${declared};${lines}`;
    at = IMPORT.lastIndex;
  }
}

/** Values beyond JSON that have an obvious form in it. */
function plain(_key, value) {
  if (value instanceof Map || value instanceof Set) return [...value];
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return [...value];
  if (value instanceof Error) {
    return { ...value, name: value.name, message: value.message };
  }
  return value;
}

async function run({ code, fn, args }) {
  if (fn === undefined) return await evaluate(code);
  const called = await evaluate(`(${fn}\n)`);
  if (typeof called !== "function") throw new TypeError(`${fn} is not a function`);
  return await called(...args);
}

async function answer(connection) {
  const request = await receive(connection);
  if (request?.kind !== HEAD) return;
  const asked = json(request.payload);
  if (asked.close) exit(0);
  let value;
  try {
    // What has no form in JSON, a function or nothing, is null.
    value = stringify(await run(asked), plain) ?? "null";
  } catch (thrown) {
    await sendError(connection, thrown);
    return;
  }
  await send(connection, HEAD);
  await sendData(connection, value);
  await send(connection, END);
}

export const listen = (path) => serve(path, answer);
