// One completion: sends the request, reads the stream and shows tokens as they arrive. Used by chat and race.

import { Aligner } from "./align.js";
import { chatChunks } from "./api.js";
import { make, onceAFrame } from "./dom.js";
import { ORIGINS, Tally } from "./tally.js";

/** Shows the tokens of a completion: collapsible reasoning above the text. */
export class AnswerView {
  /** `place` is the element to render into. */
  constructor(place) {
    this.words = make("div", { class: "words" });
    this.reasoning = null;
    this.place = place;
    this.place.append(this.words);
    this.queue = [];
    this.paint = onceAFrame(() => this.#paint());
    this.onPaint = () => {};
  }

  /** Adds pieces from the aligner. */
  add(pieces) {
    this.queue.push(...pieces);
    this.paint();
  }

  #paint() {
    const fresh = { content: document.createDocumentFragment(), reasoning: document.createDocumentFragment() };
    for (const piece of this.queue) fresh[piece.kind].append(...marked(piece));
    this.queue = [];
    if (fresh.reasoning.childNodes.length) {
      this.reasoning ??= this.#openReasoning();
      this.reasoning.append(fresh.reasoning);
    }
    this.words.append(fresh.content);
    this.onPaint();
  }

  #openReasoning() {
    const words = make("div", { class: "words" });
    this.words.before(make("details", { class: "reasoning", open: "" }, make("summary", {}, "Reasoning"), words));
    return words;
  }

  /** Ends the completion: paints the rest; screen readers get the text as a whole instead of token by token. */
  finish() {
    this.paint.now();
    for (const words of [this.reasoning, this.words]) {
      if (!words?.childNodes.length) continue;
      words.setAttribute("aria-hidden", "true");
      words.before(make("p", { class: "unseen" }, words.textContent));
    }
  }
}

/** A piece as DOM nodes; leading space stays unmarked, so that adjacent tokens remain distinguishable. */
function marked({ text, origin, ids }) {
  const space = text.trim() ? text.length - text.trimStart().length : 0;
  const made = make("span", { class: "tok" }, text.slice(space));
  if (origin) {
    made.dataset.origin = origin;
    made.title = `${ORIGINS[origin] ?? origin}; token ${ids.join(", ")}`;
  }
  return space ? [text.slice(0, space), made] : [made];
}

/**
 * Requests a completion and reads it to its end.
 *
 * `result` is filled incrementally, so everything before a stop or an error is kept: `ids`, `pieces` (texts of the
 * tokens), `content`, `tally`, `finish`, `seed`, `wallMs`, `firstMs`.
 */
export async function follow(body, { view, result, signal, onProgress }) {
  const aligner = new Aligner();
  const began = performance.now();
  Object.assign(result, { ids: [], pieces: [], content: "", tally: result.tally ?? new Tally(), finish: null, seed: null, firstMs: null });
  try {
    for await (const chunk of chatChunks(body, signal)) {
      const now = performance.now();
      const choice = chunk.choices?.[0];
      if (chunk.geminate?.tokens) {
        result.firstMs ??= now - began;
        for (const token of chunk.geminate.tokens) {
          result.ids.push(token.id);
          result.pieces.push(token.text);
        }
        aligner.tokens(chunk.geminate.tokens);
        result.tally.round(chunk.geminate, now);
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
