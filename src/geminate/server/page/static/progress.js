// What happens between sending a request and its first token: waiting for others, then reading the prompt.

import { look } from "./api.js";
import { make } from "./dom.js";

const EVERY_MS = 250;

/** A line with a bar, shown in `place` until `end` is called. */
export class PromptProgress {
  #timer = 0;
  #over = false;

  constructor(place) {
    this.words = make("span", {}, "Sending the prompt…");
    this.bar = make("progress", { max: "1", "aria-label": "Prompt read", hidden: "" });
    this.element = make("p", { class: "progress" }, this.words, this.bar);
    place.append(this.element);
  }

  /** The server has taken the request with this id. */
  accepted(id) {
    this.words.textContent = "Reading the prompt…";
    if (id) this.#ask(id);
  }

  async #ask(id) {
    const found = await look(`ui/work?id=${encodeURIComponent(id)}`).catch(() => null);
    if (this.#over) return;
    if (found?.status === 404) return; // a server without it: the words stay as they are
    const { prompt, running = 0 } = found?.body ?? {};
    if (prompt) this.show(prompt, running);
    this.#timer = setTimeout(() => this.#ask(id), EVERY_MS);
  }

  /** `done` of `of` tokens are read; `done` null: the request waits behind `running` others. */
  show({ done, of }, running) {
    const tokens = of.toLocaleString("en");
    this.words.textContent = done === null
      ? `Waiting: ${running === 1 ? "another answer is" : `${running} other answers are`} being written. The prompt has ${tokens} tokens.`
      : `Reading the prompt: ${done.toLocaleString("en")} of ${tokens} tokens`;
    this.bar.hidden = done === null;
    this.bar.max = of;
    this.bar.value = done ?? 0;
  }

  /** Removes the line. */
  end() {
    this.#over = true;
    clearTimeout(this.#timer);
    this.element.remove();
  }
}
