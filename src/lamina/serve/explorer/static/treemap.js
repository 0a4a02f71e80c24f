// Sizes as areas: what a directory holds, four levels at a time, in the colours of the layers.

import { ask, isAbort } from "./api.js";
import { append, h, icon, put, s } from "./dom.js";
import { chip, layerClass } from "./layers.js";
import { asked, parts } from "./paths.js";
import { squarify } from "./squarify.js";
import { counted, humanSize, plain, visible } from "./text.js";
import { go, place, state as current, to } from "./url.js";
import { empty, failed } from "./waiting.js";

const LIMIT = 500;
const DEPTH = 4;
const HEAD = 18;
const LETTER = 6.6;

/** Text that fits a width, or nothing. */
function fitted(text, width) {
  const most = Math.floor((width - 10) / LETTER);
  if (most < 3) return "";
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

const rest = (node) =>
  node.rest?.size > 0
    ? [{ rest: node.rest, size: node.rest.size, name: counted(node.rest.count, "smaller one"), layers: {} }]
    : [];

export function treemapView(box, state, { image, signal }) {
  const base = { image: image.image, platform: image.platform };
  const where = h("div", { class: "bar" });
  const drawing = h("div", { class: "treemap-box" });
  const told = h("p", { class: "treemap-told", "aria-live": "polite" });
  const table = h("details", { class: "as-table" });
  append(box, [where, drawing, told, table]);
  let shown = null;
  let cells = [];
  let at = 0;
  let layer = state.layer;
  let width = 0;

  const open = (node) => {
    if (!node?.path) return;
    if (node.kind === "directory") go({ ...current(), ...place(node) });
    else go({ ...current(), view: undefined, ...place(node) });
  };

  function tell(cell) {
    put(
      told,
      cell
        ? [
            cell.node.layer && chip(cell.node.layer),
            " ",
            h("span", { class: "strong" }, visible(cell.node.path ?? cell.node.name)),
            ` ${humanSize(cell.node.size)}`,
            h("span", { class: "dim" }, ` · ${percent(cell.node.size)} of ${plain(shown.path)}`),
          ]
        : h(
            "span",
            { class: "dim" },
            "Choose a rectangle: a directory opens, a file is shown in the files.",
            !matchMedia("(pointer: coarse)").matches && " Arrow keys move, Enter opens, Backspace goes up.",
          ),
    );
  }

  const percent = (size) => `${((100 * size) / Math.max(1, shown.size)).toFixed(size / shown.size < 0.1 ? 1 : 0)} %`;

  /** How much of a node the chosen layer has. */
  const isOut = (node) => layer && !(node.layers?.[layer] > 0);

  function draw() {
    width = drawing.clientWidth;
    const height = Math.max(300, Math.min(innerHeight - 290, Math.round(width * 0.62)));
    if (!width || !shown) return;
    cells = [];
    const svg = s("svg", {
      class: "treemap",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      tabindex: 0,
      "aria-label": `Sizes in ${plain(shown.path)}. A table with the same numbers follows.`,
    });
    const cell = (node, x, y, w, hh, depth, hasInside) => {
      const group = s("g", {
        class: `cell ${layerClass(node.layer)}${hasInside ? ` outer deep${depth}` : ""}${node.rest && !node.path ? " rest" : ""}${isOut(node) ? " out" : ""}`,
        id: `cell${cells.length}`,
        role: "img",
        "aria-label": `${plain(node.name)}, ${humanSize(node.size)}`,
      });
      group.append(
        s("rect", {
          x: x + 0.5,
          y: y + 0.5,
          width: Math.max(0, w - 1),
          height: Math.max(0, hh - 1),
          rx: Math.min(3, w / 4, hh / 4),
        }),
      );
      const words = hh >= 15 ? fitted(plain(node.name), hasInside ? w - 52 : w) : "";
      if (words) group.append(s("text", { x: x + 6, y: y + 13 }, words));
      const size = hasInside
        ? w > 110
          ? humanSize(node.size)
          : ""
        : hh >= 32
          ? fitted(humanSize(node.size), w)
          : "";
      if (size)
        group.append(
          s(
            "text",
            {
              class: "size",
              ...(hasInside ? { x: x + w - 6, y: y + 13, "text-anchor": "end" } : { x: x + 6, y: y + 27 }),
            },
            size,
          ),
        );
      const one = { node, group, x, y, w, h: hasInside ? HEAD : hh };
      group.addEventListener("pointerenter", () => tell(one));
      group.addEventListener("click", (event) => {
        event.stopPropagation();
        open(node);
      });
      cells.push(one);
      svg.append(group);
    };
    const lay = (node, area, depth) => {
      for (const one of squarify([...(node.children ?? []), ...rest(node)], area)) {
        if (one.width <= 1.5 || one.height <= 1.5) continue;
        const inside = one.item.children?.length > 0 && one.width > 60 && one.height > 50;
        cell(one.item, one.x, one.y, one.width, one.height, depth, inside);
        if (inside)
          lay(
            one.item,
            { x: one.x + 3, y: one.y + HEAD, width: one.width - 6, height: one.height - HEAD - 3 },
            depth + 1,
          );
      }
    };
    lay(shown, { x: 0, y: 0, width, height }, 0);
    svg.addEventListener("pointerleave", () => tell(null));
    svg.addEventListener("keydown", key);
    svg.addEventListener("focus", () => move(Math.min(at, cells.length - 1)));
    svg.addEventListener("blur", () => cells[at]?.group.classList.remove("at"));
    put(drawing, cells.length ? svg : empty("No file here has content.", "Go up to see the sizes above."));
    tell(null);
  }

  function move(to_) {
    cells[at]?.group.classList.remove("at");
    at = Math.max(0, to_);
    const cell = cells[at];
    if (!cell) return;
    cell.group.classList.add("at");
    drawing.firstChild.setAttribute("aria-activedescendant", cell.group.id);
    tell(cell);
  }

  /** The nearest rectangle in a direction. */
  function towards(dx, dy) {
    const from = cells[at];
    const x = from.x + from.w / 2;
    const y = from.y + from.h / 2;
    let best = -1;
    let least = Infinity;
    for (const [index, one] of cells.entries()) {
      if (index === at) continue;
      const toX = one.x + one.w / 2 - x;
      const toY = one.y + one.h / 2 - y;
      const along = toX * dx + toY * dy;
      if (along <= 1) continue;
      const far = along + 2.5 * Math.abs(dx ? toY : toX);
      if (far < least) [least, best] = [far, index];
    }
    if (best >= 0) move(best);
  }

  function up() {
    const ways = parts(current());
    if (!ways.length) return;
    go({ ...current(), ...(ways.length > 1 ? place(ways.at(-2)) : place(null)) });
  }

  function key(event) {
    const keys = {
      ArrowRight: () => towards(1, 0),
      ArrowLeft: () => towards(-1, 0),
      ArrowDown: () => towards(0, 1),
      ArrowUp: () => towards(0, -1),
      Home: () => move(0),
      End: () => move(cells.length - 1),
      Enter: () => open(cells[at]?.node),
      Backspace: up,
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  function drawWhere(now) {
    const ways = parts(now);
    put(
      where,
      h(
        "nav",
        { class: "crumbs path", "aria-label": "Path" },
        h("a", to({ ...now, ...place(null) }), "/"),
        ways.map((one, index) => [
          index > 0 && "/",
          index < ways.length - 1
            ? h("a", to({ ...now, ...place(one) }), visible(one.name))
            : h("strong", {}, visible(one.name)),
        ]),
      ),
      ways.length > 0 &&
        h("button", { type: "button", class: "quiet", "aria-label": "Up", title: "Up", onclick: up }, icon("up")),
      h("span", { class: "dim push" }, `${humanSize(shown.size)} in ${counted(shown.files ?? 0, "file")}`),
    );
  }

  function drawTable() {
    const whole = shown.children ?? [];
    put(
      table,
      h("summary", {}, "As a table"),
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["Name", "Size", "Share", "Layer"].map((title) =>
              h("th", { scope: "col", class: title === "Name" ? "" : "right" }, title),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          [...whole, ...rest(shown)].map((node) =>
            h(
              "tr",
              {},
              h(
                "td",
                {},
                node.path
                  ? h(
                      "a",
                      to(
                        node.kind === "directory"
                          ? { ...current(), ...place(node) }
                          : { ...current(), view: undefined, ...place(node) },
                      ),
                      visible(node.name),
                    )
                  : node.name,
              ),
              h("td", { class: "right" }, humanSize(node.size)),
              h("td", { class: "right dim" }, percent(node.size)),
              h("td", { class: "right" }, node.layer && chip(node.layer)),
            ),
          ),
        ),
      ),
    );
  }

  let stop = null;
  async function load(now) {
    stop?.abort();
    stop = new AbortController();
    const mine = stop.signal;
    const hadFocus = box.contains(document.activeElement);
    put(
      drawing,
      h("div", { class: "waiting" }, h("p", {}, "Adding up sizes…"), h("progress", { "aria-label": "Progress" })),
    );
    try {
      const answer = await ask("treemap", { ...base, ...asked(now), depth: DEPTH, limit: LIMIT }, { signal: mine });
      shown = answer;
      at = 0;
      drawWhere(now);
      draw();
      drawTable();
      if (hadFocus) drawing.querySelector(".treemap")?.focus({ preventScroll: true });
    } catch (error) {
      if (isAbort(error) || mine.aborted) return;
      put(
        drawing,
        failed(error, () => load(current())),
      );
    }
  }

  const sized = new ResizeObserver(() => {
    if (shown && Math.abs(drawing.clientWidth - width) > 1) draw();
  });
  sized.observe(drawing);
  signal.addEventListener("abort", () => {
    sized.disconnect();
    stop?.abort();
  });
  load(state);

  return {
    update(now, before) {
      layer = now.layer;
      if (now.path !== before.path || now.path_b64 !== before.path_b64) load(now);
      else if (shown) draw();
    },
  };
}
