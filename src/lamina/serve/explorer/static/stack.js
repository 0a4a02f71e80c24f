// The image as the stack that it is: one slab for each layer, and its list of layers beside it.

import { ask, isAbort } from "./api.js";
import { copyButton } from "./copy.js";
import { append, h, icon, put, s } from "./dom.js";
import { chip, layerClass } from "./layers.js";
import { faces, thicknesses } from "./slabs.js";
import { counted, humanSize, number, plain, short, step } from "./text.js";
import { to } from "./url.js";

const WIDTH = 74;
const DEPTH = 27;
const GAP = 5;
const THINNEST = 5;
const LIFT = 16;
const MOST_LEADERS = 30;

/**
 * @param {object} image the answer of `image`
 * @param {{pick: (layer: number|null) => void, signal: AbortSignal}} options `pick`: a layer was chosen
 */
export function drawStack(image, { pick, signal }) {
  const layers = image.layers;
  const numbered = new Map(layers.map((one) => [one.number, one]));
  const steps = new Map(image.history.filter((one) => one.layer).map((one) => [one.layer, one]));
  let picked = null;
  let measure = "size";
  let details = new Map();
  let shared = null;
  const rows = new Map();
  const slabs = new Map();

  const drawing = s("svg", { class: "slabs", "aria-hidden": "true", focusable: "false" });
  const list = h("ol", { class: "layers", reversed: true, "aria-label": "Layers, the topmost first" });
  const card = h("div", { class: "card floating", role: "tooltip", id: "layer-card", hidden: true });
  const chosen = h("div", { class: "full", id: "chosen-layer", hidden: true });
  const total = h("p", { class: "dim total" });
  const measures = h("div", { class: "switch", role: "group", "aria-label": "Sizes of the slabs" });
  // on a narrow screen the stack is folded to a strip, so that the files are in reach
  const fold = h("button", { type: "button", class: "fold", "aria-controls": "stack-inside" });
  const strip = h("div", { class: "strip", "aria-hidden": "true" });
  const inside = h("div", { class: "inside", id: "stack-inside" }, h("div", { class: "drawn" }, drawing, list));
  const element = h(
    "section",
    { class: "stack", "aria-label": "Stack" },
    h("div", { class: "bar" }, h("h2", {}, "Stack"), fold, measures),
    strip,
    inside,
    card,
  );
  append(inside, [chosen, total]);

  function setFolded(isFolded) {
    element.classList.toggle("folded", isFolded);
    fold.setAttribute("aria-expanded", String(!isFolded));
    put(fold, icon("right"), isFolded ? "Show the layers" : "Hide the layers");
  }
  fold.addEventListener("click", () => setFolded(!element.classList.contains("folded")));

  const size = (layer) => (measure === "size" ? layer.size : (details.get(layer.number)?.content_size ?? layer.size));
  const words = (layer) => step(layer.step ?? steps.get(layer.number)?.created_by) || "no step recorded";

  function drawSlabs() {
    drawing.toggleAttribute("hidden", !layers.length);
    if (!layers.length) return;
    const height = Math.min(300, Math.max(90, layers.length * 34));
    const thick = thicknesses(layers.map(size), height, THINNEST);
    slabs.clear();
    put(drawing);
    const whole = 2 * DEPTH + thick.reduce((sum, one) => sum + one + GAP, 0);
    let bottom = whole;
    const x = WIDTH + 4;
    for (const [at, layer] of layers.entries()) {
      const y = bottom - thick[at] - 2 * DEPTH;
      bottom -= thick[at] + GAP;
      const face = faces({ x, y, width: WIDTH, depth: DEPTH, thick: thick[at] });
      const slab = s(
        "g",
        { class: `slab ${layerClass(layer.number)}` },
        s("polygon", { class: "left", points: face.left }),
        s("polygon", { class: "right", points: face.right }),
        s("polygon", { class: "upper", points: face.top }),
      );
      slab.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && look(layer.number));
      slab.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && look(null));
      slab.addEventListener("click", () => choose(layer.number));
      slabs.set(layer.number, { slab, side: { x: x + WIDTH, y: y + DEPTH + thick[at] / 2 } });
      drawing.append(slab);
    }
    drawing.setAttribute("viewBox", `0 ${-LIFT - 4} ${2 * WIDTH + 34} ${whole + LIFT + 8}`);
    drawing.setAttribute("width", 2 * WIDTH + 34);
    drawing.setAttribute("height", whole + LIFT + 8);
    drawLeaders();
  }

  /** Lines from the slabs to their rows. */
  function drawLeaders() {
    for (const old of drawing.querySelectorAll(".leader")) old.remove();
    if (layers.length > MOST_LEADERS || !list.isConnected) return;
    const origin = drawing.getBoundingClientRect();
    if (!origin.height) return;
    const scale = drawing.viewBox.baseVal.height / origin.height;
    for (const layer of layers) {
      const place = rows.get(layer.number).querySelector(".chip").getBoundingClientRect();
      const { side } = slabs.get(layer.number);
      const y = (place.top + place.height / 2 - origin.top) * scale - LIFT - 4;
      const end = 2 * WIDTH + 34;
      const middle = side.x + 10;
      drawing.prepend(
        s("path", {
          class: `leader ${layerClass(layer.number)}`,
          d: `M${side.x} ${side.y}H${middle}L${end - 8} ${y}H${end}`,
        }),
      );
    }
  }

  function summary(layer) {
    const detail = details.get(layer.number);
    const others = shared?.layers.find((one) => one.number === layer.number);
    return [
      h(
        "p",
        { class: "head" },
        chip(layer.number),
        h("span", { class: "strong" }, `Layer ${layer.number}`),
        h("span", { class: "push" }, humanSize(layer.size)),
      ),
      h("p", { class: "code step" }, plain(words(layer))),
      detail &&
        h(
          "p",
          { class: "dim" },
          [
            `${humanSize(detail.content_size)} unpacked`,
            counted(detail.entries, "entry", "entries"),
            detail.replaces && `replaces ${number(detail.replaces)}`,
            detail.hides && `hides ${number(detail.hides)}`,
          ]
            .filter(Boolean)
            .join(" · "),
        ),
      others &&
        h(
          "p",
          { class: "dim" },
          others.count ? `Shared with ${counted(others.count, "other image")}` : "In no other image here",
        ),
    ];
  }

  function full(layer) {
    const detail = details.get(layer.number);
    const others = shared?.layers.find((one) => one.number === layer.number);
    const fact = (name, ...value) => [h("dt", {}, name), h("dd", {}, value)];
    return [
      h(
        "p",
        { class: "head" },
        chip(layer.number),
        h("h3", {}, `Layer ${layer.number}`),
        h(
          "button",
          {
            type: "button",
            class: "quiet push",
            "aria-label": "Show all layers",
            title: "Show all layers",
            onclick: () => choose(layer.number),
          },
          icon("close"),
        ),
      ),
      h("p", { class: "code step" }, plain(words(layer))),
      h(
        "dl",
        { class: "facts" },
        fact("Compressed", humanSize(layer.size)),
        detail && [
          fact("Unpacked", humanSize(detail.content_size)),
          fact(
            "Entries",
            number(detail.entries),
            h(
              "span",
              { class: "dim" },
              ` · adds ${number(detail.adds)}, replaces ${number(detail.replaces)}, hides ${number(detail.hides)}`,
            ),
          ),
        ],
        fact(
          "Digest",
          h("code", { title: layer.digest }, short(layer.digest)),
          copyButton(layer.digest, "digest of the layer"),
        ),
        fact(
          "Diff ID",
          h("code", { title: layer.diff_id }, short(layer.diff_id)),
          copyButton(layer.diff_id, "diff ID of the layer"),
        ),
        others &&
          fact("Shared", others.count ? `with ${counted(others.count, "other image")}` : "with no other image here"),
      ),
      others?.images.length > 0 &&
        h(
          "ul",
          { class: "plain others" },
          others.images.slice(0, 8).map((name) => h("li", {}, h("a", to({ image: name }), plain(name)))),
          others.count > Math.min(8, others.images.length) &&
            h("li", { class: "dim" }, `and ${number(others.count - Math.min(8, others.images.length))} more`),
        ),
      detail?.warnings?.length > 0 &&
        h(
          "ul",
          { class: "plain warn" },
          detail.warnings.slice(0, 5).map((one) => h("li", {}, plain(one))),
        ),
    ];
  }

  function drawRows() {
    rows.clear();
    put(list);
    for (const layer of [...layers].reverse()) {
      const isPicked = layer.number === picked;
      const button = h(
        "button",
        {
          type: "button",
          class: "pick",
          "aria-pressed": String(isPicked),
          "aria-controls": "chosen-layer",
          "aria-describedby": "layer-card",
          onclick: () => choose(layer.number),
        },
        chip(layer.number),
        h("span", { class: "words code" }, plain(words(layer)).slice(0, 200)),
        h("span", { class: "push size" }, humanSize(size(layer))),
      );
      button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && look(layer.number));
      button.addEventListener("pointerleave", () => look(null));
      button.addEventListener("focus", () => button.matches(":focus-visible") && look(layer.number));
      button.addEventListener("blur", () => look(null));
      const row = h("li", { class: isPicked ? "picked" : "" }, button);
      rows.set(layer.number, row);
      list.append(row);
    }
    put(
      strip,
      layers.map((layer) =>
        h("span", {
          class: `${layerClass(layer.number)}${layer.number === picked ? " picked" : ""}`,
          vars: { "--share": size(layer) / Math.max(1, ...layers.map(size)) },
        }),
      ),
    );
    chosen.hidden = picked === null;
    put(chosen, picked !== null && full(numbered.get(picked)));
    element.classList.toggle("picking", picked !== null);
    for (const [layer, { slab }] of slabs) slab.classList.toggle("picked", layer === picked);
    drawLeaders();
  }

  /** Lift what lies on a layer, so that it can be seen; null: close the stack again. */
  function look(layer) {
    for (const [each, { slab }] of slabs) {
      slab.classList.toggle("lifted", layer !== null && each > layer);
      slab.classList.toggle("seen", each === layer);
    }
    for (const [each, row] of rows) row.classList.toggle("seen", each === layer);
    element.classList.toggle("looking", layer !== null);
    const shows = layer !== null && layer !== picked;
    card.hidden = !shows;
    if (!shows) return;
    put(card, summary(numbered.get(layer)));
    const row = rows.get(layer).getBoundingClientRect();
    const rail = element.getBoundingClientRect();
    const beside = innerWidth - rail.right > card.offsetWidth + 24;
    card.style.left = `${beside ? rail.right + 8 : rail.left + 8}px`;
    card.style.top = `${Math.max(8, Math.min(beside ? row.top - 6 : row.bottom + 2, innerHeight - card.offsetHeight - 8))}px`;
  }

  function choose(layer) {
    pick(layer === picked ? null : layer);
  }

  function drawTotal(answer) {
    const { total: sums } = answer;
    if (!layers.length) {
      put(total, "The image has no layers.");
      return;
    }
    put(
      total,
      `${humanSize(sums.size)} compressed, ${humanSize(sums.visible)} in ${counted(sums.paths, "path")}. `,
      sums.hidden ? `${humanSize(sums.hidden)} are hidden by layers above.` : "Nothing is hidden.",
    );
  }

  function drawMeasures() {
    const one = (key, text) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": String(measure === key),
          onclick: () => {
            measure = key;
            drawMeasures();
            drawSlabs();
            drawRows();
          },
        },
        text,
      );
    put(measures, one("size", "compressed"), one("content_size", "unpacked"));
    measures.hidden = !details.size;
  }

  async function more(endpoint, use) {
    try {
      use(
        await ask(
          endpoint,
          { image: image.image, platform: image.platform },
          { signal, working: (work) => put(total, plain(`${work.what}…`)) },
        ),
      );
    } catch (error) {
      if (!isAbort(error) && !signal.aborted) put(total, plain(error.message));
    }
  }

  put(total, `${humanSize(image.size)} in ${counted(layers.length, "layer")}.`);
  setFolded(true);
  drawMeasures();
  drawRows();
  drawSlabs();
  const sized = new ResizeObserver(() => drawLeaders());
  sized.observe(list);
  signal.addEventListener("abort", () => sized.disconnect());
  more("stack", (answer) => {
    details = new Map(answer.layers.map((one) => [one.number, one]));
    drawTotal(answer);
    drawMeasures();
    drawRows();
  });
  more("sharing", (answer) => {
    shared = answer;
    drawRows();
  });

  return {
    element,
    /** Show that a layer is chosen, or none. */
    show(layer) {
      const focused = rows.get(picked ?? layer)?.contains(document.activeElement);
      picked = layer;
      drawRows();
      look(null);
      if (focused && layer) rows.get(layer)?.querySelector(".pick").focus();
    },
  };
}
