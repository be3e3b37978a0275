// Small helpers for elements; text always goes in as text, never as markup.

/** Element by id; the page is wrong, not the user, if it is missing. */
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

/** Calls `paint` at most once a frame, however often it is asked; `now()` paints at once. */
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

/** Says a text to screen readers, once, when they are free. */
export function announce(text) {
  const region = byId("announce");
  clearTimeout(clearing);
  region.textContent = text;
  // Emptied later, so that nobody finds it by reading on; the same text said again is a change then.
  clearing = setTimeout(() => { region.textContent = ""; }, 20_000);
}

/** Shows an error in words, or hides it when `words` is empty. */
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
