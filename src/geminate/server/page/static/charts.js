// Statistics next to the completion: tiles, two small SVG charts, and the same data in words.

import { byId, counted, figure, make, makeSvg, onceAFrame } from "./dom.js";
import { ORIGINS } from "./tally.js";

const WIDTH = 320;
const SHOWN_ROUNDS = 80;
let tally = null;

const paint = onceAFrame(() => {
  if (!tally) return;
  byId("fig-speed").textContent = figure(tally.speed);
  byId("fig-length").textContent = figure(tally.acceptanceLength, 2);
  byId("fig-tokens").textContent = tally.tokens.toLocaleString("en");
  byId("fig-rounds").textContent = tally.rounds.length.toLocaleString("en");
  paintPositions(tally.positions);
  paintLengths(tally.rounds);
  paintOrigins(tally);
});

/** Displays this tally from now on; call `refresh` after it changes. */
export function watch(fresh) {
  tally = fresh;
  paint.now();
}

/** Repaints at the next frame. */
export function refresh() { paint(); }

function paintPositions(positions) {
  const svg = byId("chart-positions");
  const shown = positions.slice(0, 16);
  const step = WIDTH / Math.max(shown.length, 6);
  const parts = [makeSvg("line", { class: "axis", x1: 0, x2: WIDTH, y1: 80.5, y2: 80.5 })];
  shown.forEach(({ drafted, accepted }, place) => {
    const height = 62 * (accepted / drafted);
    const x = place * step + step * 0.18;
    parts.push(makeSvg("rect", { class: "drafted", x, y: 18.5, width: step * 0.64, height: 62 }));
    parts.push(makeSvg("rect", { class: "accepted", x, y: 80.5 - height, width: step * 0.64, height }));
    parts.push(label(place * step + step / 2, 93, String(place + 1)));
    if (shown.length <= 10) parts.push(label(place * step + step / 2, 13, share(accepted, drafted)));
  });
  svg.replaceChildren(...parts);
  byId("cap-positions").textContent = shown.length
    ? `Acceptance rate of draft tokens by position in the draft: ${shown
      .map(({ drafted, accepted }, place) => `${place + 1}: ${share(accepted, drafted)}`).join(", ")}.`
    : "No draft tokens: plain decoding.";
}

function paintLengths(rounds) {
  const shown = rounds.slice(-SHOWN_ROUNDS);
  const top = Math.max(4, ...shown.map((round) => round.drafted));
  const step = (WIDTH - 24) / Math.min(SHOWN_ROUNDS, Math.max(24, shown.length));
  const y = (count) => 64.5 - (56 * count) / top;
  let outline = "";
  let filled = "";
  shown.forEach(({ drafted, accepted }, at) => {
    const x = 24 + at * step;
    outline += `${at ? "L" : "M"}${x.toFixed(2)} ${y(drafted).toFixed(2)}h${step.toFixed(2)}`;
    if (accepted) filled += `M${x.toFixed(2)} 64.5V${y(accepted).toFixed(2)}h${step.toFixed(2)}V64.5z`;
  });
  byId("chart-lengths").replaceChildren(
    makeSvg("line", { class: "axis", x1: 24, x2: WIDTH, y1: 64.5, y2: 64.5 }),
    makeSvg("path", { class: "accepted", d: filled }),
    makeSvg("path", { class: "drafted", d: outline }),
    label(9, 12, String(top)),
    label(9, 68, "0"),
  );
  const total = rounds.reduce((sum, round) => sum + round.drafted, 0);
  const span = shown.length < rounds.length ? `; the last ${SHOWN_ROUNDS} rounds are shown` : "";
  byId("cap-lengths").textContent = rounds.length
    ? `Draft tokens per round (outline) and how many were accepted (filled): ${figure(total / rounds.length, 2)} drafted per round over ${counted(rounds.length, "round")}${span}.`
    : "Draft tokens per round (outline) and how many were accepted (filled).";
}

function paintOrigins({ origins, tokens }) {
  const rows = Object.entries(ORIGINS)
    .filter(([name]) => origins[name] > 0)
    .map(([name, words]) => make("div", {},
      make("dt", {}, make("span", { class: "tok", "data-origin": name }, words)),
      make("dd", {}, origins[name].toLocaleString("en")),
      make("dd", {}, share(origins[name], tokens))));
  byId("origins").replaceChildren(...rows);
}

function share(part, whole) { return `${Math.round((100 * part) / whole)} %`; }

function label(x, y, text) {
  const made = makeSvg("text", { x, y, "text-anchor": "middle" });
  made.textContent = text;
  return made;
}
