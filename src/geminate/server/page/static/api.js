// Talks to the server: the key, errors in words, JSON and streams. Paths are relative, so a prefix of a proxy works.

import { events } from "./sse.js";

let key = "";
let askForKey = () => {};

/** The API key, in memory only. */
export function setKey(text) { key = text.trim(); }

/** `ask(given)` is called when a request is answered 401; `given` says whether it carried a key. */
export function onKeyNeeded(ask) { askForKey = ask; }

/** What went wrong, in words; `status` is the HTTP status, 0 for no answer at all. */
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
    return await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it running, and is this page still open at its address?");
  }
}

async function refusal(answer) {
  let said = "";
  try {
    const body = await answer.json();
    said = body?.error?.message ?? "";
  } catch {
    // No JSON: the status has to do.
  }
  const wait = answer.headers.get("retry-after");
  const again = wait && /^\d+$/.test(wait) ? `Try again in ${wait} s.` : "Try again in a moment.";
  const tail = said ? ` The server says: ${said}` : "";
  switch (answer.status) {
    case 401:
      askForKey(Boolean(key));
      return new ApiError(
        key ? "The server does not accept this API key." : "The server asks for an API key: enter it above, then send again.",
        401,
      );
    case 413: return new ApiError(`The conversation is too long for the server's limit.${tail}`, 413);
    case 429: return new ApiError(`The server is full. ${again}${tail}`, 429);
    case 503: return new ApiError(`The server takes no requests now. ${again}${tail}`, 503);
    default:
      if (answer.status >= 500) return new ApiError(`The server failed (${answer.status}).${tail || " Its log says more."}`, answer.status);
      return new ApiError(said || `The server refused the request (${answer.status}).`, answer.status);
  }
}

/** GET that returns status and body (null if it is not JSON); throws only where nothing answers. */
export async function look(path) {
  const answer = await ask(path, {});
  if (answer.status === 401) askForKey(Boolean(key));
  const body = await answer.json().catch(() => null);
  return { status: answer.status, body };
}

/**
 * POST a chat request and yield its chunks as they come.
 *
 * Throws ApiError for refusals, for an error inside the stream and for a stream that ends too early; AbortError when
 * `signal` fires.
 */
export async function* chatChunks(body, signal) {
  const answer = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true }, trace: true }),
    signal,
  });
  if (!answer.ok) throw await refusal(answer);
  try {
    for await (const data of events(answer.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(`The server stopped the answer: ${chunk.error.message ?? "no reason given"}`, 500);
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    if (error instanceof SyntaxError) throw new ApiError("The server sent something that is not an answer.");
    throw new ApiError("The connection broke off before the answer was complete.");
  }
  throw new ApiError("The connection broke off before the answer was complete.");
}
