// Client for the server's API: key, error messages, JSON and streams. Paths are relative, so a proxy's prefix works.

import { events } from "./sse.js";

let key = "";
let askForKey = () => {};
let heardAt = -Infinity;

/** When the server last sent something, on the clock of `performance.now()`. */
export function lastHeard() { return heardAt; }

/** Sets the API key; it is kept in memory only. */
export function setKey(text) { key = text.trim(); }

/** `ask(given)` is called when a request gets 401; `given` is whether it was sent with a key. */
export function onKeyNeeded(ask) { askForKey = ask; }

/** `ApiError.status` where the server took too long to answer. */
export const SILENT = -1;

/** An error with a message for the user; `status` is the HTTP status, 0 if there was no response. */
export class ApiError extends Error {
  constructor(words, status = 0) {
    super(words);
    this.status = status;
  }
}

async function ask(path, options) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    const response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
    heardAt = performance.now();
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError") throw new ApiError("The server does not answer.", SILENT);
    throw new ApiError("Cannot reach the server. Check that it is running and that this page is open at its address.");
  }
}

async function refusal(response) {
  let message = "";
  try {
    const body = await response.json();
    message = body?.error?.message ?? "";
  } catch {
    // Not JSON: only the status is known.
  }
  const wait = response.headers.get("retry-after");
  const again = wait && /^\d+$/.test(wait) ? `Try again in ${wait} s.` : "Try again in a moment.";
  const tail = message ? ` Server message: ${message}` : "";
  switch (response.status) {
    case 401:
      askForKey(Boolean(key));
      return new ApiError(
        key ? "The server rejected this API key." : "The server requires an API key: enter it above, then send again.",
        401,
      );
    case 413: return new ApiError(`The conversation exceeds the server's size limit.${tail}`, 413);
    case 429: return new ApiError(`The server's queue is full. ${again}${tail}`, 429);
    case 503: return new ApiError(`The server is not accepting requests. ${again}${tail}`, 503);
    default:
      if (response.status >= 500) return new ApiError(`Server error (${response.status}).${tail || " See the server's log."}`, response.status);
      return new ApiError(message || `The server rejected the request (${response.status}).`, response.status);
  }
}

/** GET that returns status and body (null if it is not JSON); throws only if there is no response within `timeout` ms. */
export async function look(path, timeout = 0) {
  const response = await ask(path, timeout ? { signal: AbortSignal.timeout(timeout) } : {});
  if (response.status === 401) askForKey(Boolean(key));
  const body = await response.json().catch(() => null);
  return { status: response.status, body };
}

/**
 * POST a chat request and yield its chunks as they arrive.
 *
 * Throws ApiError for an error response, an error inside the stream and a stream that ends too early; AbortError when
 * `signal` fires. `onAccepted(id)` gets the request's id once the server has taken it.
 */
export async function* chatChunks(body, signal, onAccepted = () => {}) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true }, trace: true }),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  onAccepted(response.headers.get("x-request-id") ?? "");
  try {
    for await (const data of events(response.body)) {
      heardAt = performance.now();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(`The server aborted the completion: ${chunk.error.message ?? "no reason given"}`, 500);
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    if (error instanceof SyntaxError) throw new ApiError("The server sent an invalid response.");
    throw new ApiError("The connection was lost before the completion was finished.");
  }
  throw new ApiError("The connection was lost before the completion was finished.");
}

/** Steps of the server's demo as they come; throws ApiError where it is refused or breaks off. */
export async function* demoEvents(signal) {
  const response = await ask("demo", { method: "POST", signal });
  if (!response.ok) throw await refusal(response);
  for await (const data of events(response.body)) {
    heardAt = performance.now();
    if (data === "[DONE]") return;
    yield JSON.parse(data);
  }
  throw new ApiError("The connection was lost before the demo was finished.");
}
