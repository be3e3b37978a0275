// The conversation: turns, the running completion, and errors, after which the message can be sent again.

import { AnswerView, follow } from "./answer.js";
import { begin, end, enterSends, stop, swap } from "./busy.js";
import { refresh, watch } from "./charts.js";
import { announce, byId, counted, duration, figure, make, showError } from "./dom.js";
import { readSettings, requestBody, settingsAreLegal } from "./settings.js";
import { Tally } from "./tally.js";

let turns = [];

/** Wires the chat; `model()` is the served model's name. */
export function setUpChat(model) {
  const prompt = byId("prompt");
  enterSends(prompt);
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send(prompt, model());
  });
  byId("stop").addEventListener("click", stop);
  byId("fresh").addEventListener("click", () => {
    stop();
    turns = [];
    byId("log").replaceChildren(byId("empty"));
    byId("empty").hidden = false;
    showError(byId("chat-error"), "");
    prompt.focus();
    announce("New conversation.");
  });
}

async function send(prompt, model) {
  const text = prompt.value.trim();
  if (!text || !settingsAreLegal()) return;
  const controller = begin();
  if (!controller) return;
  const asked = turns;
  showError(byId("chat-error"), "");
  byId("empty").hidden = true;
  prompt.value = "";
  swap(byId("send"), byId("stop"), true);

  const question = message("user", "You");
  question.append(make("div", { class: "words" }, text));
  const reply = message("assistant", "Model");
  reply.classList.add("busy");
  byId("log").append(question, reply);
  const view = new AnswerView(reply);
  view.onPaint = keepAtEnd(byId("log"));
  const result = { tally: new Tally() };
  watch(result.tally);

  let failure = "";
  let stopped = false;
  try {
    const body = requestBody(readSettings(), [...asked, { role: "user", content: text }], model);
    await follow(body, { view, result, signal: controller.signal, onProgress: refresh });
  } catch (error) {
    stopped = error.name === "AbortError";
    if (!stopped) failure = error.message;
  }
  reply.classList.remove("busy");
  end(controller);
  swap(byId("send"), byId("stop"), false);
  // The conversation was cleared in the meantime; this completion is not part of the new one.
  if (!reply.isConnected) return;
  if (failure) showError(byId("chat-error"), failure);
  if (result.content || !failure) {
    const words = closing(result, stopped, failure);
    reply.append(make("p", { class: "note" }, words));
    turns = [...asked, { role: "user", content: text }, { role: "assistant", content: result.content }];
    announce(failure ? "" : `${result.content}\n${words}`);
  } else {
    question.remove();
    reply.remove();
    byId("empty").hidden = turns.length > 0;
    prompt.value ||= text;
  }
  view.onPaint();
}

function message(kind, name) {
  return make("article", { class: `message ${kind}`, "aria-label": name }, make("h3", {}, name));
}

/** One-line summary of a completion. */
function closing({ tally, finish }, stopped, failure) {
  const parts = [counted(tally.tokens, "token")];
  if (tally.speed !== null) parts.push(`${figure(tally.speed)} tokens/s`);
  if (tally.acceptanceLength !== null) parts.push(`acceptance length ${figure(tally.acceptanceLength, 2)}`);
  const times = tally.timings;
  if (times) parts.push(`prompt ${duration(times.prompt_ms)}${times.cached_n ? ` (${times.cached_n} of ${times.prompt_n} tokens cached)` : ""}`);
  const end = stopped ? "Stopped. " : failure ? "Incomplete. " : finish === "length" ? "Token limit reached. " : "";
  return end + parts.join(" · ");
}

/** Keeps scrolling to the end unless the user has scrolled away. */
function keepAtEnd(log) {
  let wanted = true;
  log.scrollTop = log.scrollHeight;
  log.addEventListener("scroll", () => {
    wanted = log.scrollHeight - log.scrollTop - log.clientHeight < 48;
  }, { passive: true });
  return () => { if (wanted) log.scrollTop = log.scrollHeight; };
}
