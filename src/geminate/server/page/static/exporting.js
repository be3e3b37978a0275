// A conversation as a file: Markdown to read, JSON to send again.

import { make } from "./dom.js";
import { titleOf } from "./history.js";

/** The conversation as Markdown; reasoning is left out. */
export function asMarkdown(turns, model) {
  const parts = turns.map(({ role, content, form }) => {
    const text = form === "json" ? `\`\`\`json\n${content}\n\`\`\`` : content;
    return `## ${role === "user" ? "You" : model}\n\n${text.trimEnd()}\n`;
  });
  return `# ${titleOf(turns)}\n\n${parts.join("\n")}`;
}

/** The conversation as JSON with the messages as the API takes them. */
export function asJson(turns, model, system) {
  const messages = turns.map(({ role, content, reasoning }) => ({ role, content, ...(reasoning ? { reasoning_content: reasoning } : {}) }));
  if (system) messages.unshift({ role: "system", content: system });
  return `${JSON.stringify({ model, exported: new Date().toISOString(), messages }, null, 2)}\n`;
}

/** Saves a text as a file of the user's. */
export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A file name for a conversation, without characters that a system refuses. */
export function fileName(turns, suffix) {
  const title = titleOf(turns).toLowerCase().replace(/[^\p{Letter}\p{Number}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 40);
  return `${title || "conversation"}.${suffix}`;
}
