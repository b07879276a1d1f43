// Starts the page: session, indexes, the address, the keyboard.

import { ready, session } from "./api.js";
import { closePanels, startAsk, stop } from "./ask.js";
import { dialogOpen, startDialog } from "./dialog.js";
import { startDocuments } from "./documents.js";
import { byId, el, fill } from "./elements.js";
import { indexForm, refreshIndexes, startIndexes } from "./indexes.js";
import { startJobs } from "./jobs.js";
import { askForKey, startKey } from "./key.js";
import { current, listen, mayCreate, update } from "./state.js";
import { startTheme } from "./theme.js";
import { startUploads } from "./uploads.js";

const AGAIN_MS = 1000;

/** Follow the address: `#/INDEX/ask` or `#/INDEX/documents`. */
function route() {
  const [, name = "", view = "ask"] = location.hash.split("/");
  const wanted = decodeURIComponent(name);
  const { indexes, session: begun } = current();
  const known = !begun || indexes.some((one) => one.name === wanted);
  update({
    index: known && wanted ? wanted : current().index,
    view: view === "documents" ? "documents" : "ask",
  });
}

/** Show the view that is chosen, or what to do where there is no index. */
function showView() {
  const { view, index, indexes, session: begun } = current();
  if (!begun) return;
  const none = indexes.length === 0;
  byId("ask").hidden = none || view !== "ask";
  byId("documents").hidden = none || view !== "documents";
  byId("start").hidden = !none;
  for (const name of ["ask", "documents"]) {
    const link = /** @type {HTMLAnchorElement} */ (byId(`to-${name}`));
    link.href = `#/${encodeURIComponent(index ?? "")}/${name}`;
    link.hidden = none;
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = index ? `${view === "ask" ? "Ask" : "Documents of"} ${index} – openclara` : "openclara";
  if (none) showStart();
  else fill(byId("start"));
}

function showStart() {
  const body = mayCreate()
    ? [el("h1", {}, "Create an index first"),
      el("p", {}, "An index holds documents that were read once and kept as a few vectors each."),
      indexForm(() => {})]
    : [el("h1", {}, "No index here yet"),
      el("p", {}, "Start the server with one, such as ", el("code", {}, "openclara serve my.idx"),
        ", or with a folder to create them in: ", el("code", {}, "openclara serve --root indexes"), ".")];
  fill(byId("start"), ...body);
}

/** @param {KeyboardEvent} event */
function shortcut(event) {
  if (dialogOpen()) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const typing = target.matches("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape") {
    if (!closePanels()) stop();
  }
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (!byId("documents").hidden) byId("find-text").focus();
  else byId("question").focus();
}

/** Wait until the model is loaded, saying so. */
async function waitUntilReady() {
  while (!(await ready())) {
    byId("start").hidden = false;
    fill(byId("start"), el("p", { role: "status" }, "The model is being loaded; one moment."));
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

/** Learn what there is. */
async function begin() {
  try {
    await waitUntilReady();
    const found = await session();
    byId("key-button").hidden = !found.auth;
    fill(byId("about"), `openclara ${found.version} · ${found.model}`);
    route();
    await refreshIndexes({ session: found });
    // On a phone, focus would bring up the keyboard over half the page.
    if (!byId("ask").hidden && matchMedia("(hover: hover)").matches) byId("question").focus();
  } catch (/** @type {any} */ problem) {
    byId("start").hidden = false;
    fill(byId("start"), el("p", { class: "error", role: "alert" }, problem.message),
      el("button", { type: "button", onclick: begin }, "Try again"));
  }
}

startTheme(/** @type {HTMLButtonElement} */ (byId("theme-button")));
startDialog();
startKey();
startIndexes();
startAsk();
startUploads();
startJobs();
startDocuments();
listen(["indexes", "index", "view", "session"], showView);
window.addEventListener("hashchange", route);
document.addEventListener("keydown", shortcut);
byId("key-button").addEventListener("click", async () => {
  if (await askForKey()) begin();
});
begin();
