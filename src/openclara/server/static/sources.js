// The passages an answer was made from, as cards that arrow keys walk through.

import { el, fill } from "./elements.js";
import { count } from "./format.js";

/** @typedef {import("./api.js").Hit} Hit */

const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };

/** @param {Hit} hit */
export const titleOf = (hit) => hit.title || hit.id;

/**
 * Show hits in a list.
 * @param {HTMLElement} list
 * @param {Hit[]} hits
 * @param {{open: (hit: Hit) => void, explain?: (hit: Hit) => void}} doing
 */
export function showSources(list, hits, doing) {
  fill(list, ...hits.map((hit, at) => card(hit, at, doing)));
  list.onkeydown = walk;
}

/**
 * @param {Hit} hit
 * @param {number} at
 * @param {{open: (hit: Hit) => void, explain?: (hit: Hit) => void}} doing
 */
function card(hit, at, { open, explain }) {
  const title = el(
    "button",
    { type: "button", class: "title", tabIndex: at ? -1 : 0, onclick: () => open(hit) },
    titleOf(hit),
  );
  const place = [`${count(hit.start)}–${count(hit.end)}`];
  if (hit.cosine !== null) place.push(`cosine ${hit.cosine.toFixed(2)}`);
  if (hit.title && hit.title !== hit.id) place.unshift(hit.id);
  return el(
    "li",
    { class: "card" },
    el(
      "div",
      { class: "card-head" },
      el("span", { class: "number", "aria-hidden": "true" }, at + 1),
      el("h3", {}, title),
      el("span", { class: "score", title: "Score of the search" }, el("span", { class: "unseen" }, "Score "), hit.score.toFixed(2)),
    ),
    el("p", { class: "snippet" }, hit.text),
    el(
      "div",
      { class: "card-foot" },
      el("span", { title: "Document, characters, cosine of the latents" }, place.join(" · ")),
      explain && el("button", {
        type: "button", class: "plain", onclick: () => explain(hit), "aria-label": `Explain ${titleOf(hit)}`,
      }, "Explain"),
    ),
  );
}

/**
 * Move among the titles: one of them is in the tab order at a time.
 * @param {KeyboardEvent} event
 */
function walk(event) {
  const list = /** @type {HTMLElement} */ (event.currentTarget);
  const titles = /** @type {HTMLButtonElement[]} */ ([...list.querySelectorAll(".title")]);
  const from = titles.findIndex((one) => one.closest("li")?.contains(/** @type {Node} */ (event.target)));
  let to = -1;
  if (event.key in STEPS) to = from + STEPS[/** @type {keyof typeof STEPS} */ (event.key)];
  if (event.key === "Home") to = 0;
  if (event.key === "End") to = titles.length - 1;
  if (from < 0 || to < 0 || to >= titles.length) return;
  event.preventDefault();
  titles.forEach((one, at) => (one.tabIndex = at === to ? 0 : -1));
  titles[to].focus();
}
