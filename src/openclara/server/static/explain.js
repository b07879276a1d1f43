// Why a passage was found: the words that its latents and the question's decode to.

import { inspect } from "./api.js";
import { openDialog } from "./dialog.js";
import { el, fill } from "./elements.js";
import { decodedWords, latentsView } from "./latents.js";
import { titleOf } from "./sources.js";

/** @typedef {import("./latents.js").Inspected} Inspected */

/** Shorter pieces stand for too much to be called a word in common. */
const SHORTEST = 3;

/**
 * Open the explanation of a source.
 * @param {string} index
 * @param {string} question
 * @param {import("./api.js").Hit} hit
 */
export async function openExplanation(index, question, hit) {
  const body = el("div", { class: "explanation", "aria-busy": "true" }, el("p", { class: "help" }, "Reading the latents…"));
  openDialog(`Why ${titleOf(hit)}?`, [body]);
  try {
    const { inspected } = await inspect({ index, question, id: hit.id, start: hit.start });
    fill(body, ...explained(inspected));
  } catch (/** @type {any} */ problem) {
    fill(body, el("p", { class: "error", role: "alert" }, problem.message));
  }
  body.removeAttribute("aria-busy");
}

/** @param {Inspected[]} inspected */
function explained(inspected) {
  const asked = inspected.filter(({ kind }) => kind === "question");
  const passages = inspected.filter(({ kind }) => kind === "document");
  const shared = common(asked, passages);
  return [
    el("p", { class: "help" },
      "What each latent says, read through the model's own vocabulary. Words of both sides are set off."),
    el("p", { class: "common" },
      ...(shared.size
        ? ["Words in both: ", ...[...shared].flatMap((word) => [el("span", { class: "word both" }, word), " "])]
        : ["No word is decoded from both; the latents are near each other in another way."])),
    el("div", { class: "pair" },
      ...asked.map((one) => latentsView("The question", one, shared)),
      ...passages.map((one) => latentsView("The passage", one, shared))),
  ];
}

/**
 * @param {Inspected[]} asked
 * @param {Inspected[]} passages
 * @returns {Set<string>}
 */
function common(asked, passages) {
  const found = new Set(passages.flatMap((one) => [...decodedWords(one)]));
  const words = asked.flatMap((one) => [...decodedWords(one)]);
  return new Set(words.filter((word) => word.length >= SHORTEST && found.has(word)));
}
