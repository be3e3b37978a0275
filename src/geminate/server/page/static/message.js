// A turn of the conversation as an article: its text, what can be done with it, and its figures.

import { AnswerView, unpackMarks } from "./answer.js";
import { copyButton, make } from "./dom.js";
import { enterSends } from "./busy.js";
import { Figures } from "./figures.js";
import { Tally } from "./tally.js";

function action(label, words, act) {
  const button = make("button", { type: "button", class: "quiet small", "aria-label": label }, words);
  button.addEventListener("click", act);
  return button;
}

function article(kind, name) {
  return make("article", { class: `message ${kind}`, "aria-label": name }, make("h3", { class: "unseen" }, name));
}

/** What the user wrote. `onEdit(text)` is called with a changed text that was sent. */
export function userMessage(turn, onEdit) {
  const element = article("user", "You");
  const words = make("div", { class: "words" }, turn.content);
  const actions = make("div", { class: "actions" }, copyButton("Copy your message", () => turn.content),
    action("Edit your message", "Edit", () => edit(element, words, actions, turn.content, onEdit)));
  element.append(words, actions);
  return element;
}

function edit(element, words, actions, text, onEdit) {
  const field = make("textarea", { rows: "3", "aria-label": "Edit your message" });
  field.value = text;
  const close = () => {
    form.remove();
    words.hidden = actions.hidden = false;
    element.classList.remove("editing");
    actions.lastChild.focus();
  };
  const form = make("form", { class: "edit" }, field, make("div", { class: "row" },
    make("p", { class: "hint" }, "Answers below are replaced."),
    action("Cancel editing", "Cancel", close), make("button", { type: "submit", class: "primary" }, "Send again")));
  enterSends(field);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    close();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) onEdit(field.value.trim());
  });
  words.hidden = actions.hidden = true;
  element.classList.add("editing");
  element.append(form);
  field.focus();
  field.setSelectionRange(text.length, text.length);
}

/** An answer while it is written, and after `close`. */
export class AnswerMessage {
  constructor({ marks, form, tally, name = "Model" }) {
    this.element = article("assistant", name);
    this.view = new AnswerView(this.element, { marks, form });
    this.figures = new Figures(tally);
  }

  /** A finished answer from the conversation's turns. */
  static restored(turn, { marks, onRetry }) {
    const pieces = turn.content ? unpackMarks(turn.content, turn.marks) : [];
    const made = new AnswerMessage({ marks, form: turn.form, tally: Tally.restored(turn.timings, pieces) });
    if (turn.reasoning) made.view.add(unpackMarks(turn.reasoning, "", "reasoning"));
    made.view.add(pieces);
    made.view.finish();
    made.close(turn, onRetry);
    return made;
  }

  /** Marks it as being written, or not. */
  busy(on) {
    this.element.classList.toggle("busy", on);
    this.element.setAttribute("aria-busy", String(on));
  }

  /** Ends it with its note and what can be done with it. */
  close(turn, onRetry) {
    this.busy(false);
    const actions = make("div", { class: "actions" });
    if (turn.content) actions.append(copyButton("Copy the answer", () => turn.content));
    actions.append(action("Retry: answer again", "Retry", onRetry));
    this.element.append(make("p", { class: "note" }, turn.note ?? ""), this.figures.element, actions);
  }
}
