// The question, its answers side by side if wanted, and where they come from.

import { answerColumn, TITLES } from "./answer.js";
import { byId, el, fill } from "./elements.js";
import { openExplanation } from "./explain.js";
import { plural } from "./format.js";
import { openDocument } from "./reader.js";
import { remember, startRecent } from "./recent.js";
import { showSources } from "./sources.js";
import { chosen, current, listen, mayWrite } from "./state.js";

/** @typedef {import("./answer.js").Context} Context */

const question = /** @type {HTMLTextAreaElement} */ (byId("question"));
const button = /** @type {HTMLButtonElement} */ (byId("ask-button"));
const beside = /** @type {HTMLInputElement} */ (byId("side-by-side"));
const answers = byId("answers");

/** What is shown: the request, its columns, which of them were begun and which are finished, and how
 * many tokens the full text has. */
const nothing = () => ({
  body: /** @type {Record<string, any> | null} */ (null),
  columns: /** @type {Map<Context, ReturnType<typeof answerColumn>>} */ (new Map()),
  tried: /** @type {Set<Context>} */ (new Set()),
  written: /** @type {Set<Context>} */ (new Set()),
  full: 0,
});

let shown = nothing();

/** What is being written. @type {{context: Context, stopper: AbortController} | null} */
let running = null;

/** Whether the columns that wait are not to be written either. */
let stopped = false;

/** Ask what stands in the box. */
async function askNew() {
  const text = question.value.trim();
  const error = byId("ask-error");
  const limit = current().session?.limits.question_chars ?? Infinity;
  fill(error);
  if (!text) {
    fill(error, "The question is empty; write one first.");
    question.focus();
    return;
  }
  if (text.length > limit) {
    fill(error, `The question is longer than ${plural(limit, "character")}; shorten it.`);
    return;
  }
  closePanels();
  question.focus();
  remember(text);
  showRecent();
  shown = { ...nothing(), body: requested(text) };
  showSources(byId("source-list"), [], { open: () => {} });
  byId("sources").dataset.state = "waiting";
  byId("result").hidden = false;
  byId("ask-empty").hidden = true;
  await write();
}

/** @param {string} text */
function requested(text) {
  const number = (/** @type {string} */ id) => Number(/** @type {HTMLInputElement} */ (byId(id)).value) || undefined;
  const value = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (byId(id)).value.trim();
  const where = value("option-where");
  return {
    index: current().index,
    question: text,
    k: number("option-k"),
    mode: value("option-mode"),
    max_tokens: number("option-tokens"),
    where: where ? [where] : [],
  };
}

/** Write the columns that are wanted and not written yet, one after the other: so each has the
 * machine for itself, and their times can be compared. */
async function write() {
  if (!shown.body || running) return;
  const next = () => contexts().find((context) => !shown.tried.has(context));
  shown.tried = new Set(shown.written);
  fill(button, "Stop");
  stopped = false;
  place();
  for (let context = next(); context && !stopped; context = next()) {
    shown.tried.add(context);
    await writeOne(context, shown.body);
  }
  place();
  fill(button, "Ask");
}

/** @returns {Context[]} */
const contexts = () => (beside.checked ? ["latents", "text", "none"] : ["latents"]);

/** Put the wanted columns on the page, keeping what is written. */
function place() {
  const wanted = contexts();
  const elements = wanted.map((context) => {
    const column = shown.columns.get(context) ?? answerColumn(context);
    if (!shown.tried.has(context)) column.wait(stopped ? "Stopped before it was asked" : "Waits for its turn");
    shown.columns.set(context, column);
    return column.element;
  });
  fill(answers, ...elements);
  byId("result").dataset.columns = String(wanted.length);
}

/**
 * @param {Context} context
 * @param {Record<string, any>} body
 */
async function writeOne(context, body) {
  const stopper = new AbortController();
  running = { context, stopper };
  const done = await shown.columns.get(context)?.write(body, stopper.signal, {
    full: shown.full,
    hits: (hits) => context === "latents" && showHits(body, hits),
  });
  running = null;
  if (!done) return;
  shown.written.add(context);
  shown.full = Math.max(shown.full, done.usage.text_prompt_tokens);
  fill(byId("spoken"), `${TITLES[context]}: ${done.answer}`);
}

/**
 * @param {Record<string, any>} body
 * @param {import("./api.js").Hit[]} hits
 */
function showHits(body, hits) {
  byId("sources").dataset.state = hits.length ? "found" : "none";
  showSources(byId("source-list"), hits, {
    open: (hit) => openDocument(body.index, hit),
    explain: (hit) => openExplanation(body.index, body.question, hit),
  });
}

/**
 * Close the options and the recent questions; the focus goes back to what opened them.
 * @returns {boolean} whether one was open
 */
export function closePanels() {
  const open = byId("ask-form").querySelector("details[open]");
  if (open instanceof HTMLDetailsElement) {
    open.open = false;
    open.querySelector("summary")?.focus();
  }
  return open !== null;
}

/** Stop what is being written. */
export function stop() {
  stopped = true;
  running?.stopper.abort();
}

/** Say what to do before anything was asked. */
function showEmpty() {
  const index = chosen();
  const empty = byId("ask-empty");
  byId("result").hidden = true;
  empty.hidden = false;
  if (!index) return;
  if (index.documents === 0) {
    fill(empty, "This index is empty. ", mayWrite()
      ? el("a", { href: `#/${encodeURIComponent(index.name)}/documents` }, "Add documents first")
      : "Its owner has to add documents first", ".");
  } else {
    fill(empty, `${plural(index.documents, "document")} in ${plural(index.chunks, "passage")}, `,
      `${plural(index.n_memory, "latent")} each. Ask something that they answer.`);
  }
}

/** @type {() => void} */
let showRecent = () => {};

/** Wire the view. */
export function startAsk() {
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) stop();
    else askNew();
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running) askNew();
  });
  beside.addEventListener("change", () => {
    if (!shown.body) return;
    place();
    if (!running) write();
    else if (!contexts().includes(running.context)) running.stopper.abort();
  });
  showRecent = startRecent((text) => {
    question.value = text;
    question.focus();
    if (!running) askNew();
  });
  listen(["index"], () => {
    stop();
    shown = nothing();
    fill(byId("ask-error"));
    showEmpty();
  });
  listen(["indexes", "session"], () => {
    const limit = current().session?.limits.k;
    if (limit) /** @type {HTMLInputElement} */ (byId("option-k")).max = String(limit);
    if (!shown.body) showEmpty();
  });
}
