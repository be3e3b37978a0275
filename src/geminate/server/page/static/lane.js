// One side of the race: its runs, the text of the latest one, and its times as dots on a scale that both sides share.

import { AnswerView, follow } from "./answer.js";
import { duration, figure, make, makeSvg, onceAFrame } from "./dom.js";
import { Tally } from "./tally.js";
import { median, range } from "./verdict.js";

const WIDTH = 300;

/** A lane; `runs` holds the results of finished runs as `{ids, pieces, finish, ms, disturbed}`. */
export class Lane {
  constructor(name, title, body) {
    this.name = name;
    this.title = title;
    this.body = body;
    this.runs = [];
    this.tally = null;
    this.state = make("span", { class: "state" }, "waiting");
    this.plot = makeSvg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} 24`, "aria-hidden": "true", focusable: "false" });
    this.values = {};
    const tiles = make("dl", { class: "tiles" });
    for (const [id, words] of [["time", "median time"], ["range", "range"], ["speed", "tokens a second"], ["saved", "passes saved"]]) {
      this.values[id] = make("dd", {}, "–");
      tiles.append(make("div", {}, make("dt", {}, words), this.values[id]));
    }
    this.text = make("div", { class: "lane-text" });
    this.element = make("article", { class: "lane", "aria-label": title },
      make("header", {}, make("h3", {}, title), this.state), this.plot, tiles, this.text);
    this.paint = onceAFrame(() => this.#paint());
  }

  /** Finished times in ms. */
  get times() { return this.runs.map(({ ms }) => ms); }

  say(words) { this.state.textContent = words; }

  /** One more run; the text of the last one gives way. */
  async run(signal) {
    this.say(`run ${this.runs.length + 1}`);
    this.element.classList.add("busy");
    this.text.replaceChildren();
    this.tally = new Tally();
    const result = { tally: this.tally };
    const view = new AnswerView(this.text, { marks: true });
    try {
      await follow(this.body, { view, result, signal, onProgress: this.paint });
    } finally {
      this.element.classList.remove("busy");
    }
    const ms = this.tally.timings?.predicted_ms ?? result.wallMs;
    this.runs.push({ ids: result.ids, pieces: result.pieces, finish: result.finish, ms, disturbed: false });
    this.say(`${this.runs.length} ${this.runs.length === 1 ? "run" : "runs"} done`);
    this.paint.now();
  }

  /** Draws the finished times; `longest` in ms is the right end of the scale. */
  scale(longest) {
    const x = (ms) => 6 + (ms / longest) * (WIDTH - 12);
    const middle = median(this.times);
    this.plot.replaceChildren(makeSvg("line", { class: "axis", x1: 0, x2: WIDTH, y1: 12, y2: 12 }),
      ...this.times.map((ms) => makeSvg("circle", { class: "time", cx: x(ms).toFixed(1), cy: 12, r: 4.5 })),
      ...(middle === null ? [] : [makeSvg("line", { class: "median", x1: x(middle).toFixed(1), x2: x(middle).toFixed(1), y1: 1, y2: 23 })]));
  }

  #paint() {
    const middle = median(this.times);
    const tokens = this.runs.at(-1)?.ids.length;
    this.values.time.textContent = duration(middle);
    this.values.range.textContent = this.runs.length > 1 ? range(this.times) : "–";
    this.values.speed.textContent = middle && tokens > 1 ? figure((tokens - 1) / (middle / 1000)) : figure(this.tally?.speed);
    this.values.saved.textContent = this.tally?.tokens ? `${this.tally.saved} of ${this.tally.tokens}` : "–";
  }
}
