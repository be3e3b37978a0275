// Starts the page: tabs, theme, and the parts.

import { setUpChat } from "./chat.js";
import { setUpDemo } from "./demo.js";
import { setUpDialogs } from "./dialogs.js";
import { byId } from "./dom.js";
import { setUpHealth } from "./health.js";
import { setUpRace } from "./race.js";
import { setUpScrolling } from "./scrolling.js";
import { setUpSettings } from "./settings.js";

const THEMES = ["system", "light", "dark"];

function setUpTabs() {
  const tabs = ["chat", "race"].map((name) => ({ name, tab: byId(`tab-${name}`), panel: byId(`panel-${name}`), top: 0 }));
  let shown = tabs[0];
  const choose = (chosen, focus) => {
    shown.top = scrollY;
    shown = chosen;
    for (const one of tabs) {
      const on = one === chosen;
      one.tab.setAttribute("aria-selected", String(on));
      one.tab.tabIndex = on ? 0 : -1;
      one.panel.hidden = !on;
    }
    byId("skip").setAttribute("href", chosen.name === "chat" ? "#prompt" : "#race-prompt");
    scrollTo({ top: chosen.top, behavior: "instant" });
    if (focus) chosen.tab.focus();
  };
  tabs.forEach((one, at) => {
    one.tab.addEventListener("click", () => choose(one, false));
    one.tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(tabs.at(to % tabs.length), true);
    });
  });
}

function setUpTheme() {
  const field = byId("theme");
  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    field.value = theme;
  };
  let theme = "system";
  try {
    theme = localStorage.getItem("geminate-theme") ?? theme;
  } catch {
    // Storage is not available: the choice lasts until reload.
  }
  show(THEMES.includes(theme) ? theme : "system");
  field.addEventListener("change", () => {
    show(field.value);
    try {
      localStorage.setItem("geminate-theme", field.value);
    } catch {
      // As above.
    }
  });
}

setUpTheme();
setUpTabs();
setUpSettings();
setUpScrolling();
setUpChat();
setUpRace();
setUpDemo();
setUpDialogs();
setUpHealth();
