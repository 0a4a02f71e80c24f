// A layer's colour and number. Numbers tell layers apart for everyone; after eight, colours return with stripes.

import { h } from "./dom.js";

export const COLOURS = 8;

/** The classes that give an element the colour of a layer. */
export const layerClass = (number) => {
  if (!number) return "layer none";
  const cycle = Math.floor((number - 1) / COLOURS) % 3;
  return `layer c${(number - 1) % COLOURS}${cycle ? ` again${cycle}` : ""}`;
};

/** A small square with a layer's number. */
export const chip = (number, title) =>
  h(
    "span",
    {
      class: `chip ${layerClass(number)}`,
      title: title ?? (number ? `Layer ${number}` : "No layer states this directory"),
    },
    number ?? "–",
  );
