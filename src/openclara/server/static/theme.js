// Light, dark, or as the system has it. Runs before the first paint.

import { byId } from "./elements.js";

const THEME = "openclara.theme";
const ORDER = ["system", "light", "dark"];

/** @type {Record<string, string>} */
const SIGNS = { system: "◐", light: "○", dark: "●" };

const theme = () => localStorage.getItem(THEME) ?? "system";

/** Follow what is chosen. */
function applyTheme() {
  const chosen = theme();
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

applyTheme();

/**
 * Let a button go through the themes.
 * @param {HTMLButtonElement} button
 */
export function startTheme(button) {
  const label = () => {
    const name = theme();
    byId("theme-sign").textContent = SIGNS[name] ?? "";
    byId("theme-name").textContent = name;
    button.setAttribute("aria-label", `Theme: ${name}`);
  };
  button.addEventListener("click", () => {
    const next = ORDER[(ORDER.indexOf(theme()) + 1) % ORDER.length];
    if (next === "system") localStorage.removeItem(THEME);
    else localStorage.setItem(THEME, next);
    applyTheme();
    label();
  });
  label();
}
