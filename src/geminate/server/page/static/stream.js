// Markdown that is still being written: finished blocks are rendered once, only the last block is rendered again.

import { blocks, lex } from "./markdown.js";

/**
 * Renders a growing text into an element.
 *
 * A block is settled when another one begins behind it. Nodes that do not change stay the same nodes, so that nothing
 * jumps and a selection survives. `finish` reads the text once as a whole, which decides the rare cases that the
 * beginning of a block cannot (a comment that closes much later, references defined at the end).
 */
export class MarkdownStream {
  #held = "";
  #open = "";
  #settled = 0;
  #level = 3;

  /** `place` must be empty and hold nothing else. */
  constructor(place) {
    this.place = place;
    this.whole = "";
    /** Characters read by the lexer so far: what the work is in proportion to. */
    this.work = 0;
  }

  /** Adds text; `paint` shows it. */
  append(text) {
    const joined = this.#held + text;
    // A CR at the end may be the first half of CRLF.
    this.#held = joined.endsWith("\r") ? "\r" : "";
    const fresh = (this.#held ? joined.slice(0, -1) : joined).replace(/\r\n?/g, "\n");
    this.whole += fresh;
    this.#open += fresh;
  }

  /** Brings the element up to date. */
  paint() {
    this.work += this.#open.length;
    const tokens = lex(this.#open);
    let last = tokens.length - 1;
    while (last > 0 && tokens[last].type === "space") last -= 1;
    const state = { level: this.#level };
    const done = blocks(tokens.slice(0, last), state);
    this.#level = state.level;
    const rest = blocks(tokens.slice(last), state);
    patch(this.place, [...done, ...rest], this.#settled);
    this.#settled += done.length;
    for (const token of tokens.slice(0, Math.max(0, last))) this.#open = this.#open.slice(token.raw.length);
  }

  /** Reads the whole text once more; the result is that of `render`. */
  finish() {
    this.append(this.#held ? "\n" : "");
    this.work += this.whole.length;
    patch(this.place, blocks(lex(this.whole), { level: 3 }), 0);
    this.#settled = this.place.childNodes.length;
    this.#open = "";
  }
}

/** Makes the children of `place` from `first` on equal to `nodes`, keeping those that are equal already. */
export function patch(place, nodes, first = 0) {
  nodes.forEach((fresh, at) => {
    const old = place.childNodes[first + at];
    if (!old) place.append(fresh);
    else if (!old.isEqualNode(fresh)) change(old, fresh);
  });
  while (place.childNodes.length > first + nodes.length) place.lastChild.remove();
}

function change(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE && fresh.nodeType === Node.TEXT_NODE) {
    if (fresh.data.startsWith(old.data)) old.appendData(fresh.data.slice(old.data.length));
    else old.data = fresh.data;
  } else if (old.nodeName === fresh.nodeName && old.nodeType === Node.ELEMENT_NODE) {
    if ("copies" in old.dataset && "copies" in fresh.dataset) return; // its label may say "Copied" just now
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    patch(old, [...fresh.childNodes]);
  } else {
    old.replaceWith(fresh);
  }
}

/**
 * Wraps `paint` so that it runs at most once a frame, and takes at most a sixth of the time however long it takes once.
 * `now()` runs it immediately.
 */
export function paced(paint) {
  let asked = 0;
  let free = 0;
  const run = () => {
    asked = 0;
    const began = performance.now();
    paint();
    const ended = performance.now();
    free = ended + 5 * (ended - began);
  };
  const ask = () => {
    if (asked) return;
    const wait = free - performance.now();
    if (wait > 16) asked = setTimeout(run, wait);
    else asked = -requestAnimationFrame(run);
  };
  ask.now = () => {
    if (asked > 0) clearTimeout(asked);
    else cancelAnimationFrame(-asked);
    run();
  };
  return ask;
}
