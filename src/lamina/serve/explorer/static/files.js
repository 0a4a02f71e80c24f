// The union as a tree: each path has the colour of the layer that put it there.

import { ask } from "./api.js";
import { append, h, icon, put } from "./dom.js";
import { hiding, isHidden } from "./hidden.js";
import { chip, layerClass } from "./layers.js";
import { pathPanel } from "./panel.js";
import { asked, parts } from "./paths.js";
import { humanSize, number, plain, visible } from "./text.js";
import { Tree } from "./tree.js";
import { go, place, state as current } from "./url.js";
import { empty, failed } from "./waiting.js";

const MOST_MARKS = 8;
const MOST_OPENED = 60;
const ICONS = {
  directory: "directory",
  file: "file",
  symlink: "symlink",
  char: "device",
  block: "device",
  fifo: "device",
};

/** Marks of the layers that have something at or below a directory. */
function marks(layers) {
  const some = layers.slice(0, MOST_MARKS);
  const rest = layers.length - some.length;
  return h(
    "span",
    { class: "marks", title: `From layer ${layers.join(", ")}` },
    some.map((one) => h("span", { class: `mark ${layerClass(one)}` })),
    rest > 0 && h("span", { class: "dim" }, `+${rest}`),
  );
}

function drawRow(entry) {
  const isDirectory = entry.kind === "directory";
  const size = isDirectory || entry.kind === "file" ? humanSize(isDirectory ? entry.total : entry.size) : "";
  return [
    chip(entry.layer),
    icon(entry.links > 1 && entry.kind === "file" ? "hardlink" : (ICONS[entry.kind] ?? "file")),
    h(
      "span",
      { class: `what${isHidden(entry) ? " gone" : ""}` },
      visible(entry.name),
      entry.target !== undefined && h("span", { class: "dim" }, " → ", visible(entry.target)),
    ),
    isHidden(entry) && h("span", { class: "why dim" }, hiding(entry)),
    isDirectory && !isHidden(entry) && entry.layers?.length > 1 && marks(entry.layers),
    h("span", { class: "size" }, size),
  ];
}

export function filesView(box, state, { image, signal }) {
  const base = { image: image.image, platform: image.platform };
  let shows = { layer: state.layer, hidden: state.hidden, sort: "name" };
  const work = h("p", { class: "dim state", role: "status" });
  const holder = h("div", { class: "holder" });
  const side = h("aside", { class: "side", "aria-label": "The chosen path" });
  const panel = pathPanel(side, { image, signal, base, close: () => close() });

  const hidden = h("input", { type: "checkbox", id: "show-hidden" });
  hidden.addEventListener("change", () =>
    go({ ...current(), hidden: hidden.checked ? "1" : undefined, node: undefined }),
  );
  const order = h(
    "select",
    { "aria-label": "Order" },
    h("option", { value: "name" }, "by name"),
    h("option", { value: "size" }, "largest first"),
  );
  order.addEventListener("change", () => {
    shows = { ...shows, sort: order.value };
    restart();
  });
  const filter = h("span", { class: "filtered" });

  let root = null;
  async function load(entry, offset, limit) {
    const { layer, sort } = shows;
    const answer = await ask(
      "tree",
      {
        ...base,
        ...asked(entry),
        offset,
        limit,
        sort,
        layer: layer ?? undefined,
        hidden: shows.hidden ? 1 : undefined,
      },
      {
        signal,
        working: (one) =>
          (work.textContent = plain(
            `${one.what}${Number.isFinite(one.percent) ? `, ${Math.round(one.percent)} %` : ""}…`,
          )),
      },
    );
    if (!entry) root = answer;
    return answer;
  }

  function makeTree() {
    return new Tree({
      label: `Files of ${plain(image.image)}`,
      load,
      draw: drawRow,
      style: (entry) => (shows.layer && entry.layer !== shows.layer && entry.hidden_by !== shows.layer ? "way" : ""),
      expandable: (entry) => entry.kind === "directory" && (entry.children > 0 || (shows.hidden && entry.older > 0)),
      choose: (entry) => go({ ...current(), view: undefined, ...place(entry) }),
      byName: shows.sort === "name",
    });
  }

  let tree = null;

  /** Close the panel; the keys go back to the tree. */
  function close() {
    if (!current().path && !current().path_b64) return;
    go({ ...current(), ...place(null) });
    tree?.element.focus({ preventScroll: true });
  }

  function drawFilter() {
    hidden.checked = Boolean(shows.hidden);
    put(
      filter,
      shows.layer && [
        "Only ",
        chip(shows.layer),
        ` layer ${shows.layer}`,
        h(
          "button",
          {
            type: "button",
            class: "quiet",
            "aria-label": "Show all layers",
            title: "Show all layers",
            onclick: () => go({ ...current(), layer: undefined }),
          },
          icon("close"),
        ),
      ],
    );
  }

  async function reveal() {
    const { path, path_b64: base64, node } = current();
    const names = parts({ path, path_b64: base64 });
    if (!names.length) return;
    const mine = tree;
    if ((await mine.reveal(names, { hidden: node })) && mine.chosen) await mine.expand(mine.chosen);
  }

  async function restart() {
    tree?.close();
    tree = makeTree();
    const mine = tree;
    drawFilter();
    put(
      holder,
      h("div", { class: "waiting" }, h("p", {}, "Reading the layers…"), h("progress", { "aria-label": "Progress" })),
    );
    work.textContent = "";
    try {
      await mine.start();
      if (mine !== tree || signal.aborted) return;
      work.textContent =
        root.node && !shows.layer ? `${number(root.node.files)} files, ${humanSize(root.node.total)}` : "";
      put(
        holder,
        root.total
          ? mine.element
          : empty(
              shows.layer ? "This layer has no files of its own." : "The image has no files.",
              shows.layer && !shows.hidden ? "Show hidden entries to see what it removes." : "",
            ),
      );
      mine.flatten();
      if (shows.layer) await mine.openSome(MOST_OPENED);
      await reveal();
    } catch (error) {
      if (mine === tree && !signal.aborted) put(holder, failed(error, restart));
    }
  }

  append(box, [
    h(
      "div",
      { class: "bar" },
      filter,
      work,
      h("span", { class: "push" }),
      h("label", { class: "check", for: "show-hidden" }, hidden, " hidden entries"),
      order,
    ),
    h("div", { class: "split", onkeydown: (event) => event.key === "Escape" && close() }, holder, side),
  ]);
  signal.addEventListener("abort", () => tree?.close());
  panel.show(current());
  restart();

  return {
    update(now, before) {
      const changed = now.layer !== shows.layer || now.hidden !== shows.hidden;
      shows = { ...shows, layer: now.layer, hidden: now.hidden };
      const isOther = now.path !== before.path || now.path_b64 !== before.path_b64 || now.node !== before.node;
      if (changed) restart();
      else if (isOther && tree?.element.isConnected && !isShown(tree.chosen?.entry, now)) reveal().catch(() => {});
      if (isOther) panel.show(now);
    },
  };
}

/** Whether the tree has chosen what the address says already: then it needs no scrolling. */
const isShown = (entry, state) => {
  if (!entry) return false;
  const there = place(entry);
  return (
    there.path === state.path && there.path_b64 === state.path_b64 && String(there.node ?? "") === (state.node ?? "")
  );
};
