// The figures of a completion: one sentence, and behind it two small charts with the same data in words.

import { counted, duration, figure, make, makeSvg, onceAFrame, spoken } from "./dom.js";
import { ORIGINS } from "./tally.js";

const WIDTH = 320;
const SHOWN_ROUNDS = 80;

/** "148 tokens in 0.09 s, 1,603 a second; 112 of 148 passes saved". */
export function sentence(tally) {
  if (!tally.tokens) return "no tokens";
  const times = tally.timings;
  const parts = [counted(tally.tokens, "token")];
  if (times?.predicted_ms > 0 && times.predicted_n > 1) parts.push(` in ${spoken(times.predicted_ms)}, ${figure(tally.speed)} a second`);
  else if (tally.speed !== null) parts.push(`, ${figure(tally.speed)} a second`);
  if (tally.saved) parts.push(`; ${tally.saved.toLocaleString("en")} of ${tally.tokens.toLocaleString("en")} passes saved`);
  return parts.join("");
}

/** What the server did with the prompt, in words; empty if unknown. */
export function promptSentence({ timings }) {
  if (!timings) return "";
  const { prompt_n: count, cached_n: cached, prompt_ms: ms } = timings;
  const known = cached ? ` ${cached.toLocaleString("en")} of them were known from earlier requests.` : "";
  return `The prompt of ${counted(count, "token")} was read in ${duration(ms)}.${known}`;
}

/** "4 rounds had no draft: 3 because drafting did not pay, 1 because one token was left."; empty if all had one. */
export function undraftedSentence({ undrafted }) {
  if (!undrafted.length) return "";
  const total = undrafted.reduce((sum, [, rounds]) => sum + rounds, 0);
  const parts = undrafted.map(([words, rounds]) => `${rounds.toLocaleString("en")} because ${words}`);
  return `${counted(total, "round")} had no draft: ${parts.join(", ")}.`;
}

/** A collapsed block of figures; painted only while it is open. `refresh` after its tally has changed. */
export class Figures {
  constructor(tally) {
    this.tally = tally;
    this.body = make("div", { class: "figures-body" });
    this.element = make("details", { class: "figures" }, make("summary", {}, "Figures"), this.body);
    this.refresh = onceAFrame(() => { if (this.element.open) this.#paint(); });
    this.element.addEventListener("toggle", () => this.refresh.now());
  }

  #paint() {
    const { tally } = this;
    const length = tally.acceptanceLength;
    const drafted = tally.positions.length > 0;
    this.body.replaceChildren(
      ...[promptSentence(tally), length === null ? "" : meaning(length), undraftedSentence(tally)].filter(Boolean).map((text) => make("p", {}, text)),
      ...(drafted ? [positionsChart(tally.positions)] : []),
      ...(tally.rounds.length && drafted ? [lengthsChart(tally.rounds)] : []),
      originsTable(tally),
    );
  }
}

function meaning(length) {
  return `Each pass of the model produced ${figure(length, 2)} tokens on average; without speculation it is one.`;
}

function positionsChart(positions) {
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
  const words = shown.map(({ drafted, accepted }, place) => `${place + 1}: ${share(accepted, drafted)}`).join(", ");
  return chart("positions", 96, parts, `How many draft tokens were accepted, by their place in the draft: ${words}.`);
}

function lengthsChart(rounds) {
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
  const parts = [
    makeSvg("line", { class: "axis", x1: 24, x2: WIDTH, y1: 64.5, y2: 64.5 }),
    makeSvg("path", { class: "accepted", d: filled }),
    makeSvg("path", { class: "drafted", d: outline }),
    label(9, 12, String(top)),
    label(9, 68, "0"),
  ];
  const total = rounds.reduce((sum, round) => sum + round.drafted, 0);
  const span = shown.length < rounds.length ? ` The last ${SHOWN_ROUNDS} rounds are shown.` : "";
  return chart("lengths", 72, parts, `Draft tokens in each round (outline) and how many were accepted (filled): `
    + `${figure(total / rounds.length, 2)} drafted on average over ${counted(rounds.length, "round")}.${span}`);
}

function chart(name, height, parts, words) {
  const svg = makeSvg("svg", { class: `chart ${name}`, viewBox: `0 0 ${WIDTH} ${height}`, "aria-hidden": "true", focusable: "false" });
  svg.append(...parts);
  return make("figure", {}, svg, make("figcaption", {}, words));
}

function originsTable({ origins, tokens }) {
  const rows = Object.entries(ORIGINS)
    .filter(([name]) => origins[name] > 0)
    .map(([name, words]) => make("div", {}, make("dt", {}, words),
      make("dd", {}, `${origins[name].toLocaleString("en")} (${share(origins[name], tokens)})`)));
  return make("dl", { class: "origins" }, ...rows);
}

function share(part, whole) { return `${Math.round((100 * part) / whole)} %`; }

function label(x, y, text) {
  const made = makeSvg("text", { x, y, "text-anchor": "middle" });
  made.textContent = text;
  return made;
}
