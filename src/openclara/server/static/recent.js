// Recent questions, kept in this browser; the questions only.

import { byId, el, fill } from "./elements.js";

const RECENT = "openclara.questions";
const KEPT = 12;

/** @returns {string[]} newest first */
function recent() {
  try {
    const kept = JSON.parse(localStorage.getItem(RECENT) ?? "[]");
    return Array.isArray(kept) ? kept.filter((one) => typeof one === "string") : [];
  } catch {
    return [];
  }
}

/** @param {string} question */
export function remember(question) {
  const others = recent().filter((one) => one !== question);
  localStorage.setItem(RECENT, JSON.stringify([question, ...others].slice(0, KEPT)));
}

/**
 * Show them whenever their list is opened.
 * @param {(question: string) => void} choose
 */
export function startRecent(choose) {
  const details = /** @type {HTMLDetailsElement} */ (byId("recent"));
  const show = () => {
    const questions = recent();
    details.hidden = questions.length === 0;
    const take = (/** @type {string} */ question) => {
      details.open = false;
      choose(question);
    };
    fill(
      byId("recent-list"),
      ...questions.map((question) =>
        el("li", {}, el("button", { type: "button", class: "plain", onclick: () => take(question) }, question)),
      ),
    );
  };
  details.addEventListener("toggle", show);
  byId("recent-forget").addEventListener("click", () => {
    localStorage.removeItem(RECENT);
    details.open = false;
    show();
  });
  show();
  return show;
}
