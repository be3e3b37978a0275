// The settings form; it is read when a request is sent.

import { byId } from "./dom.js";

/** Wires the settings form. */
export function setUpSettings() {
  const mode = byId("speculation");
  const length = byId("draft-length");
  const tie = () => { length.disabled = mode.value !== "fixed"; };
  mode.addEventListener("change", tie);
  tie();
  byId("settings-form").addEventListener("submit", (event) => event.preventDefault());
  // Open when shown next to the chat; in one column they would push the statistics down.
  byId("settings").open = matchMedia("(min-width: 62rem)").matches;
}

/** Whether all values are valid; otherwise shows the browser's message for the first invalid one. */
export function settingsAreLegal() {
  const form = byId("settings-form");
  if (form.checkValidity()) return true;
  byId("settings").open = true;
  form.reportValidity();
  return false;
}

/** The settings as numbers and strings; `seed` is null if none is set. */
export function readSettings() {
  const mode = byId("speculation").value;
  return {
    speculation: mode === "fixed" ? byId("draft-length").valueAsNumber : mode,
    temperature: byId("temperature").valueAsNumber,
    seed: byId("seed").value === "" ? null : byId("seed").valueAsNumber,
    maxTokens: byId("max-tokens").valueAsNumber,
    thinking: byId("thinking").checked,
    system: byId("system").value.trim(),
  };
}

/** A random seed short enough to retype. */
export function drawSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
}

/** The request body for these settings and turns; omitted fields use the server's defaults. */
export function requestBody(settings, turns, model) {
  const messages = settings.system ? [{ role: "system", content: settings.system }, ...turns] : turns;
  const body = {
    model,
    messages,
    temperature: settings.temperature,
    max_completion_tokens: settings.maxTokens,
    speculation: settings.speculation,
  };
  if (settings.seed !== null) body.seed = settings.seed;
  if (settings.thinking) body.chat_template_kwargs = { enable_thinking: true };
  return body;
}
