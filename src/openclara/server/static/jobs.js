// Files that are being compressed: followed until they are done, with what was left out and why.

import { cancelJob, job as fetchJob, jobs } from "./api.js";
import { byId, el, fill } from "./elements.js";
import { plural } from "./format.js";
import { refreshIndexes } from "./indexes.js";
import { current, listen } from "./state.js";

/** @typedef {import("./api.js").Job} Job */

const EVERY_MS = 700;

/** Jobs that are shown. @type {Set<string>} */
const followed = new Set();

/**
 * A card of progress for the chosen index; it stays until it is dismissed.
 * @returns {{sending: (share: number, files: number) => void, show: (job: Job) => void,
 *   fail: (message: string) => void}}
 */
export function jobCard() {
  const title = el("p", { class: "job-title", role: "status" });
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Progress" });
  const more = el("div");
  const cancel = el("button", { type: "button", class: "plain", hidden: true }, "Cancel");
  const dismiss = el("button", { type: "button", class: "plain", hidden: true }, "Dismiss");
  const element = el("li", { class: "job", dataset: { index: current().index } }, el("div", { class: "card-head" }, title, cancel, dismiss), bar, more);
  byId("jobs").prepend(element);
  dismiss.addEventListener("click", () => element.remove());

  const end = () => {
    bar.hidden = true;
    cancel.hidden = true;
    dismiss.hidden = false;
  };
  const sending = (/** @type {number} */ share, /** @type {number} */ files) => {
    fill(title, `Sending ${plural(files, "file")}…`);
    bar.value = share;
  };
  const fail = (/** @type {string} */ message) => {
    fill(title, "Not added");
    fill(more, el("p", { class: "error", role: "alert" }, message));
    end();
  };
  const show = (/** @type {Job} */ job) => {
    const finished = !["queued", "running"].includes(job.status);
    fill(title, headline(job));
    bar.max = Math.max(job.documents_total, 1);
    bar.value = job.documents_done;
    cancel.hidden = finished;
    cancel.onclick = () => cancelJob(job.id).catch((problem) => fail(problem.message));
    fill(more, job.error && el("p", { class: "error", role: "alert" }, job.error.message), skipped(job));
    if (finished) end();
  };
  return { sending, show, fail };
}

/** @param {Job} job */
function headline(job) {
  const { status, documents_done: done, documents_total: total, chunks_done: passages } = job;
  if (status === "queued") return `Waiting to compress ${plural(total, "document")}`;
  if (status === "running") return `Compressing: ${done} of ${plural(total, "document")}, ${plural(passages, "passage")}`;
  if (status === "failed") return "Compression failed";
  if (status === "cancelled") return `Cancelled after ${plural(done, "document")}`;
  return passages ? `Added ${plural(done, "document")}, ${plural(passages, "passage")}` : "Nothing new to compress";
}

/** @param {Job} job */
function skipped(job) {
  if (!job.skipped.length) return null;
  return el(
    "details",
    { class: "more", open: job.skipped.length <= 3 },
    el("summary", {}, `${plural(job.skipped.length, "file")} left out`),
    el("ul", { class: "bare" }, ...job.skipped.map(({ file, reason }) =>
      // Most reasons name the file themselves.
      el("li", {}, el("strong", {}, file), ` ${reason.startsWith(`${file} `) ? reason.slice(file.length + 1) : reason}`))),
  );
}

/**
 * Show a job until it ends.
 * @param {Job} job
 * @param {ReturnType<typeof jobCard>} card
 */
export async function follow(job, card) {
  followed.add(job.id);
  let last = job;
  for (;;) {
    card.show(last);
    if (!["queued", "running"].includes(last.status)) break;
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    try {
      last = await fetchJob(job.id);
    } catch (/** @type {any} */ problem) {
      card.fail(problem.message);
      break;
    }
  }
  await refreshIndexes().catch((problem) => fill(byId("index-error"), problem.message));
}

/** Show the cards of the chosen index only. */
function showCards() {
  for (const card of /** @type {Iterable<HTMLElement>} */ (byId("jobs").children)) {
    card.hidden = card.dataset.index !== current().index;
  }
}

/** Take up the jobs of this index that run already, such as those begun before the page was reloaded. */
async function followRunning() {
  const all = await jobs().catch(() => []);
  for (const job of all) {
    const runs = job.status === "queued" || job.status === "running";
    if (runs && job.index === current().index && !followed.has(job.id)) follow(job, jobCard());
  }
}

/** Wire the cards. */
export function startJobs() {
  listen(["index", "view"], () => {
    showCards();
    if (current().view === "documents" && current().index) followRunning();
  });
}
