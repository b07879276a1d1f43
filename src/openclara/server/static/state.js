// What the whole page knows, and who wants to hear when it changes.

/**
 * @typedef {object} IndexInfo
 * @property {string} name
 * @property {number} documents
 * @property {number} chunks
 * @property {number} bytes
 * @property {string} model
 * @property {number} n_memory
 * @property {number} nominal_rate
 * @property {string} quantization
 * @property {string | number | null} updated
 * @property {boolean} writable
 */

/**
 * @typedef {object} Session
 * @property {string[]} scopes
 * @property {boolean} auth
 * @property {string} version
 * @property {string} model
 * @property {boolean} can_create_indexes
 * @property {{upload_bytes: number, question_chars: number, k: number}} limits
 */

/**
 * @typedef {object} State
 * @property {Session | null} session
 * @property {IndexInfo[]} indexes
 * @property {string | null} index name of the chosen one
 * @property {"ask" | "documents"} view
 */

/** @type {State} */
const state = { session: null, indexes: [], index: null, view: "ask" };

/** @type {{keys: (keyof State)[], hear: () => void}[]} */
const listeners = [];

/** @returns {Readonly<State>} */
export const current = () => state;

/** The chosen index, or undefined where there is none. */
export const chosen = () => state.indexes.find((one) => one.name === state.index);

/** Whether the chosen index may be changed with this key. */
export function mayWrite() {
  return Boolean(state.session?.scopes.includes("write") && chosen()?.writable);
}

/** Whether indexes may be created and deleted with this key. */
export function mayCreate() {
  return Boolean(state.session?.scopes.includes("write") && state.session.can_create_indexes);
}

/**
 * Change some of it; those who listen to a key that differs are told once.
 * @param {Partial<State>} change
 */
export function update(change) {
  const keys = /** @type {(keyof State)[]} */ (Object.keys(change));
  const changed = keys.filter((key) => state[key] !== change[key]);
  Object.assign(state, change);
  for (const { keys: wanted, hear } of listeners) {
    if (wanted.some((key) => changed.includes(key))) hear();
  }
}

/**
 * @param {(keyof State)[]} keys
 * @param {() => void} hear
 */
export function listen(keys, hear) {
  listeners.push({ keys, hear });
}
