// The server counts characters as code points, JavaScript strings as UTF-16 units.

/**
 * Cut a text at two places that are counted in code points.
 * @param {string} text
 * @param {number} start
 * @param {number} end
 * @returns {[string, string, string]} before, between, after
 */
export function cut(text, start, end) {
  const first = unitsOf(text, start, 0);
  const last = unitsOf(text, end - start, first);
  return [text.slice(0, first), text.slice(first, last), text.slice(last)];
}

/**
 * Where `points` code points after the unit `from` end.
 * @param {string} text
 * @param {number} points
 * @param {number} from
 */
function unitsOf(text, points, from) {
  let at = from;
  for (let left = points; left > 0 && at < text.length; left -= 1) {
    at += /** @type {number} */ (text.codePointAt(at)) > 0xffff ? 2 : 1;
  }
  return at;
}
