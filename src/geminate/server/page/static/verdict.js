// What the runs of a race say: medians, ranges, whether the difference is clear, and whether the tokens are the same.

import { counted, duration, figure } from "./dom.js";

/** Runs of each setting that are needed before a difference can be called clear. */
export const LEAST_RUNS = 3;

/** The order of `count` runs of each: off, on, on, off, and again, so that a drift of the machine meets both alike. */
export function plan(count) {
  const pattern = ["off", "on", "on", "off"];
  return Array.from({ length: 2 * count }, (_, at) => pattern[at % 4]);
}

/** The median; null of nothing. */
export function median(values) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 ? sorted[Math.floor(middle)] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** "0.40 s to 0.45 s", or one time. */
export function range(times) {
  const low = duration(Math.min(...times));
  const high = duration(Math.max(...times));
  return low === high ? low : `${low} to ${high}`;
}

/**
 * Compares times in ms: `{clear, faster, words}`.
 *
 * A difference is clear if every run of one setting was faster than every run of the other, of at least three runs each:
 * equal settings end so in one race of ten with three runs each, in one of thirty-five with four.
 */
export function compare(off, on) {
  const [a, b] = [median(off), median(on)];
  const medians = `median ${duration(b)} with speculation and ${duration(a)} without`;
  if (Math.min(off.length, on.length) < LEAST_RUNS) return { clear: false, faster: null, words: `Too few runs to tell: ${medians}.` };
  const faster = Math.max(...on) < Math.min(...off) ? "on" : Math.max(...off) < Math.min(...on) ? "off" : null;
  if (faster === null || a <= 0 || b <= 0) {
    return { clear: false, faster: null, words: `No clear difference: the runs overlap (${medians}).` };
  }
  const words = faster === "on" ? `Speculation is ${figure(a / b, 2)} times as fast: ${medians}.` : `Speculation is slower, ${figure(a / b, 2)} times as fast: ${medians}.`;
  return { clear: true, faster, words };
}

/** Describes the first difference between two results; null if there is none. */
export function firstDifference(a, b, names = ["with speculation off", "with speculation on"]) {
  const longest = Math.max(a.ids.length, b.ids.length);
  const name = (result, at) => (at < result.ids.length ? `${result.ids[at]} ${JSON.stringify(result.pieces[at])}` : "the end");
  for (let at = 0; at < longest; at += 1) {
    if (a.ids[at] !== b.ids[at]) return `First difference at token ${at + 1}: ${name(a, at)} ${names[0]}, ${name(b, at)} ${names[1]}.`;
  }
  if (a.finish !== b.finish) return `The same ${counted(longest, "token")}, but finish reasons ${a.finish} (${names[0]}) and ${b.finish} (${names[1]}).`;
  if (longest === 0) return "Neither run generated a token, so there is nothing to compare.";
  return null;
}
