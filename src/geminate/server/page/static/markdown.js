// Markdown as DOM nodes. The lexer is marked's; nodes are made here one by one, so that no markup of a model is ever parsed.

import { copyButton, make } from "./dom.js";
import { Lexer } from "./vendor/marked.js";

const OPTIONS = { gfm: true, breaks: true };
const ENTITIES = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", trade: "™", hellip: "…",
  mdash: "—", ndash: "–", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", bull: "•", middot: "·",
  deg: "°", times: "×", divide: "÷", plusmn: "±", euro: "€", pound: "£", larr: "←", rarr: "→", uarr: "↑", darr: "↓",
  le: "≤", ge: "≥", ne: "≠", infin: "∞", frac12: "½", sect: "§", para: "¶",
};
const SIMPLE = { em: "em", strong: "strong", del: "del" };

/** Block tokens of a text; their `raw` texts joined are the text. Line ends must be LF. */
export function lex(text) { return new Lexer(OPTIONS).lex(text); }

/** One-shot: the nodes of a text. */
export function render(text) { return blocks(lex(text.replace(/\r\n?/g, "\n")), { level: 3 }); }

/**
 * DOM nodes of block tokens.
 *
 * `state.level` is the heading level above; it is updated, so that headings never skip a level however the model counts.
 */
export function blocks(tokens, state) { return tokens.map((token) => block(token, state)).filter((node) => node !== null); }

function block(token, state) {
  switch (token.type) {
    case "space": case "def": return null;
    case "heading": return heading(token, state);
    case "paragraph": return make("p", {}, ...inline(token.tokens));
    case "text": return make("p", {}, ...(token.tokens ? inline(token.tokens) : [decode(token.text)]));
    case "code": return codeBlock(token.text, token.lang ?? "");
    case "blockquote": return make("blockquote", {}, ...blocks(token.tokens, state));
    case "hr": return make("hr");
    case "list": return list(token, state);
    case "table": return table(token);
    case "html": return make("p", { class: "raw" }, token.text.trimEnd());
    default: return make("p", {}, token.raw);
  }
}

function heading(token, state) {
  state.level = Math.min(token.depth + 3, state.level + 1, 6);
  return make(`h${state.level}`, { class: `depth${Math.min(token.depth, 4)}` }, ...inline(token.tokens));
}

/** A block of code with its language and a button that copies it. */
export function codeBlock(text, language) {
  const name = language.split(/\s/)[0].slice(0, 40);
  const code = make("code", {}, text);
  // Scrolls sideways, so the keyboard must reach it.
  const pre = make("pre", { tabindex: "0", role: "group", "aria-label": name ? `Code, ${name}` : "Code" }, code);
  return make("div", { class: "code" },
    make("div", { class: "code-head" }, make("span", {}, name || "code"), copyButton("Copy code", (button) => button.closest(".code").querySelector("pre").textContent)), pre);
}

function list(token, state) {
  const made = make(token.ordered ? "ol" : "ul");
  if (token.ordered && token.start !== 1) made.setAttribute("start", String(token.start));
  for (const item of token.items) made.append(listItem(item, state));
  return made;
}

function listItem(item, state) {
  const made = make("li");
  for (const part of item.tokens) {
    if (part.type === "checkbox") made.append(mark(part));
    // Text of a tight list stands in the item itself, without a paragraph.
    else if (part.type === "text") made.append(...(part.tokens ? inline(part.tokens) : [decode(part.text)]));
    else made.append(...blocks([part], state));
  }
  if (item.task) made.className = "task";
  return made;
}

function mark(part) { return make("span", { role: "img", "aria-label": part.checked ? "done" : "to do", class: "mark" }, part.checked ? "☑" : "☐"); }

function table(token) {
  const cell = (tag, { tokens, align }) => make(tag, align ? { class: align } : {}, ...inline(tokens));
  const head = make("tr", {}, ...token.header.map((one) => cell("th", one)));
  const rows = token.rows.map((row) => make("tr", {}, ...row.map((one) => cell("td", one))));
  return make("div", { class: "sideways", tabindex: "0", role: "group", "aria-label": "Table" },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function inline(tokens) { return tokens.flatMap(span); }

function span(token) {
  if (token.type in SIMPLE) return make(SIMPLE[token.type], {}, ...inline(token.tokens));
  switch (token.type) {
    case "text": return token.tokens ? inline(token.tokens) : decode(token.text);
    case "escape": return token.text;
    case "codespan": return make("code", {}, token.text);
    case "br": return make("br");
    case "link": return link(token.href, inline(token.tokens));
    case "image": return link(token.href, [`[image: ${decode(token.text) || "without description"}]`]);
    case "checkbox": return mark(token);
    default: return token.raw; // HTML is shown as it was written
  }
}

/** A link to the web or a mail address; anything else stays text, with its target behind it. */
function link(href, children) {
  const target = decode(href);
  let scheme = "";
  try {
    scheme = new URL(target).protocol;
  } catch {
    // Relative: it would lead into this server.
  }
  if (!["http:", "https:", "mailto:"].includes(scheme)) return [...children, target ? ` (${target})` : ""];
  return make("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow", title: target }, ...children);
}

/** A text with its character references resolved. */
export function decode(text) {
  return text.replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z][a-zA-Z0-9]{1,9}));/g, (whole, tens, hex, name) => {
    if (name !== undefined) return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : whole;
    const point = tens === undefined ? parseInt(hex, 16) : Number(tens);
    return point === 0 || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff) ? "\ufffd" : String.fromCodePoint(point);
  });
}
