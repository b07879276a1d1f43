// One request and its errors, which are sentences that can be shown as they are.

import { duration } from "./format.js";

const KEY = "openclara.key";

/** What went wrong, in one sentence. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} [status] of the reply; 0 where none came
   */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Asked for a key after the server wanted one; set by key.js. */
export let keyWanted = async () => false;

/** @param {() => Promise<boolean>} ask resolves to whether a key was given */
export function whenKeyIsWanted(ask) {
  keyWanted = ask;
}

/** @returns {string | null} */
export const key = () => sessionStorage.getItem(KEY);

/** @param {string} value */
export function setKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** Headers of every request. @returns {Record<string, string>} */
export const authorization = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

/**
 * Send one request, again where a key was wanted and given.
 * @param {string} method
 * @param {string} path
 * @param {{query?: Record<string, any>, json?: any, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 */
export async function request(method, path, { query = {}, json, signal } = {}) {
  const send = () => {
    const headers = authorization();
    if (json !== undefined) headers["Content-Type"] = "application/json";
    const body = json === undefined ? undefined : JSON.stringify(json);
    return fetch(path + queryText(query), { method, headers, body, signal }).catch((error) => {
      throw error.name === "AbortError" ? error : unreachable();
    });
  };
  let response = await send();
  while (response.status === 401 && (await keyWanted())) response = await send();
  if (!response.ok) throw refused(response.status, await response.text(), response.headers.get("Retry-After"));
  return response;
}

export const unreachable = () =>
  new ApiError("The server does not answer; see whether openclara serve still runs, then try again.");

/**
 * A query as it stands in an address, question mark included; empty values are left out.
 * @param {Record<string, any>} query
 */
export function queryText(query) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") given.append(name, String(one));
    }
  }
  const text = given.toString();
  return text && `?${text}`;
}

/**
 * The error of a reply.
 * @param {number} status
 * @param {string} body
 * @param {string | null} after seconds to wait
 */
export function refused(status, body, after) {
  let message = `The server answered with status ${status}; try again, and look at its log if it stays so.`;
  try {
    message = sentence(JSON.parse(body).error.message);
  } catch {
    // Not the server's own reply (a proxy's page, say): the status is all there is.
  }
  if (status === 429 && after) message = `${message} Try again in ${duration(1000 * Number(after))}.`;
  return new ApiError(message, status);
}

/** With a capital and a full stop. @param {string} text */
export function sentence(text) {
  const trimmed = text.trim();
  const first = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

/**
 * The JSON of a reply.
 * @param {string} method
 * @param {string} path
 * @param {{query?: Record<string, any>, json?: any, signal?: AbortSignal}} [options]
 */
export const read = async (method, path, options) => (await request(method, path, options)).json();
