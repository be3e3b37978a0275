// The settings form, read at the moment a request is made.

import { byId } from "./dom.js";

/** Ties the form's parts together. */
export function setUpSettings() {
  const mode = byId("speculation");
  const length = byId("draft-length");
  const tie = () => { length.disabled = mode.value !== "fixed"; };
  mode.addEventListener("change", tie);
  tie();
  byId("settings-form").addEventListener("submit", (event) => event.preventDefault());
  // Beside the chat there is room; below it the settings would push the figures away.
  byId("settings").open = matchMedia("(min-width: 62rem)").matches;
}

/** Whether all values are legal; if not, shows the first that is not, with the browser's words. */
export function settingsAreLegal() {
  const form = byId("settings-form");
  if (form.checkValidity()) return true;
  byId("settings").open = true;
  form.reportValidity();
  return false;
}

/** Settings as numbers and texts; `seed` is null where none is given. */
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

/** A seed that a person can retype. */
export function drawSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
}

/** The request body for these settings and turns; fields left out have the server's defaults. */
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
