// One completion: sends the request, reads the stream and shows it as it arrives. Used by chat and race.

import { Aligner } from "./align.js";
import { chatChunks } from "./api.js";
import { counted, make } from "./dom.js";
import { codeBlock } from "./markdown.js";
import { MarkdownStream, paced, patch } from "./stream.js";
import { ORIGINS, Tally } from "./tally.js";

/**
 * Shows a completion: collapsed reasoning above the text.
 *
 * The text is Markdown, or with `form` "json" one block of code. With marks every token is shown as it came, with its
 * origin; `setMarks` changes that at any time.
 */
export class AnswerView {
  #shown = 0;
  #thoughts = 0;
  #markdown = null;
  #thinking = null;
  #counted = 0;

  constructor(place, { marks = false, form = "markdown", open = false } = {}) {
    this.pieces = { content: [], reasoning: [] };
    this.marks = marks;
    this.form = form;
    this.open = open;
    this.ended = false;
    this.words = make("div", {});
    this.details = null;
    this.place = place;
    this.place.append(this.words);
    this.paint = paced(() => this.#paint());
    this.onPaint = () => {};
    this.#restart();
  }

  /** The text so far. */
  get content() { return joined(this.pieces.content); }

  /** The reasoning so far. */
  get reasoning() { return joined(this.pieces.reasoning); }

  /** Adds pieces from the aligner. */
  add(pieces) {
    if (!pieces.length) return;
    for (const piece of pieces) this.pieces[piece.kind].push(piece);
    this.paint();
  }

  /** Shows each token's origin, or the text alone. */
  setMarks(on) {
    if (on === this.marks) return;
    this.marks = on;
    this.#restart();
    this.paint.now();
    if (this.ended) this.#close();
  }

  /** Ends the completion: paints the rest. */
  finish() {
    this.ended = true;
    this.paint.now();
    this.#close();
  }

  #restart() {
    this.words.replaceChildren();
    this.place.querySelector(":scope > p.unseen")?.remove();
    this.words.removeAttribute("aria-hidden");
    this.words.className = this.marks ? "words marked" : this.form === "json" ? "words prose json" : "words prose";
    this.#shown = 0;
    this.#markdown = this.marks || this.form === "json" ? null : new MarkdownStream(this.words);
  }

  #paint() {
    if (this.pieces.reasoning.length) this.#paintReasoning();
    const fresh = this.pieces.content.slice(this.#shown);
    this.#shown = this.pieces.content.length;
    if (fresh.length) {
      if (this.marks) this.words.append(...fresh.flatMap(marked));
      else if (this.form === "json") patch(this.words, [codeBlock(this.content, "json")]);
      else {
        this.#markdown.append(joined(fresh));
        this.#markdown.paint();
      }
    }
    this.onPaint();
  }

  #paintReasoning() {
    if (!this.details) {
      const words = make("div", { class: "words prose" });
      this.details = make("details", { class: "reasoning" }, make("summary", {}, "Thinking…"), words);
      this.details.open = this.open;
      this.#thinking = new MarkdownStream(words);
      this.words.before(this.details);
      this.details.addEventListener("toggle", () => { this.#paintThoughts(); });
    }
    if ((this.pieces.content.length || this.ended) && this.#counted !== this.pieces.reasoning.length) {
      this.#counted = this.pieces.reasoning.length;
      const count = this.reasoning.trim().split(/\s+/).length;
      this.details.firstChild.textContent = `Reasoning, ${counted(count, "word")}`;
    }
    this.#paintThoughts();
  }

  /** What nobody sees is not rendered. */
  #paintThoughts() {
    if (!this.details.open) return;
    const fresh = this.pieces.reasoning.slice(this.#thoughts);
    this.#thoughts = this.pieces.reasoning.length;
    if (!fresh.length) return;
    this.#thinking.append(joined(fresh));
    this.#thinking.paint();
    if (this.ended) this.#thinking.finish();
  }

  #close() {
    this.#markdown?.finish();
    // Screen readers get the text as a whole instead of token by token.
    if (this.marks && this.words.childNodes.length) {
      this.words.setAttribute("aria-hidden", "true");
      this.words.before(make("p", { class: "unseen" }, this.words.textContent));
    }
  }
}

function joined(pieces) { return pieces.map(({ text }) => text).join(""); }

/** A piece as DOM nodes; leading space stays unmarked, so that adjacent tokens remain distinguishable. */
function marked({ text, origin, ids }) {
  const space = text.trim() ? text.length - text.trimStart().length : 0;
  const made = make("span", { class: "tok" }, text.slice(space));
  if (origin) {
    made.dataset.origin = origin;
    made.title = `${ORIGINS[origin] ?? origin}${ids.length ? `; token ${ids.join(", ")}` : ""}`;
  }
  return space ? [text.slice(0, space), made] : [made];
}

const LETTERS = { target: "t", drafter: "d", copied: "c", forced: "f" };

/** Pieces as a short text for storage: lengths and origins, "4t6d". */
export function packMarks(pieces) { return pieces.map(({ text, origin }) => text.length + (LETTERS[origin] ?? "-")).join(""); }

/** The pieces of a text and its packed marks; one piece without origin if they do not fit each other. */
export function unpackMarks(text, packed, kind = "content") {
  const origins = Object.fromEntries(Object.entries(LETTERS).map(([name, letter]) => [letter, name]));
  const pieces = [];
  let at = 0;
  for (const [, length, letter] of (packed ?? "").matchAll(/(\d+)([tdcf-])/g)) {
    pieces.push({ text: text.slice(at, at + Number(length)), kind, origin: origins[letter] ?? null, ids: [] });
    at += Number(length);
  }
  return at === text.length ? pieces : [{ text, kind, origin: null, ids: [] }];
}

/**
 * Requests a completion and reads it to its end.
 *
 * `result` is filled incrementally, so everything before a stop or an error is kept: `ids`, `pieces` (texts of the
 * tokens), `content`, `tally`, `finish`, `seed`, `wallMs`, `firstMs`. `onAccepted(id)` is called when the server has taken
 * the request, before its prompt is read.
 */
export async function follow(body, { view, result, signal, onProgress, onAccepted = () => {} }) {
  const aligner = new Aligner();
  const began = performance.now();
  Object.assign(result, { ids: [], pieces: [], content: "", tally: result.tally ?? new Tally(), finish: null, seed: null, firstMs: null });
  try {
    for await (const chunk of chatChunks(body, signal, onAccepted)) {
      const now = performance.now();
      const choice = chunk.choices?.[0];
      if (chunk.geminate?.tokens) {
        if (chunk.geminate.tokens.length) result.firstMs ??= now - began;
        for (const token of chunk.geminate.tokens) {
          result.ids.push(token.id);
          result.pieces.push(token.text);
        }
        aligner.tokens(chunk.geminate.tokens);
        result.tally.round(chunk.geminate, now);
        if (chunk.geminate.seed !== undefined) result.seed = chunk.geminate.seed;
      }
      const delta = choice?.delta ?? {};
      result.content += delta.content ?? "";
      view.add([...aligner.text("reasoning", delta.reasoning_content ?? ""), ...aligner.text("content", delta.content ?? "")]);
      if (choice?.finish_reason) result.finish = choice.finish_reason;
      if (chunk.timings) result.tally.timings = chunk.timings;
      onProgress(result);
    }
  } finally {
    result.wallMs = performance.now() - began;
    view.add(aligner.flush());
    view.finish();
    onProgress(result);
  }
  return result;
}
