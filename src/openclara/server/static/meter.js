// What an answer cost: positions read against those of the full text, the rate, the first token.

import { el, fill } from "./elements.js";
import { count, decimal, duration } from "./format.js";

/** @typedef {import("./api.js").Usage} Usage */

/**
 * A meter with room for its figures, so that nothing moves when they come.
 * @returns {{element: HTMLElement, show: (usage: Usage, full: number) => void, clear: () => void}}
 */
export function meter() {
  const read = el("strong", {}, "–");
  const of = el("span", {}, "");
  const bar = el("progress", { value: 0, max: 1, "aria-label": "Share of the full text's tokens that was read" });
  const rate = el("dd", {}, "–");
  const first = el("dd", {}, "–");
  const element = el(
    "div",
    { class: "meter" },
    el("p", { class: "read" }, read, " prompt tokens", of),
    bar,
    el(
      "dl",
      {},
      el("div", {}, el("dt", {}, "Rate"), rate),
      el("div", {}, el("dt", {}, "First token"), first),
    ),
  );
  const clear = () => {
    for (const figure of [read, rate, first]) fill(figure, "–");
    fill(of, "");
    bar.value = 0;
  };
  /**
   * @param {Usage} usage
   * @param {number} full positions of the full text
   */
  const show = (usage, full) => {
    fill(read, count(usage.prompt_tokens));
    fill(of, full > usage.prompt_tokens ? `, full text ${count(full)}` : "");
    bar.max = Math.max(full, usage.prompt_tokens, 1);
    bar.value = usage.prompt_tokens;
    fill(rate, usage.nominal_rate ? `${decimal(usage.nominal_rate)}×, ${decimal(usage.effective_rate)}× in effect` : "none");
    rate.title = usage.nominal_rate
      ? "Longest passage per latent, and tokens of these passages per latent"
      : "No latents were read";
    fill(first, duration(usage.first_token_ms));
  };
  return { element, show, clear };
}
