// The race: one prompt with speculation off and on, and a comparison of the tokens.

import { AnswerView, follow } from "./answer.js";
import { chatChunks } from "./api.js";
import { begin, end, enterSends, stop, swap } from "./busy.js";
import { refresh, watch } from "./charts.js";
import { byId, counted, duration, figure, make, makeSvg, onceAFrame, showError } from "./dom.js";
import { drawSeed, readSettings, requestBody, settingsAreLegal } from "./settings.js";
import { Tally } from "./tally.js";

/** Wires the race; `model()` is the served model's name. */
export function setUpRace(model) {
  const prompt = byId("race-prompt");
  enterSends(prompt);
  byId("race-form").addEventListener("submit", (event) => {
    event.preventDefault();
    start(prompt.value.trim(), model());
  });
  byId("race-stop").addEventListener("click", stop);
}

async function start(text, model) {
  if (!text) {
    showError(byId("race-error"), "Enter a prompt for the race.");
    return;
  }
  if (!settingsAreLegal()) return;
  const controller = begin();
  if (!controller) return;
  showError(byId("race-error"), "");
  swap(byId("race-start"), byId("race-stop"), true);
  const settings = readSettings();
  settings.seed ??= drawSeed();
  // Comparing "off" with "off" would show nothing.
  const on = settings.speculation === "off" ? "auto" : settings.speculation;
  const together = document.querySelector("input[name=order]:checked").value === "together";
  const body = (speculation) => requestBody({ ...settings, speculation }, [{ role: "user", content: text }], model);
  const lanes = [
    new Lane("Speculation off", body("off"), settings.maxTokens),
    new Lane(`Speculation ${typeof on === "number" ? `with draft length ${on}` : on}`, body(on), settings.maxTokens),
  ];
  byId("lanes").replaceChildren(...lanes.map((lane) => lane.element));
  const say = (state, words, detail) => {
    byId("verdict").dataset.state = state;
    byId("verdict").replaceChildren(words, ...(detail ? [make("small", {}, detail)] : []));
  };
  say("running", `Running with seed ${settings.seed}.`);
  try {
    if (byId("race-warm").checked) {
      lanes.forEach((lane) => lane.say("warming up"));
      for (const lane of lanes) await warmUp(lane.body, controller.signal);
    }
    lanes.forEach((lane) => lane.say("waiting"));
    if (together) await all(lanes.map((lane) => lane.run(controller.signal)));
    else for (const lane of lanes) await lane.run(controller.signal);
    conclude(lanes, together, settings, say);
  } catch (error) {
    const stopped = error.name === "AbortError";
    lanes.forEach((lane) => lane.abandon());
    say("idle", stopped ? "Stopped: not compared." : "Not compared.");
    if (!stopped) showError(byId("race-error"), error.message);
    controller.abort();
  } finally {
    end(controller);
    swap(byId("race-start"), byId("race-stop"), false);
  }
}

/** Waits for all, even if one fails, then throws the first failure. */
async function all(promises) {
  const ends = await Promise.allSettled(promises);
  const failed = ends.find((one) => one.status === "rejected" && one.reason.name !== "AbortError") ?? ends.find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
}

/** Generates a few tokens with the same prompt, so that neither lane is timed with cold weights or a cold prompt. */
async function warmUp(body, signal) {
  for await (const chunk of chatChunks({ ...body, max_completion_tokens: Math.min(8, body.max_completion_tokens) }, signal)) void chunk;
}

function conclude([off, on], together, settings, say) {
  const conditions = `seed ${settings.seed}, temperature ${settings.temperature}`;
  const [a, b] = [off.result, on.result];
  const differs = firstDifference(a, b);
  if (differs) {
    say("differ", "Output differs", `${differs} (${conditions})`);
    return;
  }
  const ratio = on.ms && off.ms ? off.ms / on.ms : null;
  if (ratio && !together) (ratio >= 1 ? on : off).element.dataset.won = "";
  const speed = ratio === null ? "" : together
    ? "Both ran at the same time and shared the machine, so the times cannot be compared with separate runs."
    : `Speculation took ${duration(on.ms)} instead of ${duration(off.ms)}: ${figure(ratio, 2)} times as fast.`;
  say("same", "Same output, token for token", `${counted(a.ids.length, "token")} (${conditions}). ${speed}`);
}

/** Describes the first difference between two results; null if there is none. */
export function firstDifference(a, b) {
  const longest = Math.max(a.ids.length, b.ids.length);
  const name = (result, at) => (at < result.ids.length ? `${result.ids[at]} ${JSON.stringify(result.pieces[at])}` : "the end");
  for (let at = 0; at < longest; at += 1) {
    if (a.ids[at] !== b.ids[at]) return `First difference at token ${at + 1}: ${name(a, at)} with speculation off, ${name(b, at)} with speculation on.`;
  }
  if (a.finish !== b.finish) return `The same ${counted(longest, "token")}, but finish reasons ${a.finish} (off) and ${b.finish} (on).`;
  if (longest === 0) return "Neither run generated a token, so there is nothing to compare.";
  return null;
}

class Lane {
  constructor(title, body, maxTokens) {
    this.body = body;
    this.maxTokens = maxTokens;
    this.result = { tally: new Tally() };
    this.state = make("span", { class: "state" });
    this.runBar = makeSvg("rect", { class: "run", x: 0, y: 0, width: 0, height: 10, rx: 5 });
    this.track = makeSvg("svg", { class: "track", "aria-hidden": "true", focusable: "false" });
    this.track.append(makeSvg("rect", { width: "100%", height: 10, rx: 5 }), this.runBar);
    this.values = {};
    const tiles = make("dl", { class: "tiles" });
    for (const name of ["time", "tokens/s", "acceptance length", "tokens"]) {
      this.values[name] = make("dd", {}, "–");
      tiles.append(make("div", {}, make("dt", {}, name), this.values[name]));
    }
    this.element = make("article", { class: "lane", "aria-label": title },
      make("header", {}, make("h3", {}, title), this.state), this.track, tiles);
    this.view = new AnswerView(this.element);
    this.paint = onceAFrame(() => this.#paint());
  }

  /** Decode time without the prompt, in ms, as reported by the server. */
  get ms() { return this.result.tally.timings?.predicted_ms ?? null; }

  say(words) { this.state.textContent = words; }

  /** Marks a lane that was stopped or failed. */
  abandon() {
    if (this.result.finish === null || this.result.finish === undefined) this.say("not finished");
    this.element.classList.remove("busy");
  }

  async run(signal) {
    this.say("running");
    this.element.classList.add("busy");
    watch(this.result.tally);
    this.began = performance.now();
    await follow(this.body, {
      view: this.view, result: this.result, signal, onProgress: () => { this.paint(); refresh(); },
    });
    this.element.classList.remove("busy");
    this.paint.now();
    const times = this.result.tally.timings;
    const end = this.result.finish === "length" ? "token limit reached" : "finished";
    this.say(times ? `${end}; prompt ${duration(times.prompt_ms)}` : end);
  }

  #paint() {
    const { tally } = this.result;
    this.values.time.textContent = duration(this.ms ?? performance.now() - this.began);
    this.values["tokens/s"].textContent = figure(tally.speed);
    this.values["acceptance length"].textContent = figure(tally.acceptanceLength, 2);
    this.values.tokens.textContent = tally.tokens.toLocaleString("en");
    const whole = this.result.finish ? 1 : Math.min(1, tally.tokens / this.maxTokens);
    this.runBar.setAttribute("width", `${100 * whole}%`);
  }
}
