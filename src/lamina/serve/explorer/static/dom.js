// Elements from plain values. Text only ever becomes a text node: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.setAttribute("class", value);
    else if (key === "vars") for (const [name, one] of Object.entries(value)) element.style.setProperty(name, one);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/** Append nodes, texts, numbers, and lists of them; null, undefined and false are left out. */
export function append(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** An HTML element. `onclick` and the like are listeners; `vars` are CSS properties. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Replace what is in an element. */
export function put(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

const ICONS = {
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  check: "M3 8.5l3.2 3L13 4.5",
  directory: "M1.5 12.5v-9h4.2l1.6 2h7.2v7z",
  file: "M3.5 1.5h6l3 3v10h-9zM9.5 1.5v3h3",
  symlink: "M6.5 9.5l3-3M7 4.5l1.6-1.6a2.8 2.8 0 0 1 4 4L11 8.5M9 11.5l-1.6 1.6a2.8 2.8 0 0 1-4-4L5 7.5",
  hardlink: "M4 8h8M6 4.5H4.5a3.5 3.5 0 0 0 0 7H6M10 4.5h1.5a3.5 3.5 0 0 1 0 7H10",
  device: "M2.5 3.5h11v7h-11zM6 13.5h4M8 10.5v3",
  search: "M7 12a5 5 0 1 0 0-10 5 5 0 0 0 0 10zM10.6 10.6l3.9 3.9",
  close: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  right: "M6 3.5l4.5 4.5L6 12.5",
  sun: "M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1.1 1.1M11.9 11.9L13 13M13 3l-1.1 1.1M4.1 11.9L3 13",
  moon: "M13.5 9.6A6 6 0 0 1 6.4 2.5 6 6 0 1 0 13.5 9.6z",
  up: "M8 13V3.5M3.5 7.5L8 3l4.5 4.5",
  download: "M8 2v8.5M4 7l4 4 4-4M2.5 14h11",
  swap: "M2 5.5h11M10 2.5l3 3-3 3M14 10.5H3M6 7.5l-3 3 3 3",
};

/** A small picture that stands beside its words; it says nothing to screen readers. */
export const icon = (name) =>
  s(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", focusable: "false" },
    s("path", { d: ICONS[name] ?? ICONS.file }),
  );
