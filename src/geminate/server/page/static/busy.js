// At most one run at a time, and one way to stop it: the button or Escape.

let running = null;

/** Starts a run: returns its AbortController, or null while another runs. */
export function begin() {
  if (running) return null;
  running = new AbortController();
  return running;
}

/** Ends a run. */
export function end(controller) {
  if (running === controller) running = null;
}

/** Stops what runs, if anything does. */
export function stop() {
  running?.abort();
}

/** Swaps a form's start and stop buttons; focus stays where the action is. */
export function swap(start, halt, busy) {
  const from = busy ? start : halt;
  const to = busy ? halt : start;
  const held = document.activeElement === from;
  to.hidden = false;
  if (held) to.focus();
  from.hidden = true;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) {
    event.preventDefault();
    stop();
  }
});

/** Enter submits the form of a textarea; Shift+Enter, and Enter while a word is being composed, do not. */
export function enterSends(textarea) {
  textarea.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    textarea.form.requestSubmit();
  });
}
