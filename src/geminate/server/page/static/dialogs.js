// The drawers: settings, the model's card, and the list of conversations with export and deletion.

import * as chat from "./chat.js";
import { announce, byId, make } from "./dom.js";
import { asJson, asMarkdown, download, fileName } from "./exporting.js";
import { modelName, refreshCard } from "./health.js";
import * as history from "./history.js";

/** Wires the buttons that open drawers, and what stands in them. */
export function setUpDialogs() {
  for (const name of ["settings", "card", "chats"]) {
    const dialog = byId(name);
    byId(`open-${name}`).addEventListener("click", () => {
      if (name === "card") refreshCard();
      if (name === "chats") paintChats();
      dialog.showModal();
    });
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    // A click beside the drawer is a click on the dialog itself.
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
  byId("export-markdown").addEventListener("click", () => {
    const { turns } = chat.shown();
    download(fileName(turns, "md"), "text/markdown", asMarkdown(turns, modelName()));
  });
  byId("export-json").addEventListener("click", () => {
    const { turns } = chat.shown();
    download(fileName(turns, "json"), "application/json", asJson(turns, modelName(), byId("system").value.trim()));
  });
  byId("delete-all").addEventListener("click", deleteAll);
}

function paintChats() {
  const here = chat.shown();
  const stored = history.list();
  byId("chats-list").replaceChildren(...stored.map((one) => entry(one, one.id === here.id)));
  byId("chats-none").hidden = stored.length > 0;
  byId("delete-all").hidden = stored.length === 0;
  byId("delete-all").textContent = "Delete all conversations";
  delete byId("delete-all").dataset.sure;
  for (const name of ["export-markdown", "export-json"]) byId(name).disabled = here.turns.length === 0;
}

function entry({ id, title, updated, count }, isShown) {
  const open = make("button", { type: "button", class: "entry" }, make("span", { class: "title" }, title),
    make("small", {}, `${when(updated)}, ${count} message${count === 1 ? "" : "s"}${isShown ? "; shown now" : ""}`));
  if (isShown) open.setAttribute("aria-current", "true");
  open.addEventListener("click", () => {
    if (!isShown) chat.open(id);
    byId("chats").close();
    byId("prompt").focus();
  });
  const drop = make("button", { type: "button", class: "quiet small", "aria-label": `Delete: ${title}` }, "Delete");
  drop.addEventListener("click", () => {
    if (isShown) chat.open(null);
    history.remove(id);
    announce("Deleted.");
    paintChats();
    (byId("chats-list").querySelector("button") ?? byId("chats").querySelector(".close")).focus();
  });
  return make("li", {}, open, drop);
}

/** Asks once more on the button itself. */
function deleteAll() {
  const button = byId("delete-all");
  if (!("sure" in button.dataset)) {
    button.dataset.sure = "";
    button.textContent = "Press again to delete all of them";
    announce("Press again to delete all conversations.");
    return;
  }
  chat.open(null);
  history.clear();
  announce("All conversations are deleted.");
  paintChats();
  byId("chats").querySelector(".close").focus();
}

function when(time) {
  const then = new Date(time);
  const today = then.toDateString() === new Date().toDateString();
  return today ? then.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" })
    : then.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}
