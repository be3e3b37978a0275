// The conversation: sending, retrying and editing, the running completion, and errors, after which nothing is lost.

import { follow, packMarks } from "./answer.js";
import { begin, end, enterSends, stop, swap } from "./busy.js";
import { announce, byId, showError } from "./dom.js";
import { contextSize, modelName } from "./health.js";
import { sentence } from "./figures.js";
import * as history from "./history.js";
import { AnswerMessage, userMessage } from "./message.js";
import { PromptProgress } from "./progress.js";
import { atEnd, follower } from "./scrolling.js";
import { readSettings, requestBody, settingsAreLegal } from "./settings.js";
import { Tally } from "./tally.js";

const SAVE_MS = 2_000;
let talk = { id: history.freshId(), turns: [] };
let articles = new Map();
let running = null;
let unsaved = null;

/** Wires the chat and shows the conversation from before a reload. */
export function setUpChat() {
  const prompt = byId("prompt");
  enterSends(prompt);
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send(prompt);
  });
  byId("stop").addEventListener("click", stop);
  byId("fresh").addEventListener("click", () => {
    open(null);
    prompt.focus();
    announce("New conversation.");
  });
  byId("marks").addEventListener("change", () => {
    showLegend();
    for (const { view } of articles.values()) view?.setMarks(byId("marks").checked);
    running?.view.setMarks(byId("marks").checked);
  });
  showLegend();
  document.addEventListener("card", () => { if (!running) showContext(); });
  addEventListener("pagehide", () => unsaved?.());
  const id = history.current();
  open(id && history.load(id) ? id : null);
}

function showLegend() { byId("legend").hidden = !byId("marks").checked; }

/** The conversation that is shown: `{id, turns}`. */
export function shown() { return talk; }

/** Shows a stored conversation, or a new one for null. A running completion is stopped and kept in its own. */
export function open(id) {
  if (running) stop();
  articles = new Map();
  talk = { id: id ?? history.freshId(), turns: (id && history.load(id)) || [] };
  history.setCurrent(talk.id);
  showError(byId("chat-error"), "");
  paint();
  atEnd();
}

/** Shows the conversation's turns; articles that are there already stay the same. */
function paint() {
  const made = new Map();
  for (const turn of talk.turns) made.set(turn, articles.get(turn) ?? article(turn));
  articles = made;
  byId("empty").hidden = talk.turns.length > 0;
  patch(byId("log"), [...made.values()].map(({ element }) => element));
  showContext();
}

function article(turn) {
  if (turn.role === "user") return { element: userMessage(turn, (text) => resend(turn, text)) };
  return AnswerMessage.restored(turn, { marks: byId("marks").checked, onRetry: () => retry(turn) });
}

/** Makes an element's children these, without touching those in place. */
function patch(place, elements) {
  elements.forEach((element, at) => {
    if (place.children[at] !== element) place.insertBefore(element, place.children[at] ?? null);
  });
  while (place.children.length > elements.length) place.lastElementChild.remove();
}

function send(prompt) {
  const text = prompt.value.trim();
  if (!text) return;
  run([...talk.turns, { role: "user", content: text }], () => { prompt.value ||= text; }, () => { prompt.value = ""; });
}

function retry(turn) { run(talk.turns.slice(0, talk.turns.indexOf(turn)), () => {}); }

function resend(turn, text) { run([...talk.turns.slice(0, talk.turns.indexOf(turn)), { role: "user", content: text }], () => {}); }

/** Answers `turns`, which end with the user's. If nothing comes, the conversation stays as it was and `undo` is called. */
async function run(turns, undo, started = () => {}) {
  if (!settingsAreLegal()) return;
  const controller = begin();
  if (!controller) {
    showError(byId("chat-error"), "The race is running: stop it first.");
    return;
  }
  started();
  const mine = talk;
  const earlier = mine.turns;
  const settings = readSettings();
  const form = settings.schema ? "json" : "markdown";
  showError(byId("chat-error"), "");
  mine.turns = turns;
  paint();
  swap(byId("send"), byId("stop"), true);
  byId("panel-chat").dataset.busy = "";

  const result = { tally: new Tally() };
  const message = new AnswerMessage({ marks: byId("marks").checked, form, tally: result.tally });
  message.busy(true);
  running = message;
  byId("log").append(message.element);
  message.view.onPaint = follower();
  const answer = () => ({ role: "assistant", ...answerTurn(result, message.view, form), end: "incomplete", note: "Incomplete: the page was left." });
  let last = performance.now();
  unsaved = () => history.save(mine.id, result.content ? [...turns, answer()] : turns);
  unsaved();
  const progress = new PromptProgress(message.element);

  let failure = "";
  let stopped = false;
  try {
    await follow(requestBody(settings, turns, modelName()), {
      view: message.view, result, signal: controller.signal,
      onAccepted: (id) => progress.accepted(id),
      onProgress: () => {
        if (result.ids.length) progress.end();
        message.figures.refresh();
        if (result.ids.length) live(result.tally);
        if (performance.now() - last > SAVE_MS) {
          last = performance.now();
          unsaved();
        }
      },
    });
  } catch (error) {
    stopped = error.name === "AbortError";
    if (!stopped) failure = error.message;
  }
  progress.end();
  unsaved = running = null;
  end(controller);
  swap(byId("send"), byId("stop"), false);
  delete byId("panel-chat").dataset.busy;
  conclude({ mine, turns, earlier, message, result, form, stopped, failure, undo });
}

function conclude({ mine, turns, earlier, message, result, form, stopped, failure, undo }) {
  const here = talk === mine;
  if (failure && here) showError(byId("chat-error"), failure);
  if (result.content || message.view.reasoning || !failure) {
    const ending = stopped ? "stopped" : failure ? "incomplete" : result.finish ?? "stop";
    const turn = { role: "assistant", ...answerTurn(result, message.view, form), end: ending, note: closing(result.tally, ending) };
    mine.turns = [...turns, turn];
    message.close(turn, () => retry(turn));
    if (here) {
      articles.set(turn, message);
      announce(failure ? "" : `${result.content}\n${turn.note}`);
    }
  } else {
    mine.turns = earlier;
    if (here) {
      paint();
      undo();
    }
  }
  const problem = history.save(mine.id, mine.turns);
  if (!here) return;
  byId("storage").textContent = problem;
  byId("storage").hidden = !problem;
  showContext();
  message.view.onPaint();
}

function answerTurn({ content, tally }, view, form) {
  return {
    content, form, marks: packMarks(view.pieces.content), timings: tally.timings ?? undefined,
    ...(view.reasoning ? { reasoning: view.reasoning } : {}),
  };
}

/** One line that says how a completion ended and how fast it was. */
function closing(tally, ending) {
  const words = { stopped: "Stopped. ", incomplete: "Incomplete. ", length: "Token limit reached. " }[ending] ?? "";
  return words + sentence(tally);
}

function live(tally) { byId("context").textContent = `Writing: ${sentence(tally)}`; }

/** How much of the context the conversation fills, as of the last answer. */
function showContext() {
  const timings = talk.turns.at(-1)?.timings;
  const size = contextSize();
  const used = timings ? timings.prompt_n + timings.predicted_n : 0;
  const share = size ? used / size : 0;
  byId("context").textContent = !used ? "" : !size ? `${used.toLocaleString("en")} tokens in use`
    : `Context: ${used.toLocaleString("en")} of ${size.toLocaleString("en")} tokens (${Math.round(100 * share)} %)`
      + (share >= 0.85 ? ". Almost full: begin a new conversation, or shorten this one by editing an earlier message." : "");
  byId("context").classList.toggle("full", share >= 0.85);
}
