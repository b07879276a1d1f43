// What the latents of one text say, as its text with marks and a table of the latents.

import { el, fill } from "./elements.js";
import { decimal, percent, plural } from "./format.js";
import { cut } from "./spans.js";

/** @typedef {{text: string, start: number, end: number}} Place */

/**
 * @typedef {object} Latent
 * @property {number} number
 * @property {{text: string, probability: number}[]} words
 * @property {Place} nearest
 * @property {number} cosine
 * @property {Place | null} carried
 */

/**
 * @typedef {object} Inspected
 * @property {"document" | "question"} kind
 * @property {string} text
 * @property {string} role
 * @property {number} tokens
 * @property {Latent[]} latents
 * @property {number[]} reading_order
 * @property {{words: number, recovered: number, carried: number | null}} summary
 */

/**
 * The words that a text's latents decode to or carry, case aside.
 * @param {Inspected} inspected
 * @returns {Set<string>}
 */
export function decodedWords({ latents }) {
  const words = new Set();
  for (const { words: decoded, carried } of latents) {
    for (const { text } of decoded) words.add(text.toLowerCase());
    if (carried) words.add(carried.text.toLowerCase());
  }
  return words;
}

/**
 * A text, what became of it, and its latents in reading order.
 * @param {string} heading
 * @param {Inspected} inspected
 * @param {Set<string>} shared words to set off
 * @returns {HTMLElement}
 */
export function latentsView(heading, inspected, shared) {
  const { text, latents, reading_order, summary } = inspected;
  const shown = el("p", { class: "inspected" }, text);
  const unmark = () => fill(shown, text);
  const mark = (/** @type {Place | null} */ place) => {
    if (!place) return unmark();
    const [before, between, after] = cut(text, place.start, place.end);
    return fill(shown, before, el("mark", {}, between), after);
  };
  const rows = reading_order.map((number) => row(latents[number], shared, mark, unmark));
  const anchored = latents.some(({ carried }) => carried);
  const share = `${percent(summary.recovered)} of its ${plural(summary.words, "word")} can be read back`;
  return el(
    "section",
    { class: "latents" },
    el("h3", {}, heading),
    el("p", { class: "help" }, `${plural(inspected.tokens, "token")} became ${plural(latents.length, "latent")}; `,
      summary.carried === null ? share : `${share}, ${percent(summary.carried)} are carried`, "."),
    shown,
    el(
      "table",
      {},
      el("caption", { class: "unseen" }, `Latents of: ${heading}`),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("span", { class: "unseen" }, "Latent"), el("span", { "aria-hidden": "true" }, "#")),
        anchored && el("th", { scope: "col" }, "Carries"),
        el("th", { scope: "col" }, "Decodes to"), el("th", { scope: "col", class: "nearest" }, "Nearest"))),
      el("tbody", {}, ...rows.map((make) => make(anchored))),
    ),
  );
}

/**
 * @param {Latent} latent
 * @param {Set<string>} shared
 * @param {(place: Place | null) => void} mark
 * @param {() => void} unmark
 */
function row(latent, shared, mark, unmark) {
  const place = latent.carried ?? latent.nearest;
  const where = () => mark(place);
  const number = el(
    "button",
    { type: "button", class: "plain", onfocus: where, onblur: unmark, onclick: where,
      "aria-label": `Latent ${latent.number}: show where in the text` },
    latent.number,
  );
  return (/** @type {boolean} */ anchored) =>
    el(
      "tr",
      { onpointerenter: where, onpointerleave: unmark },
      el("td", {}, number),
      anchored && el("td", {}, word(latent.carried?.text ?? "–", shared)),
      el("td", { class: "words" }, ...latent.words.flatMap(({ text, probability }) =>
        [word(text, shared, percent(probability)), " "])),
      el("td", { class: "nearest" }, latent.nearest.text.trim(), " ", el("small", {}, decimal(latent.cosine))),
    );
}

/**
 * @param {string} text
 * @param {Set<string>} shared
 * @param {string} [title]
 */
function word(text, shared, title) {
  const both = shared.has(text.toLowerCase());
  return el("span", { class: both ? "word both" : "word", title: title ?? null }, text);
}
