// Fetches for the sandbox's clients, from where the sandbox's programs fetch:
// in its network, with its certificates. One process does all of them.

import {
  CANCEL,
  DATA,
  END,
  ERROR,
  HEAD,
  json,
  OPEN,
  receive,
  send,
  sendData,
  sendError,
  serve,
  text,
} from "./frames.mjs";

/** Under way, by the number that the agent gave. */
const underWay = new Map();
/** Given up before they were under way; of those that had ended already, the last ones. */
const givenUp = new Set();
const GIVEN_UP_MAX = 1024;

function giveUp(id) {
  const controller = underWay.get(id);
  if (controller !== undefined) return controller.abort();
  givenUp.add(id);
  if (givenUp.size > GIVEN_UP_MAX) givenUp.delete(givenUp.values().next().value);
}

/** The body that follows a request, read as it is taken. */
const bodyOf = (connection) =>
  new ReadableStream({
    async pull(controller) {
      const frame = await receive(connection);
      if (frame?.kind === DATA) controller.enqueue(frame.payload);
      else if (frame?.kind === END) controller.close();
      else if (frame?.kind === ERROR) controller.error(new Error(text(frame.payload)));
      else controller.error(new Deno.errors.ConnectionAborted("The request broke off"));
    },
  }, { highWaterMark: 0 });

/** Leads every request to one server, whatever its address says. */
const clientOf = ({ hostname, port }) =>
  Deno.createHttpClient({
    allowHost: true,
    proxy: {
      transport: "tcp",
      hostname: hostname.includes(":") ? `[${hostname}]` : hostname,
      port,
    },
  });
const outside = Deno.createHttpClient({ allowHost: true });

async function perform(connection, asked, signal) {
  const { url, method, headers, redirect, hasBody, server } = asked;
  const { protocol } = new URL(url);
  if (protocol !== "http:" && protocol !== "https:") {
    throw new TypeError(`Only http: and https: can be fetched, not ${protocol}`);
  }
  // A process of the sandbox is spoken to as it is, however its address is written.
  const target = server ? url.replace(/^https:/i, "http:") : url;
  const client = server ? clientOf(server) : outside;
  try {
    const body = hasBody ? bodyOf(connection) : undefined;
    const response = await fetch(target, { method, headers, redirect, body, signal, client });
    const head = {
      status: response.status,
      statusText: response.statusText,
      headers: [...response.headers],
      hasBody: response.body !== null,
    };
    await send(connection, HEAD, JSON.stringify(head));
    for await (const chunk of response.body ?? []) await sendData(connection, chunk);
    await send(connection, END);
  } finally {
    if (server) client.close();
  }
}

async function handle(connection) {
  const first = await receive(connection);
  const id = first && text(first.payload);
  if (first?.kind === CANCEL) giveUp(id);
  if (first?.kind !== OPEN) return;
  const controller = new AbortController();
  if (givenUp.delete(id)) controller.abort();
  underWay.set(id, controller);
  try {
    const head = await receive(connection);
    if (head?.kind !== HEAD) return;
    await perform(connection, json(head.payload), controller.signal);
  } catch (thrown) {
    await sendError(connection, thrown);
  } finally {
    underWay.delete(id);
  }
}

await serve(Deno.args[0], handle);
