// Numbers, sizes and dates as people read them.

const NUMBER = new Intl.NumberFormat("en-GB");
const ONE_PLACE = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1 });
const DATE = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** @param {number} value */
export const count = (value) => NUMBER.format(value);

/** @param {number} value */
export const decimal = (value) => ONE_PLACE.format(value);

/** @param {number} share between 0 and 1 */
export const percent = (share) => `${Math.round(100 * share)} %`;

/**
 * A number and its noun.
 * @param {number} value
 * @param {string} one
 * @param {string} [many]
 */
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** @param {number} value */
export function bytes(value) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${decimal(size)} ${units[unit]}`;
}

/** @param {number} value milliseconds */
export const duration = (value) => (value < 1000 ? `${Math.round(value)} ms` : `${decimal(value / 1000)} s`);

/**
 * A moment, given as ISO text or as seconds since 1970.
 * @param {string | number} moment
 */
export function date(moment) {
  const at = new Date(typeof moment === "number" ? 1000 * moment : moment);
  return Number.isNaN(at.getTime()) ? String(moment) : DATE.format(at);
}
