// At most one run at a time; the Stop button or Escape stops it.

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

/** Stops the current run, if there is one. */
export function stop() {
  running?.abort();
}

/** Swaps a form's start and stop buttons; keyboard focus moves along. */
export function swap(start, halt, busy) {
  const from = busy ? start : halt;
  const to = busy ? halt : start;
  const held = document.activeElement === from;
  to.hidden = false;
  if (held) to.focus();
  from.hidden = true;
}

document.addEventListener("keydown", (event) => {
  // In a drawer, Escape closes the drawer.
  if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    stop();
  }
});

/** Makes Enter submit the form of a textarea, except with Shift or during input-method composition. */
export function enterSends(textarea) {
  textarea.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    textarea.form.requestSubmit();
  });
}
