// Starts the page: tabs, theme, API key, health and model of the server.

import { look, onKeyNeeded, setKey } from "./api.js";
import { setUpChat } from "./chat.js";
import { byId } from "./dom.js";
import { setUpRace } from "./race.js";
import { setUpSettings } from "./settings.js";

const READY_MS = 15_000;
const WAITING_MS = 1_500;
const NOT_READY = { loading: "loading the model", draining: "shutting down", failed: "loading the model failed" };
const THEMES = ["system", "light", "dark"];
let model = null;
let timer = 0;

/** The served model's name. */
function modelName() { return model ?? "default"; }

function setUpTabs() {
  const tabs = ["chat", "race"].map((name) => ({ name, tab: byId(`tab-${name}`), panel: byId(`panel-${name}`) }));
  const choose = (chosen, focus) => {
    for (const one of tabs) {
      const on = one === chosen;
      one.tab.setAttribute("aria-selected", String(on));
      one.tab.tabIndex = on ? 0 : -1;
      one.panel.hidden = !on;
    }
    byId("skip").setAttribute("href", chosen.name === "chat" ? "#prompt" : "#race-prompt");
    if (focus) chosen.tab.focus();
  };
  tabs.forEach((one, at) => {
    one.tab.addEventListener("click", () => choose(one, false));
    one.tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(tabs.at(to % tabs.length), true);
    });
  });
}

function setUpTheme() {
  const button = byId("theme");
  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  let theme = "system";
  try {
    theme = localStorage.getItem("geminate-theme") ?? theme;
  } catch {
    // Storage is not available: the choice lasts until reload.
  }
  if (!THEMES.includes(theme)) theme = "system";
  show(theme);
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    show(theme);
    try {
      localStorage.setItem("geminate-theme", theme);
    } catch {
      // As above.
    }
  });
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
    setKey(byId("key").value);
    if (await ask()) {
      byId("key").value = "";
      form.hidden = true;
      byId("prompt").focus();
    }
  });
}

function showHealth(state, words) {
  byId("health").dataset.state = state;
  // Updated only on change, because screen readers announce it.
  if (byId("health-text").textContent !== words) byId("health-text").textContent = words;
}

/** Requests health and model; true if the server is ready and the key, if any, is accepted. */
async function ask() {
  clearTimeout(timer);
  let wait = WAITING_MS;
  let known = false;
  try {
    const health = await look("health/ready");
    if (health.status === 200) {
      if (model === null) await askModel();
      known = model !== null;
      showHealth(known ? "ready" : "waiting", known ? "ready" : "no model listed");
      wait = READY_MS;
    } else if (health.status === 401) {
      showHealth("waiting", "API key required");
      wait = READY_MS;
    } else if (health.status === 503) {
      showHealth("waiting", NOT_READY[health.body?.error?.code] ?? "not ready");
    } else {
      showHealth("down", `status ${health.status}`);
      wait = READY_MS;
    }
  } catch {
    showHealth("down", "unreachable");
    wait = READY_MS / 3;
  }
  // Without a key, more requests would only fill the server's log.
  if (byId("key-form").hidden || known) timer = setTimeout(ask, wait);
  return known;
}

async function askModel() {
  const { status, body } = await look("v1/models");
  const first = status === 200 ? body?.data?.[0] : null;
  if (!first) return;
  model = first.id;
  byId("model").textContent = model;
  const { drafter, weights, speculation_max: limit } = first.geminate ?? {};
  if (limit !== undefined) byId("draft-length").max = String(limit);
  const parts = [weights, first.max_model_len && `context ${first.max_model_len.toLocaleString("en")}`,
    drafter === null && "no drafter: prompt lookup only"];
  byId("pair").textContent = parts.filter(Boolean).join(" · ");
}

setUpTheme();
setUpTabs();
setUpKey();
setUpSettings();
setUpChat(modelName);
setUpRace(modelName);
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden) ask();
});
ask();
