// DOM helpers; text is always inserted as text, never as markup.

/** Element by id; throws if the page has none, which is a bug in the page. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found;
}

/** New element: attributes as given, children are elements or texts. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** New SVG element. */
export function makeSvg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

/** Wraps `paint` so that it runs at most once per frame; `now()` runs it immediately. */
export function onceAFrame(paint) {
  let asked = 0;
  const ask = () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      paint();
    });
  };
  ask.now = () => {
    cancelAnimationFrame(asked);
    asked = 0;
    paint();
  };
  return ask;
}

let clearing = 0;

/** Announces a text to screen readers, politely and once. */
export function announce(text) {
  const region = byId("announce");
  clearTimeout(clearing);
  region.textContent = text;
  // Cleared later, so that it is not found by reading on and announcing the same text again is a change.
  clearing = setTimeout(() => { region.textContent = ""; }, 20_000);
}

/** Shows an error message, or hides the element if `words` is empty. */
export function showError(element, words) {
  element.textContent = words;
  element.hidden = !words;
}

/** A number with a few significant digits and thousands separated; a dash for none. */
export function figure(value, digits = 1) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const places = Math.abs(value) >= 100 ? 0 : digits;
  return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}

/** "1 token", "2 tokens". */
export function counted(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

/** Milliseconds as "85 ms" or "1.25 s". */
export function duration(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return "–";
  return ms < 1000 ? `${figure(ms, ms < 10 ? 1 : 0)} ms` : `${figure(ms / 1000, 2)} s`;
}

/** Milliseconds in words as a person says them: "0.09 seconds", "2 minutes 5 seconds". */
export function spoken(ms) {
  const seconds = ms / 1000;
  if (seconds < 100) return `${figure(seconds, seconds < 10 ? 2 : 1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** Bytes as "1.3 GB". */
export function bytes(count) {
  if (count === null || count === undefined) return "unknown";
  const at = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, count)) / 3)));
  const value = count / 1000 ** at;
  return `${at === 0 ? value : figure(value, value < 10 ? 1 : 0)} ${["bytes", "kB", "MB", "GB", "TB"][at]}`;
}

/** Copies a text; false where the browser refuses. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain HTTP from another machine there is no clipboard object: the older way still works there.
  }
  const field = make("textarea", { class: "unseen", "aria-hidden": "true", tabindex: "-1" });
  field.value = text;
  const held = document.activeElement;
  const place = held?.closest?.("dialog") ?? document.body;
  place.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  held?.focus?.();
  return done;
}

/** A quiet button that copies what `read(button)` returns, and says so on itself for a moment. */
export function copyButton(label, read) {
  const button = make("button", { type: "button", class: "quiet small", "data-copies": "", "aria-label": label }, "Copy");
  button.addEventListener("click", async () => {
    const done = await copyText(read(button));
    button.textContent = done ? "Copied" : "Copying failed";
    announce(done ? "Copied." : "The browser did not allow copying.");
    setTimeout(() => { button.textContent = "Copy"; }, 1800);
  });
  return button;
}
