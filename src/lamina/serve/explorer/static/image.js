// One image: its heading, its stack, and the views of it.

import { copyButton } from "./copy.js";
import { compareView } from "./compare.js";
import { detailsView } from "./details.js";
import { h, put } from "./dom.js";
import { filesView } from "./files.js";
import { pullLine } from "./pull.js";
import { searchView } from "./search.js";
import { drawStack } from "./stack.js";
import { age, counted, humanSize, moment, plain, short, visible } from "./text.js";
import { treemapView } from "./treemap.js";
import { go, state as current, to } from "./url.js";
import { fillWith } from "./waiting.js";
import { wasteView } from "./waste.js";

const VIEWS = {
  files: ["Files", filesView],
  sizes: ["Sizes", treemapView],
  waste: ["Waste", wasteView],
  compare: ["Compare", compareView],
  details: ["Details", detailsView],
  search: ["Search", searchView],
};

const viewOf = (state) => (Object.hasOwn(VIEWS, state.view ?? "") ? state.view : "files");

function heading(image, about) {
  const platforms = image.platforms.filter((one) => one.platform);
  const choice =
    platforms.length > 1 &&
    h(
      "select",
      {
        "aria-label": "Platform",
        onchange: (event) => go({ ...current(), platform: event.target.value, layer: undefined, node: undefined }),
      },
      platforms.map((one) =>
        h(
          "option",
          { value: one.platform, selected: one.platform === image.platform, disabled: one.here === false },
          `${plain(one.platform)}${one.here === false ? " (not here)" : ""}`,
        ),
      ),
    );
  const name = image.name || image.repository;
  const cut = name ? name.lastIndexOf("/") + 1 : 0;
  const named =
    name && image.tag
      ? [
          h("span", { class: "dim" }, visible(name.slice(0, cut))),
          visible(name.slice(cut)),
          h("span", { class: "dim" }, ":"),
          visible(image.tag),
        ]
      : visible(image.image);
  return h(
    "div",
    { class: "image-head" },
    h(
      "div",
      {},
      h(
        "nav",
        { class: "crumbs", "aria-label": "Where this is" },
        h("a", to({}), about.kind === "registry" ? "Repositories" : "Images"),
        image.repository &&
          about.kind === "registry" && [
            " / ",
            h("a", to({ repository: image.repository }), visible(image.repository)),
          ],
      ),
      h("h1", { class: image.image.length > 60 ? "lengthy" : "" }, named),
      h(
        "p",
        { class: "facts-line" },
        h("span", {}, choice || plain(image.platform)),
        h("span", {}, humanSize(image.size)),
        h("span", {}, counted(image.layers.length, "layer")),
        image.created && h("span", { title: moment(image.created) }, age(image.created)),
        h(
          "span",
          { class: "digest" },
          h("code", { title: image.digest }, short(image.digest)),
          copyButton(image.digest, "digest"),
        ),
        image.signed && h("span", {}, h("span", { class: "badge" }, "signed")),
        image.sbom && h("span", {}, h("span", { class: "badge" }, "SBOM")),
      ),
    ),
    about.pulls && image.name && pullLine(image.tag ? `${image.name}:${image.tag}` : `${image.name}@${image.digest}`),
  );
}

export function imagePage(box, state, { about, signal }) {
  let views = null;
  fillWith(box, signal, "image", { image: state.image, platform: state.platform }, (image) => {
    const stack = drawStack(image, {
      signal,
      pick: (layer) => go({ ...current(), layer: layer ? String(layer) : undefined }),
    });
    const tabs = h("nav", { class: "tabs", "aria-label": "Views of the image" });
    const content = h("section", { class: "content", "aria-label": "View" });
    let key = null;
    let shown = null;
    let stop = null;
    views = (now, before) => {
      const layer = Number(now.layer);
      const chosen = image.layers.some((one) => one.number === layer) ? layer : null;
      stack.show(chosen);
      const view = viewOf(now);
      put(
        tabs,
        Object.entries(VIEWS)
          .filter(([name]) => name !== "search" || view === "search")
          .map(([name, [title]]) => {
            const { image: same, platform, layer: kept, other } = now;
            const next = {
              image: same,
              platform,
              view: name === "files" ? undefined : name,
              layer: kept,
              other: name === "compare" ? other : undefined,
            };
            if (name === view) return h("a", { "aria-current": "page", ...to(now) }, title);
            return h("a", to(name === "search" ? now : next), title);
          }),
      );
      requestAnimationFrame(() => {
        const here = tabs.querySelector("[aria-current]");
        tabs.scrollLeft = here.offsetLeft + here.offsetWidth - tabs.offsetLeft - tabs.clientWidth;
      });
      if (view !== key) {
        stop?.abort();
        stop = new AbortController();
        signal.addEventListener("abort", () => stop.abort());
        key = view;
        const inside = h("div", { class: `view ${view}` });
        put(content, inside);
        shown = VIEWS[view][1](inside, { ...now, layer: chosen }, { image, about, signal: stop.signal });
      } else shown.update?.({ ...now, layer: chosen }, before);
    };
    const page = [
      heading(image, about),
      h("div", { class: "columns" }, stack.element, h("div", { class: "beside" }, tabs, content)),
    ];
    queueMicrotask(() => views(current(), {}));
    return page;
  });
  return {
    title: (now) => (now.path && viewOf(now) === "files" ? `${now.path} · ${now.image}` : now.image),
    update: (now, before) => views?.(now, before),
  };
}
