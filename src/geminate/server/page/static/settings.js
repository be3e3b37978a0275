// The settings form: it survives a reload, and is read when a request is sent.

import { byId, figure } from "./dom.js";

const STORED = "geminate-settings";
const FIELDS = ["speculation", "draft-length", "temperature", "top-p", "top-k", "min-p", "seed", "max-tokens", "thinking", "system", "schema"];
const SAMPLING = { temperature: "temperature", "top-p": "top_p", "top-k": "top_k", "min-p": "min_p" };

/** Wires the settings form. */
export function setUpSettings() {
  const form = byId("settings-form");
  restore();
  tie();
  checkSchema();
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    tie();
    checkSchema();
    store();
  });
  byId("schema").addEventListener("input", checkSchema);
  byId("settings-reset").addEventListener("click", () => {
    form.reset();
    tie();
    checkSchema();
    store();
  });
}

function tie() { byId("draft-length").disabled = byId("speculation").value !== "fixed"; }

/** Shows the model's own values where the form leaves them to it; `card` is the server's `/ui/card`. */
export function showDefaults(card) {
  const { sampling = {}, max_tokens: limit, speculation_max: longest } = card;
  for (const [id, name] of Object.entries(SAMPLING)) {
    const off = { top_k: 0, top_p: 1, min_p: 0 }[name];
    const value = sampling[name];
    byId(id).placeholder = value === undefined ? "model's own" : value === off ? "model's: off" : `model's: ${short(value)}`;
  }
  if (limit) byId("max-tokens").placeholder = `server's: ${limit.toLocaleString("en")}`;
  if (longest) byId("draft-length").max = String(longest);
  byId("thinking").disabled = card.thinking === false;
  byId("thinking-why").hidden = card.thinking !== false;
}

function short(value) { return Number.isInteger(value) ? String(value) : figure(value, 2); }

/** What is wrong with a JSON schema as typed; "" if nothing, or if the field is empty. */
export function schemaProblem(text) {
  if (!text.trim()) return "";
  let schema;
  try {
    schema = JSON.parse(text);
  } catch (error) {
    return `This is not valid JSON: ${error.message.replace(/^JSON\.parse: |^SyntaxError: /, "")}.`.replace(/\.\.$/, ".");
  }
  if (schema === null || typeof schema !== "object" || Array.isArray(schema)) return "A schema is a JSON object, such as {\"type\": \"object\"}.";
  const type = schema.type;
  const types = ["object", "array", "string", "number", "integer", "boolean", "null"];
  const wrong = [type ?? []].flat().find((one) => !types.includes(one));
  if (wrong !== undefined) return `"type" is ${JSON.stringify(wrong)}, but must be one of: ${types.join(", ")}.`;
  if (schema.properties !== undefined && (typeof schema.properties !== "object" || Array.isArray(schema.properties) || schema.properties === null)) {
    return "\"properties\" must be an object that maps names to schemas.";
  }
  const missing = Array.isArray(schema.required) ? schema.required.find((name) => !Object.hasOwn(schema.properties ?? {}, name)) : undefined;
  if (missing !== undefined && schema.properties) return `"required" names ${JSON.stringify(missing)}, which "properties" does not have.`;
  return "";
}

function checkSchema() {
  const field = byId("schema");
  const problem = schemaProblem(field.value);
  field.setCustomValidity(problem);
  field.setAttribute("aria-invalid", String(Boolean(problem)));
  byId("schema-problem").textContent = problem;
  byId("schema-problem").hidden = !problem;
}

/** Whether all values are valid; otherwise opens the settings at the first invalid one, with the browser's message. */
export function settingsAreLegal() {
  const form = byId("settings-form");
  if (form.checkValidity()) return true;
  if (!byId("settings").open) byId("settings").showModal();
  form.reportValidity();
  return false;
}

function number(id) {
  const value = byId(id).valueAsNumber;
  return Number.isNaN(value) ? null : value;
}

/** The settings as numbers and strings; null where the server's or the model's own value applies. */
export function readSettings() {
  const mode = byId("speculation").value;
  const schema = byId("schema").value.trim();
  return {
    speculation: mode === "fixed" ? number("draft-length") : mode,
    temperature: number("temperature"),
    topP: number("top-p"),
    topK: number("top-k"),
    minP: number("min-p"),
    seed: number("seed"),
    maxTokens: number("max-tokens"),
    thinking: byId("thinking").checked && !byId("thinking").disabled,
    system: byId("system").value.trim(),
    schema: schema ? JSON.parse(schema) : null,
  };
}

/** A random seed short enough to retype. */
export function drawSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
}

/** The request body for these settings and turns; omitted fields use the server's defaults. */
export function requestBody(settings, turns, model) {
  const plain = turns.map(({ role, content }) => ({ role, content }));
  const messages = settings.system ? [{ role: "system", content: settings.system }, ...plain] : plain;
  const body = { model, messages, speculation: settings.speculation };
  const given = {
    temperature: settings.temperature, top_p: settings.topP, top_k: settings.topK, min_p: settings.minP,
    seed: settings.seed, max_completion_tokens: settings.maxTokens,
  };
  for (const [name, value] of Object.entries(given)) if (value !== null && value !== undefined) body[name] = value;
  if (settings.thinking) body.chat_template_kwargs = { enable_thinking: true };
  if (settings.schema) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: settings.schema } };
  return body;
}

function store() {
  const values = Object.fromEntries(FIELDS.map((id) => [id, byId(id).type === "checkbox" ? byId(id).checked : byId(id).value]));
  try {
    localStorage.setItem(STORED, JSON.stringify(values));
  } catch {
    // The settings last until reload.
  }
}

function restore() {
  let values = null;
  try {
    values = JSON.parse(localStorage.getItem(STORED));
  } catch {
    // Nothing stored, or nothing legible: the defaults stay.
  }
  for (const id of FIELDS) {
    const value = values?.[id];
    const field = byId(id);
    if (field.type === "checkbox" && typeof value === "boolean") field.checked = value;
    else if (field.type !== "checkbox" && typeof value === "string") field.value = value;
  }
  // A stored value that the list of choices no longer has.
  if (!byId("speculation").value) byId("speculation").value = "auto";
}
