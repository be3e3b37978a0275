"""Checks of a page as assistive technology and weak eyes meet it."""

from __future__ import annotations

from typing import Any

from support.browser import Browser

CONTROLS = "a[href], button, input, select, textarea, summary, [role=tab], [tabindex]"
_COLOURS = """
const rgba = (text) => {
  const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
  if (!text.startsWith('rgb')) throw new Error('not an rgb colour: ' + text);
  return [r, g, b, a];
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor);
    if (colour[3] === 1) return colour;
    if (colour[3] !== 0) throw new Error('half transparent: ' + at.outerHTML.slice(0, 80));
  }
  return [255, 255, 255, 1];
};
const found = [];
"""
# Text nodes that are seen, with their colour and the first opaque background behind them.
_TEXTS = """
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || element.closest('.unseen, .skip, option, noscript, script')) continue;
  if (!element.checkVisibility({ visibilityProperty: true })) continue;
  const style = getComputedStyle(element);
  const colour = element.closest('svg') ? style.fill : style.color;
  found.push([walker.currentNode.textContent.trim().slice(0, 40), rgba(colour), behind(element)]);
}
for (const field of document.querySelectorAll('input, select, textarea')) {
  if (field.checkVisibility()) found.push(['#' + field.id, rgba(getComputedStyle(field).color), behind(field)]);
}
return found;
"""
# Edges of fields and the marks of tokens, against what they stand on: what is seen without being text.
_EDGES = """
for (const field of document.querySelectorAll('input:not(:disabled), select, textarea')) {
  if (!field.checkVisibility() || field.type === 'checkbox' || field.type === 'radio') continue;
  found.push(['#' + field.id, rgba(getComputedStyle(field).borderTopColor), behind(field.parentElement)]);
}
for (const mark of document.querySelectorAll('.legend .tok:not([data-origin=target])')) {
  found.push([mark.textContent, rgba(getComputedStyle(mark).textDecorationColor), behind(mark)]);
}
return found;
"""
_STRUCTURE = """
const wrong = [];
const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
ids.filter((id, at) => ids.indexOf(id) !== at).forEach((id) => wrong.push('two elements with id ' + id));
for (const name of ['aria-controls', 'aria-labelledby', 'aria-describedby', 'for']) {
  for (const element of document.querySelectorAll('[' + name + ']')) {
    for (const id of element.getAttribute(name).split(' ')) {
      if (!document.getElementById(id)) wrong.push(name + ' names no element: ' + id);
    }
  }
}
let level = 0;
for (const heading of document.querySelectorAll('h1, h2, h3, h4')) {
  if (!heading.checkVisibility()) continue;
  const own = Number(heading.tagName[1]);
  if (own > level + 1) wrong.push('heading level ' + own + ' after ' + level + ': ' + heading.textContent);
  level = own;
}
if (document.querySelectorAll('h1').length !== 1) wrong.push('not one h1');
if (document.querySelectorAll('main').length !== 1) wrong.push('not one main');
if (!document.documentElement.lang || !document.title) wrong.push('no language or title');
// A placeholder gives a name too, but one that goes away.
for (const field of document.querySelectorAll('input, select, textarea')) {
  if (!field.labels.length && !field.ariaLabel) wrong.push('field without a label: ' + field.id);
}
for (const image of document.querySelectorAll('img')) if (!image.hasAttribute('alt')) wrong.push('image without alt');
for (const hidden of document.querySelectorAll('[aria-hidden=true]')) {
  if (hidden.querySelector(arguments[0]) || hidden.matches('[tabindex]')) wrong.push('a hidden element takes focus');
}
for (const ordered of document.querySelectorAll('[tabindex]')) if (ordered.tabIndex > 0) wrong.push('tabindex above 0');
return wrong;
"""


def luminance(colour: list[float]) -> float:
    """Relative luminance of sRGB 0..255 (WCAG 2.2)."""
    parts = [value / 255 for value in colour[:3]]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: list[float], other: list[float]) -> float:
    """Contrast ratio, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def faint_texts(browser: Browser, least: float = 4.5) -> list[tuple[str, float]]:
    """Visible texts with less contrast than ``least``; asserts that there are texts at all."""
    texts: list[Any] = browser.js(_COLOURS + _TEXTS)
    assert len(texts) > 20
    return [(text, round(contrast(a, b), 2)) for text, a, b in texts if contrast(a, b) < least]


def faint_edges(browser: Browser, least: float = 3.0) -> list[tuple[str, float]]:
    """Field borders and token marks with less contrast than ``least``."""
    edges: list[Any] = browser.js(_COLOURS + _EDGES)
    assert len(edges) > 6
    return [(name, round(contrast(a, b), 2)) for name, a, b in edges if contrast(a, b) < least]


def nameless(browser: Browser) -> list[str]:
    """Visible controls without an accessible name, as the browser computes it."""
    shown = [element for element in browser.all(CONTROLS) if element.is_displayed()]
    assert len(shown) > 8
    return [element.get_attribute("outerHTML")[:120] for element in shown if not element.accessible_name.strip()]


def structure(browser: Browser) -> list[str]:
    """What is wrong with ids, references, headings, landmarks, hidden parts."""
    return list(browser.js(_STRUCTURE, CONTROLS))
