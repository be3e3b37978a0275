// Server-sent events from a fetch body: EventSource cannot POST.

/**
 * Data of each event, in order.
 *
 * Lines end with LF, CR or CRLF; comments and fields other than `data` are skipped, as the specification says.
 * An event that is not closed by an empty line is dropped.
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
      // A CR at the very end may be half of a CRLF: it waits.
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
    // Leaving early closes the connection, which tells the server to stop.
    reader.cancel().catch(() => {});
  }
}
