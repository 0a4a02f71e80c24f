// The address is the state: what is shown follows from it, so that every view can be linked and gone back to.

import { isHidden } from "./hidden.js";

const FIELDS = [
  "repository",
  "image",
  "platform",
  "view",
  "other",
  "layer",
  "path",
  "path_b64",
  "node",
  "hidden",
  "times",
  "kind",
  "q",
];

/** What an address shows. Unknown fields are left out. */
export function read(address) {
  const given = new URL(address, location.href).searchParams;
  const state = {};
  for (const field of FIELDS) if (given.get(field)) state[field] = given.get(field);
  return state;
}

// slashes and colons of names stay readable
const encoded = (text) => encodeURIComponent(text).replace(/%2F/g, "/").replace(/%3A/g, ":").replace(/%40/g, "@");

/** The address of a state. */
export function write(state) {
  const parts = FIELDS.filter((field) => state[field]).map((field) => `${field}=${encoded(state[field])}`);
  return parts.length ? `/?${parts.join("&")}` : "/";
}

let shown = () => {};
let current = read(location.href);

/** The state that is shown now. */
export const state = () => current;

/** Call a function with the state and the one before, now and whenever it changes. */
export function follow(show) {
  shown = show;
  addEventListener("popstate", () => change(read(location.href)));
  shown(current, {});
}

function change(next) {
  const before = current;
  current = next;
  shown(current, before);
}

/** Show another state, as a step that "back" undoes. */
export function go(next) {
  if (write(next) === write(current)) return;
  history.pushState(null, "", write(next));
  change(next);
}

/** Show another state in the place of this one. */
export function turn(next) {
  history.replaceState(null, "", write(next));
  change(next);
}

/** Write a state into the address without a step, and without showing it again. */
export function note(changes) {
  current = { ...current, ...changes };
  history.replaceState(history.state, "", write(current));
}

/** The state that shows an entry of an image: where a name is not UTF-8, its bytes tell which it is. */
export const place = (entry) =>
  entry
    ? {
        path: entry.path_b64 ? undefined : entry.path,
        path_b64: entry.path_b64,
        node: isHidden(entry) ? entry.node : undefined,
      }
    : { path: undefined, path_b64: undefined, node: undefined };

/** Attributes that make an element a link to a state: the keys of browsers (new tab, copy) work as on any link. */
export const to = (next) => ({
  href: write(next),
  onclick(event) {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey)
      return;
    event.preventDefault();
    go(next);
  },
});
