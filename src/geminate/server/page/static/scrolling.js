// The page scrolls as a whole. It follows an answer to its end unless the user scrolled away, and keeps the composer in reach.

import { byId, onceAFrame } from "./dom.js";

const NEAR = 64;
let wanted = true;

function distance() { return document.documentElement.scrollHeight - scrollY - innerHeight; }

/** Scrolls to the end. */
export function atEnd() {
  wanted = true;
  scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
}

/** A function to call after something was added: keeps the end in view unless the user scrolled away since. */
export function follower() {
  atEnd();
  return () => {
    if (wanted && !byId("panel-chat").hidden) atEnd();
    else paintButton();
  };
}

const paintButton = onceAFrame(() => {
  byId("to-end").hidden = byId("panel-chat").hidden || distance() < 4 * NEAR;
});

/** Wires scrolling, and the composer's place above an on-screen keyboard. */
export function setUpScrolling() {
  let lastTop = scrollY;
  addEventListener("scroll", () => {
    // The page itself only scrolls down: up is the user, unless the text became shorter and the end is still in view.
    if (scrollY < lastTop) wanted = distance() < 2;
    else if (distance() < NEAR) wanted = true;
    lastTop = scrollY;
    paintButton();
  }, { passive: true });
  byId("to-end").addEventListener("click", () => {
    atEnd();
    byId("prompt").focus({ preventScroll: true });
  });
  const seen = window.visualViewport;
  if (!seen) return;
  const place = () => {
    // With a zoomed page the visual viewport is small without a keyboard.
    const covered = seen.scale > 1.01 ? 0 : Math.max(0, innerHeight - seen.height - seen.offsetTop);
    document.documentElement.style.setProperty("--covered", `${Math.round(covered)}px`);
  };
  seen.addEventListener("resize", place);
  seen.addEventListener("scroll", place);
  place();
}
