// Every endpoint that the page uses.

import { events } from "./events.js";
import {
  ApiError, authorization, keyWanted, queryText, read, refused, request, sentence, unreachable,
} from "./transport.js";

/**
 * @typedef {object} Hit
 * @property {string} id
 * @property {number} score
 * @property {number | null} cosine
 * @property {string} title
 * @property {string} text
 * @property {string} source
 * @property {number} start
 * @property {number} end
 * @property {number} n_tokens
 * @property {Record<string, any>} metadata
 */

/**
 * @typedef {object} Usage
 * @property {number} prompt_tokens
 * @property {number} completion_tokens
 * @property {number} text_prompt_tokens
 * @property {number} nominal_rate
 * @property {number} effective_rate
 * @property {number} first_token_ms
 * @property {number} total_ms
 */

/**
 * @typedef {object} Job
 * @property {string} id
 * @property {string} index
 * @property {"queued" | "running" | "done" | "failed" | "cancelled"} status
 * @property {number} documents_done
 * @property {number} documents_total
 * @property {number} chunks_done
 * @property {string[]} ids
 * @property {{file: string, reason: string}[]} skipped
 * @property {{message: string} | null} error
 */

/** @param {string} id its slashes encoded too, so that no part of it is taken for a folder */
const documentPath = (id) => `/v1/documents/${encodeURIComponent(id)}`;

/** @returns {Promise<boolean>} whether the model is loaded */
export const ready = () => fetch("/readyz").then((reply) => reply.ok, () => Promise.reject(unreachable()));

/** @returns {Promise<import("./state.js").Session>} */
export const session = () => read("GET", "/v1/session");

/** @returns {Promise<import("./state.js").IndexInfo[]>} */
export const indexes = async () => (await read("GET", "/v1/indexes")).indexes;

/** @param {{name: string, quantization?: string}} json */
export const createIndex = (json) => read("POST", "/v1/indexes", { json });

/** @param {string} name */
export const deleteIndex = (name) => request("DELETE", `/v1/indexes/${encodeURIComponent(name)}`);

/**
 * @param {{index: string, question: string, k?: number, mode?: string}} json
 * @param {AbortSignal} [signal]
 * @returns {Promise<Hit[]>}
 */
export const search = async (json, signal) => (await read("POST", "/v1/search", { json, signal })).hits;

/**
 * Ask with a streamed answer; yields `hits`, `piece`s and `done`.
 * @param {Record<string, any>} json
 * @param {AbortSignal} signal
 */
export async function* ask(json, signal) {
  const response = await request("POST", "/v1/ask", { json: { ...json, stream: true }, signal });
  if (!response.body) throw unreachable();
  try {
    for await (const event of events(response.body)) {
      if (event.name === "error") throw new ApiError(sentence(event.data.error.message));
      yield event;
      if (event.name === "done") return;
    }
  } catch (/** @type {any} */ problem) {
    if (problem instanceof ApiError || problem.name === "AbortError") throw problem;
  }
  throw new ApiError("The answer broke off before its end; ask again.");
}

/**
 * @param {{index: string, where?: string[], limit: number, offset: number}} query
 * @param {AbortSignal} [signal]
 */
export const documents = (query, signal) => read("GET", "/v1/documents", { query, signal });

/**
 * @param {string} index
 * @param {string} id
 */
export const documentText = (index, id) => read("GET", documentPath(id), { query: { index } });

/**
 * @param {string} index
 * @param {string} id
 */
export const deleteDocument = (index, id) => read("DELETE", documentPath(id), { query: { index } });

/** @returns {Promise<Job[]>} */
export const jobs = async () => (await read("GET", "/v1/jobs")).jobs;

/** @param {string} id @returns {Promise<Job>} */
export const job = (id) => read("GET", `/v1/jobs/${encodeURIComponent(id)}`);

/** @param {string} id */
export const cancelJob = (id) => request("DELETE", `/v1/jobs/${encodeURIComponent(id)}`);

/**
 * @param {{index: string, question?: string, id?: string, start?: number}} json
 * @returns {Promise<{model: string, inspected: import("./latents.js").Inspected[]}>}
 */
export const inspect = (json) => read("POST", "/v1/inspect", { json });

/**
 * Send files; by XMLHttpRequest, since fetch does not tell how much was sent.
 * @param {string} index
 * @param {File[]} files
 * @param {(share: number) => void} progress
 * @returns {Promise<Job>}
 */
export async function upload(index, files, progress) {
  const body = new FormData();
  for (const file of files) body.append("files", file, file.name);
  const send = () =>
    new Promise((resolve, reject) => {
      const sending = new XMLHttpRequest();
      sending.open("POST", `/v1/documents${queryText({ index })}`);
      for (const [name, value] of Object.entries(authorization())) sending.setRequestHeader(name, value);
      sending.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
      sending.onload = () => resolve(sending);
      sending.onerror = () => reject(unreachable());
      sending.send(body);
    });
  let reply = await send();
  while (reply.status === 401 && (await keyWanted())) reply = await send();
  if (reply.status >= 400) throw refused(reply.status, reply.responseText, reply.getResponseHeader("Retry-After"));
  return JSON.parse(reply.responseText);
}
