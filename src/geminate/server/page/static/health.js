// The server's state: asked every second, so that a server that is gone is noticed within two, and its return as well.

import { SILENT, lastHeard, look, onKeyNeeded, setKey } from "./api.js";
import { announce, byId, bytes } from "./dom.js";
import { showDefaults } from "./settings.js";

const EVERY_MS = 1_000;
const PATIENCE_MS = 900;
const NOT_READY = { loading: "loading the model", draining: "shutting down", failed: "loading the model failed" };
let card = null;
let timer = 0;
let asking = null;
let goneSince = null;
let leaving = 0;
let trying = false;

/** The served model's name in requests. */
export function modelName() { return card?.id ?? "default"; }

/** Tokens that prompt and answer may have together; null if unknown. */
export function contextSize() { return card?.context ?? null; }

/** Starts to ask, and wires the form for the key. */
export function setUpHealth() {
  setUpKey();
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  ask();
}

function setUpKey() {
  const form = byId("key-form");
  onKeyNeeded((given) => {
    const appears = form.hidden;
    form.hidden = false;
    byId("key-why").textContent = given
      ? "The server rejected this API key. Enter another one."
      : "The server requires an API key. It is kept only in this page's memory and forgotten on reload.";
    if (appears && document.activeElement === document.body) byId("key").focus();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await asking; // it may have been sent without this key
    setKey(byId("key").value);
    trying = true;
    const accepted = await ask();
    trying = false;
    if (accepted) {
      byId("key").value = "";
      form.hidden = true;
      byId("prompt").focus();
    }
  });
}

/** Asks for the state and the model; true if the server is ready and the key, if any, is accepted. One at a time. */
async function ask() {
  clearTimeout(timer);
  asking ??= askOnce().finally(() => {
    asking = null;
    if (!document.hidden) timer = setTimeout(ask, EVERY_MS);
  });
  return asking;
}

async function askOnce() {
  // Without a key, requests that need one would only fill the server's log.
  const locked = !byId("key-form").hidden && !trying;
  try {
    const health = await look(locked ? "health/live" : "health/ready", PATIENCE_MS);
    back();
    if (locked || health.status === 401) return show("waiting", "API key required");
    if (health.status === 503) return show("waiting", NOT_READY[health.body?.error?.code] ?? "not ready");
    if (health.status !== 200) return show("down", `status ${health.status}`);
    if (card === null) await readCard();
    return show(card ? "ready" : "waiting", card ? "ready" : "no model listed");
  } catch (error) {
    // An answer that is arriving shows that the server lives, however late it is with this one.
    if (error.status === SILENT && performance.now() - lastHeard() < 2 * PATIENCE_MS) return card !== null;
    gone(error.status === SILENT);
    return show("down", error.status === SILENT ? "does not answer" : "unreachable");
  }
}

/** Shows the state; true for "ready". */
function show(state, words) {
  byId("health").dataset.state = state;
  // Updated only on change, because screen readers announce it.
  if (byId("health-text").textContent !== words) byId("health-text").textContent = words;
  return state === "ready";
}

function gone(silent) {
  if (goneSince !== null) return;
  goneSince = new Date();
  clearTimeout(leaving);
  const time = goneSince.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const what = silent ? "The server has not answered" : "The server has been unreachable";
  byId("gone").dataset.state = "gone";
  byId("gone").textContent = `${what} since ${time}. This page asks again every second; what you see and write here is kept.`;
  byId("gone").hidden = false;
}

function back() {
  if (goneSince === null) return;
  goneSince = null;
  card = null; // it may serve another model now
  byId("gone").dataset.state = "back";
  byId("gone").textContent = "The server is back.";
  leaving = setTimeout(() => { byId("gone").hidden = true; }, 4_000);
}

/** Reads the model's card and shows it; a server without one still lists its model. */
async function readCard() {
  const found = await look("ui/card");
  if (found.status === 200 && found.body?.id) card = found.body;
  else {
    const { body } = await look("v1/models");
    const first = body?.data?.[0];
    if (!first) return;
    card = { id: first.id, context: first.max_model_len, drafter: first.geminate?.drafter ? { name: first.geminate.drafter } : null };
  }
  byId("model").textContent = card.id;
  showDefaults(card);
  paintCard();
}

/** Reads the card again, for figures that change, such as memory. */
export async function refreshCard() {
  const found = await look("ui/card").catch(() => null);
  if (found?.status !== 200 || !found.body?.id) {
    announce("The model's card could not be read.");
    return;
  }
  card = found.body;
  paintCard();
}

function paintCard() {
  document.dispatchEvent(new Event("card"));
  byId("card-lines").replaceChildren(...cardLines(card).flatMap(([name, words]) => {
    const term = document.createElement("dt");
    const detail = document.createElement("dd");
    term.textContent = name;
    detail.textContent = words;
    return [term, detail];
  }));
}

/** The card as (name, words). */
export function cardLines({ id, target, drafter, context, threads, instructions, memory, sampling, version }) {
  const lines = [["Model", target && target.name !== id ? `${id} (${target.name})` : id]];
  if (target) lines.push(["Size", weights(target)]);
  lines.push(["Drafter", drafter ? `${drafter.name ?? "built in"}${drafter.bytes ? `: ${weights(drafter)}` : ""}`
    : "none: only text that repeats the prompt or the answer is drafted"]);
  if (context) lines.push(["Context", `${context.toLocaleString("en")} tokens`]);
  if (memory) {
    const room = memory.kv_limit ? `; ${bytes(memory.kv_used)} of ${bytes(memory.kv_limit)} for conversations in use` : "";
    lines.push(["Memory", `${bytes(memory.resident)} resident${room}`]);
  }
  if (threads) lines.push(["Threads", `${threads}${instructions ? ` (${instructions})` : ""}`]);
  if (sampling) lines.push(["Own sampling", samplingWords(sampling)]);
  if (version) lines.push(["Version", `Geminate ${version}`]);
  return lines;
}

function weights({ parameters, bytes: size, format }) {
  const count = parameters >= 1e9 ? `${(parameters / 1e9).toFixed(1)} billion` : parameters >= 1e6 ? `${(parameters / 1e6).toFixed(1)} million` : parameters.toLocaleString("en");
  return `${count} parameters, ${bytes(size)} as ${format}`;
}

function samplingWords({ temperature, top_p: topP, top_k: topK, min_p: minP }) {
  if (temperature === 0) return "greedy (temperature 0)";
  const parts = [`temperature ${temperature}`];
  if (topP < 1) parts.push(`top-p ${topP}`);
  if (topK > 0) parts.push(`top-k ${topK}`);
  if (minP > 0) parts.push(`min-p ${minP}`);
  return parts.join(", ");
}
