// The API key, where the server wants one. It stays in this tab and is gone with it.

import { closeDialog, openDialog } from "./dialog.js";
import { el } from "./elements.js";
import { key, setKey, whenKeyIsWanted } from "./transport.js";

/** The dialog that is open for a key, shared by all requests that wait for one. @type {Promise<boolean> | null} */
let asking = null;

/**
 * Ask for a key.
 * @returns {Promise<boolean>} whether one was given
 */
export function askForKey() {
  asking ??= new Promise((resolve) => {
    let given = false;
    const input = el("input", {
      id: "key", type: "password", autocomplete: "off", spellcheck: false, required: true,
    });
    const form = el(
      "form",
      {
        class: "stack",
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          setKey(input.value.trim());
          given = true;
          closeDialog();
        },
      },
      el("p", {}, key() ? "The server does not know this key, or wants another; enter one that it knows."
        : "This server wants an API key; enter one. It is forgotten when you close this tab."),
      el("label", { htmlFor: "key" }, "API key"),
      input,
      el("div", { class: "actions" }, el("button", { class: "main" }, "Use this key")),
    );
    openDialog("API key", [form], {
      size: "small",
      onClose: () => {
        asking = null;
        resolve(given);
      },
    });
    input.focus();
  });
  return asking;
}

/** Ask by itself when a request is refused for want of a key. */
export function startKey() {
  whenKeyIsWanted(askForKey);
}
