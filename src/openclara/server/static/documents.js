// The documents of an index: listed, filtered, searched, opened, deleted.

import { deleteDocument, documents, search } from "./api.js";
import { confirmed } from "./dialog.js";
import { byId, el, fill } from "./elements.js";
import { count, plural } from "./format.js";
import { refreshIndexes } from "./indexes.js";
import { openDocument } from "./reader.js";
import { chosen, current, listen, mayWrite } from "./state.js";

const PAGE = 25;
const FILTER = /^\s*[^\s<>=!~][^<>=!~]*?\s*([<>!]=|[<>=~])/;

/** @typedef {{id: string, title: string, note: string, start?: number, end?: number}} Row */

const wanted = /** @type {HTMLInputElement} */ (byId("find-text"));
let offset = 0;

/** @type {AbortController | null} */
let loading = null;

/** Show the list as the box wants it. */
async function load() {
  const { index, view } = current();
  if (!index || view !== "documents") return;
  loading?.abort();
  loading = new AbortController();
  const { signal } = loading;
  const text = wanted.value.trim();
  try {
    if (text && !FILTER.test(text)) await showFound(index, text, signal);
    else await showListed(index, text, signal);
    fill(byId("list-error"));
  } catch (/** @type {any} */ problem) {
    if (!signal.aborted) fill(byId("list-error"), problem.message);
  }
}

/**
 * @param {string} index
 * @param {string} filter
 * @param {AbortSignal} signal
 */
async function showListed(index, filter, signal) {
  const where = filter ? [filter] : [];
  const page = await documents({ index, where, limit: PAGE, offset }, signal);
  if (!page.documents.length && offset > 0) {
    // The last document of the last page was deleted.
    offset = Math.max(0, offset - PAGE);
    return showListed(index, filter, signal);
  }
  const last = offset + page.documents.length;
  showRows(page.documents.map((/** @type {any} */ one) => ({
    id: one.id, title: one.title, note: plural(one.n_characters, "character"),
  })));
  const pages = page.total > PAGE;
  byId("pages").hidden = !pages;
  fill(byId("page-place"), `${count(offset + 1)}–${count(last)} of ${count(page.total)}`);
  /** @type {HTMLButtonElement} */ (byId("page-before")).disabled = offset === 0;
  /** @type {HTMLButtonElement} */ (byId("page-after")).disabled = last >= page.total;
  if (page.total) fill(byId("list-summary"), filter ? `${plural(page.total, "document")} with ${filter}` : "");
  else fill(byId("list-summary"), filter ? `No document with ${filter}.` : emptyText());
}

const emptyText = () =>
  mayWrite() ? "No documents yet. Drop some files above; they are compressed once and can be asked at once."
    : "No documents yet, and this index cannot be changed from here.";

/**
 * @param {string} index
 * @param {string} words
 * @param {AbortSignal} signal
 */
async function showFound(index, words, signal) {
  const k = Math.min(PAGE, current().session?.limits.k ?? PAGE);
  const hits = await search({ index, question: words, k, mode: "lexical" }, signal);
  byId("pages").hidden = true;
  fill(byId("list-summary"), hits.length ? `${plural(hits.length, "passage")} with these words, best first`
    : "No passage has these words; try others, or a filter such as id~report.");
  showRows(hits.map((hit) => ({ id: hit.id, title: hit.title, note: hit.text, start: hit.start, end: hit.end })));
}

/** @param {Row[]} rows */
function showRows(rows) {
  fill(byId("document-list"), ...rows.map(documentRow));
}

/** @param {Row} row */
function documentRow(row) {
  const index = /** @type {string} */ (current().index);
  const name = row.title || row.id;
  return el(
    "li",
    {},
    el("button", { type: "button", class: "title", onclick: () => openDocument(index, row) }, name),
    el("span", { class: "snippet" }, row.title && row.title !== row.id ? `${row.id} · ${row.note}` : row.note),
    mayWrite() && el("button", {
      type: "button", class: "plain danger", onclick: () => remove(index, row.id, name), "aria-label": `Delete ${name}`,
    }, "Delete"),
  );
}

/**
 * @param {string} index
 * @param {string} id
 * @param {string} name
 */
async function remove(index, id, name) {
  if (!(await confirmed(`Delete ${name}?`, "Its text and its latents leave the index.", "Delete the document"))) return;
  try {
    await deleteDocument(index, id);
    await refreshIndexes();
    await load();
    byId("list-summary").textContent ||= `Deleted ${name}`;
    byId(chosen()?.documents ? "find-text" : "choose-files").focus();
  } catch (/** @type {any} */ problem) {
    fill(byId("list-error"), problem.message);
  }
}

/** @param {number} steps */
function turn(steps) {
  offset = Math.max(0, offset + steps * PAGE);
  load();
}

/** Wire the view. */
export function startDocuments() {
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    offset = 0;
    load();
  });
  wanted.addEventListener("search", () => {
    if (!wanted.value) load();
  });
  byId("page-before").addEventListener("click", () => turn(-1));
  byId("page-after").addEventListener("click", () => turn(1));
  listen(["index"], () => {
    offset = 0;
    wanted.value = "";
    fill(byId("document-list"));
  });
  listen(["index", "indexes", "view", "session"], () => {
    byId("find").hidden = !chosen()?.documents;
    load();
  });
}
