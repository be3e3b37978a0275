// Server-sent events from a fetch body: EventSource cannot POST.

/**
 * The data of each event, in order.
 *
 * Lines end with LF, CR or CRLF; comments and fields other than `data` are skipped, as the specification requires.
 * An event that is not terminated by an empty line is dropped.
 */
export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let held = "";
  let data = [];
  let open = true;
  try {
    while (open) {
      const { done, value } = await reader.read();
      held += done ? decoder.decode() : decoder.decode(value, { stream: true });
      open = !done;
      // A CR at the very end may be the first half of a CRLF, so it is kept for the next read.
      const lines = held.split(/\r\n|\n|\r(?!$)/);
      held = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line === "data" || line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        }
      }
    }
  } finally {
    // Leaving early closes the connection, which makes the server stop.
    reader.cancel().catch(() => {});
  }
}
