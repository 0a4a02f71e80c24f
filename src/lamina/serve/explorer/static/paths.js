// Paths as the server writes them: text with a leading slash, and bytes in base64 where the text is not UTF-8.

import { isHidden } from "./hidden.js";

const bytes = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true });

const toBytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
const toBase64 = (array) => btoa(Array.from(array, (one) => String.fromCharCode(one)).join(""));

function named(array) {
  try {
    return { name: strict.decode(array) };
  } catch {
    const name = Array.from(array, (one) => (one < 0x80 ? String.fromCharCode(one) : `\\x${one.toString(16)}`)).join(
      "",
    );
    return { name, name_b64: toBase64(array) };
  }
}

/**
 * The names on the way to a path, from the root down, each with the path that leads to it.
 *
 * @param {{path?: string, path_b64?: string}} entry
 */
export function parts({ path, path_b64: base64 }) {
  let whole;
  try {
    whole = base64 ? toBytes(base64) : bytes.encode(path ?? "");
  } catch {
    return []; // an address that somebody has written by hand
  }
  const out = [];
  let start = 0;
  for (let at = 0; at <= whole.length; at += 1) {
    if (at < whole.length && whole[at] !== 0x2f) continue;
    if (at > start) {
      const one = named(whole.slice(start, at));
      const way = named(whole.slice(0, at));
      const slash = way.name.startsWith("/") ? "" : "/";
      out.push({ ...one, path: slash + way.name, path_b64: way.name_b64 });
    }
    start = at + 1;
  }
  return out;
}

/** The parameters that ask for an entry. */
export const asked = (entry) =>
  entry?.node !== undefined && isHidden(entry)
    ? { node: entry.node }
    : entry?.path_b64
      ? { path_b64: entry.path_b64 }
      : { path: entry?.path ?? "/" };
