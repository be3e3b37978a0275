// The race: one prompt, several runs with speculation off and on in turn, and a comparison of times and tokens.

import { chatChunks, look } from "./api.js";
import { begin, end, enterSends, stop, swap } from "./busy.js";
import { byId, counted, duration, make, showError } from "./dom.js";
import { modelName } from "./health.js";
import { Lane } from "./lane.js";
import { drawSeed, readSettings, requestBody, settingsAreLegal } from "./settings.js";
import { compare, firstDifference, plan } from "./verdict.js";

const LOOK_MS = 250;
const WARM_TOKENS = 8;
const RACE_TOKENS = 128;
const ON = { auto: "automatic draft length", ngram: "prompt lookup only" };

/** Wires the race. */
export function setUpRace() {
  const prompt = byId("race-prompt");
  enterSends(prompt);
  byId("race-form").addEventListener("submit", (event) => {
    event.preventDefault();
    start(prompt.value.trim());
  });
  byId("race-stop").addEventListener("click", stop);
  byId("race-marks").addEventListener("change", showMarks);
  showMarks();
}

function showMarks() {
  byId("lanes").classList.toggle("unmarked", !byId("race-marks").checked);
  byId("race-legend").hidden = !byId("race-marks").checked;
}

function say(state, words, ...details) {
  byId("verdict").dataset.state = state;
  byId("verdict").replaceChildren(words, ...details.filter(Boolean).map((text) => make("small", {}, text)));
}

async function start(text) {
  if (!text) {
    showError(byId("race-error"), "Enter a prompt for the race.");
    return;
  }
  if (!settingsAreLegal()) return;
  const controller = begin();
  if (!controller) {
    showError(byId("race-error"), "An answer is being written in the chat: stop it first.");
    return;
  }
  showError(byId("race-error"), "");
  swap(byId("race-start"), byId("race-stop"), true);
  const settings = readSettings();
  settings.seed ??= drawSeed();
  settings.maxTokens ??= RACE_TOKENS;
  // Comparing "off" with "off" would show nothing.
  const on = settings.speculation === "off" ? "auto" : settings.speculation;
  const body = (speculation) => requestBody({ ...settings, speculation }, [{ role: "user", content: text }], modelName());
  const lanes = {
    off: new Lane("off", "Speculation off", body("off")),
    on: new Lane("on", `Speculation on, ${ON[on] ?? `draft length ${on}`}`, body(on)),
  };
  const order = plan(Number(byId("race-runs").value));
  byId("lanes").replaceChildren(lanes.off.element, lanes.on.element);
  byId("race-table").hidden = true;
  try {
    say("running", "Warming up", `Seed ${settings.seed}.`);
    for (const lane of Object.values(lanes)) await warmUp(lane.body, controller.signal);
    for (const [at, name] of order.entries()) {
      say("running", `Run ${at + 1} of ${order.length}: ${lanes[name].title.toLowerCase()}`, `Seed ${settings.seed}.`);
      await watched(lanes[name], controller.signal);
      const longest = Math.max(...lanes.off.times, ...lanes.on.times);
      for (const lane of Object.values(lanes)) lane.scale(longest);
    }
    conclude(lanes, order, settings);
  } catch (error) {
    const stopped = error.name === "AbortError";
    for (const lane of Object.values(lanes)) lane.say("not finished");
    say("idle", stopped ? "Stopped: not compared." : "Not compared.");
    if (!stopped) showError(byId("race-error"), error.message);
    controller.abort();
  } finally {
    end(controller);
    swap(byId("race-start"), byId("race-stop"), false);
  }
}

/** Generates a few tokens with the same prompt, so that no run is timed with cold weights or a cold prompt. */
async function warmUp(body, signal) {
  for await (const chunk of chatChunks({ ...body, max_completion_tokens: Math.min(WARM_TOKENS, body.max_completion_tokens) }, signal)) void chunk;
}

async function work() {
  const found = await look("ui/work").catch(() => null);
  return found?.status === 200 ? found.body : null;
}

/** One run, noting whether the server wrote other answers meanwhile. */
async function watched(lane, signal) {
  let disturbed = false;
  let asking = null;
  const before = await work();
  const timer = setInterval(() => {
    asking ??= work().then((now) => {
      disturbed ||= now !== null && (now.running > 1 || now.waiting > 0);
      asking = null;
    });
  }, LOOK_MS);
  try {
    await lane.run(signal);
  } finally {
    clearInterval(timer);
  }
  await asking;
  const after = await work();
  const run = lane.runs.at(-1);
  run.disturbed = disturbed || (before !== null && after !== null && after.generated - before.generated > run.ids.length);
}

function conclude(lanes, order, settings) {
  const [first, ...others] = lanes.off.runs;
  const conditions = `seed ${settings.seed}, ${settings.temperature === null ? "the model's own sampling" : `temperature ${settings.temperature}`}`;
  fillTable(lanes, order);
  for (const run of lanes.on.runs) {
    const differs = firstDifference(first, run);
    if (differs) return say("differ", "Output differs", `${differs} (${conditions})`);
  }
  for (const run of others) {
    const differs = firstDifference(first, run, ["in the first run", "in a later run"]);
    if (differs) return say("differ", "Output differs", `Between two runs with speculation off. ${differs} (${conditions})`);
  }
  const { clear, faster, words } = compare(lanes.off.times, lanes.on.times);
  for (const lane of Object.values(lanes)) lane.element.classList.toggle("won", faster === lane.name);
  const rule = clear ? "Clear, because every run of one setting was faster than every run of the other."
    : "A difference counts as clear only if every run of one setting was faster than every run of the other.";
  const count = [...lanes.off.runs, ...lanes.on.runs].filter(({ disturbed }) => disturbed).length;
  const noise = count ? `Another answer was written during ${count} of ${order.length} runs, so these times are disturbed: race again when the server has nothing else to do.` : "";
  say(count ? "disturbed" : faster === "on" ? "same" : "unclear", words, noise, rule,
    `Same output, token for token, in all ${order.length} runs: ${counted(first.ids.length, "token")} (${conditions}).`);
}

function fillTable(lanes, order) {
  const seen = { off: 0, on: 0 };
  const rows = order.map((name, at) => {
    const run = lanes[name].runs[seen[name]++];
    return make("tr", {}, make("td", {}, String(at + 1)), make("td", {}, lanes[name].title), make("td", { class: "right" }, duration(run.ms)),
      make("td", { class: "right" }, String(run.ids.length)), make("td", {}, run.disturbed ? "another answer ran" : ""));
  });
  byId("race-rows").replaceChildren(...rows);
  byId("race-table").hidden = false;
}
