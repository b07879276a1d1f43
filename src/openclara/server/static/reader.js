// A document in the dialog, with the cited span marked and in view. Its text stays text.

import { documentText } from "./api.js";
import { openDialog } from "./dialog.js";
import { el, fill } from "./elements.js";
import { cut } from "./spans.js";

/**
 * Open a document.
 * @param {string} index
 * @param {{id: string, title: string, start?: number, end?: number}} cited `start` and `end` in code
 *   points; without them nothing is marked
 */
export async function openDocument(index, { id, title, start, end }) {
  const facts = el("dl", { class: "facts" });
  const text = el("div", {
    class: "document-text", tabIndex: 0, role: "region", "aria-label": "Text of the document", "aria-busy": "true",
  });
  const error = el("p", { class: "error", role: "alert" });
  openDialog(title || id, [facts, error, text], { size: "medium" });
  try {
    const found = await documentText(index, id);
    fill(facts, ...described(found));
    if (start === undefined || end === undefined) {
      fill(text, found.text);
    } else {
      const [before, between, after] = cut(found.text, start, end);
      const mark = el("mark", {}, between);
      fill(text, before, mark, after);
      // Inside the text alone: scrollIntoView would move the page behind the dialog too.
      text.scrollTop = mark.offsetTop - text.offsetTop - text.clientHeight / 3;
    }
    text.focus();
  } catch (/** @type {any} */ problem) {
    fill(error, problem.message);
  }
  text.removeAttribute("aria-busy");
}

/** @param {{id: string, source: string, metadata: Record<string, any>}} found */
function described({ id, source, metadata }) {
  const facts = [["Id", id]];
  if (source && source !== id) facts.push(["Source", source]);
  for (const [name, value] of Object.entries(metadata ?? {})) facts.push([name, String(value)]);
  return facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}
