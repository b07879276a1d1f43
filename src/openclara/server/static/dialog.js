// The one dialog of the page: a sheet for reading, explaining, confirming and forms.

import { byId, el, fill } from "./elements.js";

const dialog = /** @type {HTMLDialogElement} */ (byId("dialog"));

/** Called when the dialog closes, by whichever way. @type {() => void} */
let closed = () => {};

/**
 * Open the dialog; what was open before is closed first.
 * @param {string} title
 * @param {Node[]} body
 * @param {{size?: "small" | "medium" | "large", onClose?: () => void}} [options]
 */
export function openDialog(title, body, { size = "large", onClose = () => {} } = {}) {
  closeDialog();
  closed = onClose;
  byId("dialog-title").textContent = title;
  fill(byId("dialog-body"), ...body);
  dialog.dataset.size = size;
  dialog.showModal();
}

/** Close the dialog if it is open. */
export function closeDialog() {
  if (!dialog.open) return;
  dialog.close();
  finish();
}

/** Tell whoever opened it; once, since the browser's event comes later than our own call. */
function finish() {
  const after = closed;
  closed = () => {};
  after();
}

/** @returns {boolean} */
export const dialogOpen = () => dialog.open;

/**
 * Ask before something that cannot be undone.
 * @param {string} title
 * @param {string} text
 * @param {string} verb on the button that does it
 * @returns {Promise<boolean>}
 */
export function confirmed(title, text, verb) {
  return new Promise((resolve) => {
    let answer = false;
    const decide = (/** @type {boolean} */ value) => {
      answer = value;
      closeDialog();
    };
    const keep = el("button", { type: "button", onclick: () => decide(false) }, "Keep");
    const body = [
      el("p", {}, text),
      el(
        "div",
        { class: "actions" },
        keep,
        el("button", { type: "button", class: "danger", onclick: () => decide(true) }, verb),
      ),
    ];
    openDialog(title, body, { size: "small", onClose: () => resolve(answer) });
    keep.focus();
  });
}

/** Wire the dialog's own ways to close it; Esc is the browser's. */
export function startDialog() {
  byId("dialog-close").addEventListener("click", closeDialog);
  dialog.addEventListener("click", (event) => event.target === dialog && closeDialog());
  dialog.addEventListener("close", () => dialog.open || finish());
}
