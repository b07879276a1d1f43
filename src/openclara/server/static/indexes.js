// Which index, what it is, and making and deleting one.

import { createIndex, deleteIndex, indexes } from "./api.js";
import { closeDialog, confirmed, openDialog } from "./dialog.js";
import { byId, el, fill } from "./elements.js";
import { bytes, count, date, decimal, plural } from "./format.js";
import { chosen, current, listen, mayCreate, update } from "./state.js";

const choice = /** @type {HTMLSelectElement} */ (byId("index-choice"));

/**
 * Ask the server again what indexes there are; the chosen one stays if it is still there.
 * @param {Partial<import("./state.js").State>} [also] what changes in the same moment
 */
export async function refreshIndexes(also = {}) {
  const found = await indexes();
  const kept = found.some(({ name }) => name === current().index);
  update({ ...also, indexes: found, index: kept ? current().index : (found[0]?.name ?? null) });
}

/** @param {string} name */
export function goTo(name) {
  location.hash = `#/${encodeURIComponent(name)}/${current().view}`;
}

/**
 * A form that creates an index.
 * @param {() => void} done
 * @returns {HTMLFormElement}
 */
export function indexForm(done) {
  const name = el("input", {
    id: "index-name", required: true, maxLength: 64, pattern: "[a-z0-9][a-z0-9._\\-]*", autocomplete: "off",
    spellcheck: false, placeholder: "handbook", "aria-describedby": "index-name-help",
  });
  const kept = el("select", { id: "index-kept" }, ...[["", "as the server does by itself"], ["bf16", "16 bit"],
    ["int8", "8 bit, half the size"], ["int4", "4 bit, a third of the size"]].map(([value, text]) => el("option", { value }, text)));
  const error = el("p", { class: "error", role: "alert" });
  const button = el("button", { class: "main" }, "Create");
  /** @param {Event} event */
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    fill(error);
    try {
      const made = await createIndex({ name: name.value.trim(), quantization: kept.value || undefined });
      await refreshIndexes();
      done();
      update({ view: "documents" });
      goTo(made.name);
    } catch (/** @type {any} */ problem) {
      fill(error, problem.message);
    }
    button.disabled = false;
  }
  return el(
    "form",
    { class: "stack", onsubmit: submit },
    el("label", { htmlFor: "index-name" }, "Name"),
    name,
    el("p", { class: "help", id: "index-name-help" }, "Small letters, digits, points, dashes and underscores."),
    el("label", { htmlFor: "index-kept" }, "Latents are kept in"),
    kept,
    error,
    el("div", { class: "actions" }, button),
  );
}

/** Open the form in the dialog. */
export function openNewIndex() {
  const form = indexForm(closeDialog);
  openDialog("New index", [form], { size: "small" });
  form.querySelector("input")?.focus();
}

async function removeIndex() {
  const index = chosen();
  if (!index) return;
  const holds = `It holds ${plural(index.documents, "document")}. The server moves it to its hidden trash folder.`;
  if (!(await confirmed(`Delete ${index.name}?`, holds, "Delete the index"))) return;
  try {
    await deleteIndex(index.name);
    await refreshIndexes();
    if (current().index) goTo(/** @type {string} */ (current().index));
  } catch (/** @type {any} */ problem) {
    fill(byId("index-error"), problem.message);
  }
}

function showChoice() {
  const { indexes: known, index } = current();
  fill(choice, ...known.map(({ name }) => el("option", { value: name, selected: name === index }, name)));
  /** @type {HTMLElement} */ (choice.closest("label")).hidden = known.length === 0;
}

function showFacts() {
  const index = chosen();
  fill(byId("index-error"));
  byId("new-index").hidden = !mayCreate();
  byId("delete-index").hidden = !(mayCreate() && index?.writable);
  if (!index) return;
  const facts = [
    ["Documents", count(index.documents)],
    ["Passages", count(index.chunks)],
    ["Latents each", `${count(index.n_memory)} (${decimal(index.nominal_rate)}×)`],
    ["Size", `${bytes(index.bytes)}, ${index.quantization}`],
    ["Model", index.model],
  ];
  if (index.updated) facts.push(["Changed", date(index.updated)]);
  fill(byId("index-facts"), ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** Wire the choice and the facts. */
export function startIndexes() {
  choice.addEventListener("change", () => goTo(choice.value));
  byId("new-index").addEventListener("click", openNewIndex);
  byId("delete-index").addEventListener("click", removeIndex);
  listen(["indexes", "index", "session"], () => {
    showChoice();
    showFacts();
  });
}
