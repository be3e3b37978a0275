// "At real size": the server's demo with random weights, its steps as they come.

import { demoEvents } from "./api.js";
import { begin, end, stop, swap } from "./busy.js";
import { byId, figure, make, showError } from "./dom.js";

/** Wires the demo below the race. */
export function setUpDemo() {
  byId("demo-start").addEventListener("click", start);
  byId("demo-stop").addEventListener("click", stop);
}

async function start() {
  const controller = begin();
  if (!controller) {
    showError(byId("demo-error"), "An answer or a race is running: stop it first.");
    return;
  }
  showError(byId("demo-error"), "");
  byId("demo-lines").replaceChildren();
  byId("demo-lanes").replaceChildren();
  byId("demo-state").textContent = "Starting";
  swap(byId("demo-start"), byId("demo-stop"), true);
  try {
    for await (const event of demoEvents(controller.signal)) take(event);
  } catch (error) {
    byId("demo-state").textContent = error.name === "AbortError" ? "Stopped." : "";
    if (error.name !== "AbortError") showError(byId("demo-error"), error.message);
  } finally {
    end(controller);
    swap(byId("demo-start"), byId("demo-stop"), false);
  }
}

function take(event) {
  const state = byId("demo-state");
  const line = (text) => byId("demo-lines").append(make("p", {}, text));
  switch (event.type) {
    case "demo.start":
      line(`${event.title} in ${event.weights}, random weights: takes ${figure(event.needed_bytes / 1e9)} GB of memory.`);
      event.remarks.forEach(line);
      break;
    case "demo.work":
      state.textContent = event.total ? `${event.what}: ${event.done} of ${event.total}` : event.what;
      break;
    case "demo.passes": line(event.text); break;
    case "demo.lanes":
      state.textContent = "Both side by side";
      byId("demo-lanes").replaceChildren(...event.lanes.map((lane) => row(lane, Math.max(1, ...event.lanes.map(({ tokens }) => tokens)))));
      break;
    case "demo.result":
      state.textContent = "Done.";
      line(event.text);
      break;
    case "demo.error": throw new Error(event.message);
    default: // a step that this page does not know
  }
}

function row({ name, tokens, tokens_per_s: rate }, most) {
  return make("p", { class: "demo-lane" }, make("span", {}, name), make("progress", { max: most, value: tokens, "aria-label": `Tokens, ${name}` }),
    make("span", {}, `${tokens.toLocaleString("en")} tokens, ${figure(rate)} a second`));
}
