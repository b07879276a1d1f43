// One answer being written: from latents, from the full text, or from nothing.

import { ask } from "./api.js";
import { el, fill } from "./elements.js";
import { meter } from "./meter.js";

/** @typedef {import("./api.js").Hit} Hit */
/** @typedef {import("./api.js").Usage} Usage */
/** @typedef {"latents" | "text" | "none"} Context */

/** What each answer was made from. @type {Record<Context, string>} */
export const TITLES = { latents: "From latents", text: "From the full text", none: "From no document" };

/**
 * A column for an answer.
 * @param {Context} context
 */
export function answerColumn(context) {
  const text = el("p", { class: "answer" });
  const note = el("p", { class: "note" });
  const error = el("p", { class: "error", role: "alert" });
  const cost = meter();
  const element = el(
    "article",
    { class: "column", dataset: { context }, "aria-label": TITLES[context] },
    el("h2", {}, TITLES[context]),
    text,
    note,
    error,
    cost.element,
  );

  /**
   * Stay empty, and say why.
   * @param {string} why
   */
  function wait(why) {
    element.dataset.state = "waiting";
    fill(text);
    fill(note, why);
    fill(error);
    cost.clear();
  }

  /**
   * Ask, and write as the pieces come.
   * @param {Record<string, any>} body of the request, without its context
   * @param {AbortSignal} signal
   * @param {{hits?: (hits: Hit[]) => void, full?: number}} [also] `full` is how many tokens the full
   *   text has, where another answer has told
   * @returns {Promise<{answer: string, usage: Usage} | null>} null if it was stopped or failed
   */
  async function write(body, signal, { hits = () => {}, full = 0 } = {}) {
    element.dataset.state = "writing";
    cost.clear();
    fill(error);
    fill(note);
    fill(text);
    try {
      for await (const { name, data } of ask({ ...body, context }, signal)) {
        if (name === "hits") hits(data.hits);
        if (name === "piece") text.append(data.text);
        if (name === "done") {
          fill(text, data.answer);
          fill(note, closing(data));
          cost.show(data.usage, Math.max(full, data.usage.text_prompt_tokens));
          element.dataset.state = "done";
          return { answer: data.answer, usage: data.usage };
        }
      }
    } catch (/** @type {any} */ problem) {
      if (signal.aborted) fill(note, "Stopped");
      else fill(error, problem.message);
    }
    element.dataset.state = "done";
    return null;
  }

  return { element, wait, write };
}

/**
 * What has to be said below an answer.
 * @param {{answer: string, finish_reason: string}} data
 */
function closing({ answer, finish_reason }) {
  if (!answer.trim()) return "The model had no answer; ask in other words";
  return finish_reason === "length" ? "Cut off at the longest answer (see Options)" : "";
}
