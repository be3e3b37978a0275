// Conversations in the browser's storage: one entry each, the oldest give way when the storage is full.

const PREFIX = "geminate-chat:";
const CURRENT = "geminate-current";
const MOST = 200;

/** The conversation's name in lists: its first message, shortened. */
export function titleOf(turns) {
  const text = (turns.find(({ role }) => role === "user")?.content ?? "").trim().replace(/\s+/g, " ");
  return text.length > 60 ? `${text.slice(0, 59)}…` : text || "Empty conversation";
}

/** A new conversation's id; later ones sort behind earlier ones. */
export function freshId() {
  const random = crypto.getRandomValues(new Uint32Array(1))[0].toString(36);
  return `${Date.now().toString(36).padStart(9, "0")}-${random}`;
}

/** Conversations as `{id, updated, title, count}`, the latest first; unreadable entries are left out. */
export function list() {
  const found = [];
  for (const name of names()) {
    const stored = read(name);
    if (stored) found.push({ id: name.slice(PREFIX.length), updated: stored.updated, title: titleOf(stored.turns), count: stored.turns.length });
  }
  return found.sort((a, b) => b.updated - a.updated);
}

/** A conversation's turns, or null. */
export function load(id) { return read(PREFIX + id)?.turns ?? null; }

/**
 * Stores a conversation, an empty one by removing it.
 *
 * Returns "" or, in words, what is wrong: older conversations were removed to make room, or nothing can be stored.
 */
export function save(id, turns) {
  if (!turns.length) {
    remove(id);
    return "";
  }
  const text = JSON.stringify({ updated: Date.now(), turns });
  let gone = 0;
  for (;;) {
    try {
      localStorage.setItem(PREFIX + id, text);
      break;
    } catch (error) {
      const others = list().filter((one) => one.id !== id);
      if (error?.name !== "QuotaExceededError" || !others.length) return "This conversation is not saved: the browser's storage is full or blocked. Export it to keep it.";
      remove(others.at(-1).id);
      gone += 1;
    }
  }
  for (const { id: old } of list().slice(MOST)) remove(old);
  return gone ? `The browser's storage was full: ${gone === 1 ? "the oldest conversation was" : `the ${gone} oldest conversations were`} removed.` : "";
}

/** Forgets a conversation. */
export function remove(id) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    // Blocked storage holds nothing.
  }
}

/** Forgets all conversations. */
export function clear() { for (const name of names()) remove(name.slice(PREFIX.length)); }

/** The conversation that this tab showed before a reload, or null. Each tab has its own, so that two do not overwrite each other. */
export function current() {
  try {
    return sessionStorage.getItem(CURRENT);
  } catch {
    return null;
  }
}

/** Remembers what this tab shows. */
export function setCurrent(id) {
  try {
    sessionStorage.setItem(CURRENT, id);
  } catch {
    // Then a reload begins a new conversation.
  }
}

function names() {
  try {
    return Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
  } catch {
    return [];
  }
}

function read(name) {
  try {
    const stored = JSON.parse(localStorage.getItem(name));
    const legal = Array.isArray(stored?.turns) && stored.turns.length > 0 && stored.turns.every(isTurn);
    return legal ? { updated: Number(stored.updated) || 0, turns: stored.turns } : null;
  } catch {
    return null;
  }
}

function isTurn(turn) {
  return (turn?.role === "user" || turn?.role === "assistant") && typeof turn.content === "string"
    && ["string", "undefined"].includes(typeof turn.reasoning);
}
