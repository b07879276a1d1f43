// Files in: dropped or chosen, sent in parts that the server takes, then followed as jobs.

import { upload } from "./api.js";
import { droppedFiles } from "./dropped.js";
import { byId, fill } from "./elements.js";
import { bytes } from "./format.js";
import { follow, jobCard } from "./jobs.js";
import { current, listen, mayWrite } from "./state.js";

/** The most files of one request. */
const MOST = 500;

/** Bytes that a file's part adds around its content, at most. */
const AROUND = 1000;

const drop = byId("drop");
const picker = /** @type {HTMLInputElement} */ (byId("files"));

/**
 * Groups of files that are each small enough for one request.
 * @param {File[]} files
 * @param {number} limit bytes
 * @returns {File[][]}
 */
function groups(files, limit) {
  /** @type {File[][]} */
  const found = [];
  let room = 0;
  for (const file of files) {
    const size = file.size + AROUND;
    if (!found.length || size > room || found[found.length - 1].length === MOST) {
      found.push([]);
      room = limit;
    }
    found[found.length - 1].push(file);
    room -= size;
  }
  return found;
}

/** @param {File[]} files */
async function add(files) {
  const { index, session } = current();
  const error = byId("upload-error");
  fill(error);
  if (!index || !session) return;
  const limit = session.limits.upload_bytes;
  const large = files.filter((file) => file.size + AROUND > limit);
  if (large.length) {
    fill(error, `${large.map(({ name }) => name).join(", ")}: larger than ${bytes(limit)}, which is what the server takes; `
      + "split it, or use openclara index add.");
  }
  const fitting = files.filter((file) => !large.includes(file));
  if (!files.length) fill(error, "There was no file in that; drop files or a folder that holds some.");
  for (const group of groups(fitting, limit)) {
    const card = jobCard();
    card.sending(0, group.length);
    try {
      const job = await upload(index, group, (share) => card.sending(share, group.length));
      follow(job, card);
    } catch (/** @type {any} */ problem) {
      card.fail(problem.message);
    }
  }
}

/** Wire the drop zone and its button. */
export function startUploads() {
  byId("choose-files").addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    add([...(picker.files ?? [])]);
    picker.value = "";
  });
  const over = (/** @type {boolean} */ is) => (drop.dataset.over = String(is));
  // A file that misses the zone must not replace the page.
  for (const name of ["dragover", "drop"]) {
    window.addEventListener(name, (event) => event.preventDefault());
  }
  drop.addEventListener("dragover", () => over(true));
  drop.addEventListener("dragleave", () => over(false));
  drop.addEventListener("drop", async (event) => {
    over(false);
    if (event.dataTransfer) add(await droppedFiles(event.dataTransfer));
  });
  listen(["session", "indexes", "index"], () => (drop.hidden = !mayWrite()));
}
