// What is known of one path: its facts, its history through the layers, and what is in it.

import { address, ask, isAbort } from "./api.js";
import { copyButton } from "./copy.js";
import { append, h, icon, put } from "./dom.js";
import { hiding, isHidden } from "./hidden.js";
import { chip, layerClass } from "./layers.js";
import { asked, parts } from "./paths.js";
import { counted, humanSize, moment, number, plain, step, visible } from "./text.js";
import { place, state as current, to } from "./url.js";
import { failed, fillWith } from "./waiting.js";

const MOST_TEXT = 200_000;

const LETTERS = { directory: "d", symlink: "l", char: "c", block: "b", fifo: "p", file: "-" };

const ENDS = {
  replaced: "Replaced by",
  whiteout: "Removed by",
  opaque: "Removed by an opaque directory of",
  restated: "Its attributes are stated again by",
};

/** A mode as `ls -l` shows it. */
function permissions(entry) {
  const mode = parseInt(entry.mode, 8);
  if (!Number.isFinite(mode)) return entry.mode;
  const letters = [...Array(9).keys()].map((bit) => (mode & (1 << (8 - bit)) ? "rwx"[bit % 3] : "-"));
  const special = [
    [0o4000, 2, "s"],
    [0o2000, 5, "s"],
    [0o1000, 8, "t"],
  ];
  for (const [bit, at, letter] of special)
    if (mode & bit) letters[at] = letters[at] === "x" ? letter : letter.toUpperCase();
  return (LETTERS[entry.kind] ?? "?") + letters.join("");
}

function crumbs(state) {
  const ways = parts(state);
  return h(
    "nav",
    { class: "crumbs path", "aria-label": "Path" },
    h("a", to({ ...current(), path: "/", path_b64: undefined, node: undefined }), "/"),
    ways.map((one, at) => [
      at > 0 && "/",
      at < ways.length - 1
        ? h("a", to({ ...current(), ...place(one) }), visible(one.name))
        : h("strong", {}, visible(one.name)),
    ]),
  );
}

function facts(entry) {
  const fact = (name, ...value) => [h("dt", {}, name), h("dd", {}, value)];
  return h(
    "dl",
    { class: "facts" },
    fact(
      "Kind",
      entry.kind,
      entry.links > 1 && entry.kind === "file" ? `, ${counted(entry.links, "hard link")}` : "",
    ),
    entry.target !== undefined && fact("Target", visible(entry.target)),
    entry.rdev && fact("Device", entry.rdev.join(", ")),
    entry.kind === "directory"
      ? fact("Below", `${humanSize(entry.total)} in ${counted(entry.files, "file")}`)
      : entry.kind === "file" &&
          fact("Size", h("span", { title: `${number(entry.size)} bytes` }, humanSize(entry.size))),
    fact("Mode", h("code", {}, `${permissions(entry)} ${entry.mode}`)),
    fact("Owner", `${entry.uid}:${entry.gid}`),
    fact("Changed", moment(entry.mtime / 1e6)),
    entry.xattrs &&
      Object.entries(entry.xattrs).map(([name, value]) =>
        fact(visible(name), h("code", {}, plain(value).slice(0, 200))),
      ),
  );
}

function history(answer, image) {
  const words = new Map(image.layers.map((one) => [one.number, one.step]));
  const rows = answer.states.map((one, at) => {
    const isNow = at === 0 && !answer.hidden;
    const { entry, ended } = one;
    const size = entry?.kind === "file" ? humanSize(entry.size) : (entry?.kind ?? "not stated");
    return h(
      "li",
      { class: `moment ${layerClass(one.layer)}${isNow ? " now" : ""}` },
      chip(one.layer),
      h(
        "div",
        {},
        h(
          "p",
          { class: "strong" },
          isNow ? "Put here by " : "",
          `layer ${one.layer ?? "–"}`,
          h("span", { class: "dim" }, ` · ${size}`),
        ),
        h("p", { class: "code step" }, plain(step(one.step ?? words.get(one.layer) ?? "")) || "no step recorded"),
        one.changed?.length > 0 && h("p", { class: "dim" }, `Changes ${plain(one.changed.join(", "))}.`),
        ended &&
          h(
            "p",
            { class: `ended dim ${ended.how === "restated" ? "restated" : ""}` },
            `${ENDS[ended.how] ?? plain(ended.how)} layer ${ended.layer}`,
            ended.by && ended.by !== answer.path && [" by ", h("code", {}, plain(ended.by))],
          ),
      ),
    );
  });
  const useless = (answer.whiteouts ?? []).map((one) =>
    h(
      "li",
      { class: `moment ${layerClass(one.layer)}` },
      chip(one.layer),
      h("div", {}, h("p", {}, `A whiteout in layer ${one.layer} hides nothing.`)),
    ),
  );
  return h(
    "ol",
    { class: "plain moments", "aria-label": "Layers that have this path, the newest first" },
    rows,
    useless,
  );
}

/** A text in which every character shows, with numbers of lines. */
function textLines(preview) {
  const lines = preview.text.slice(0, MOST_TEXT).split("\n");
  if (lines.at(-1) === "") lines.pop();
  return h(
    "pre",
    { class: "text", tabindex: 0, "aria-label": "Content" },
    lines.map((line) =>
      h(
        "span",
        { class: "line-of-text" },
        line.split("\t").flatMap((piece, at) => [at > 0 && "\t", visible(piece.replace(/\r$/, "␍"))]),
        "\n",
      ),
    ),
  );
}

function hexLines(hex) {
  const rows = [];
  for (let at = 0; at < hex.length; at += 32) {
    const row = hex.slice(at, at + 32).match(/../g) ?? [];
    const text = row.map((one) => {
      const code = parseInt(one, 16);
      return code >= 0x20 && code < 0x7f ? String.fromCharCode(code) : "·";
    });
    rows.push(
      `${(at / 2).toString(16).padStart(6, "0")}  ${row.slice(0, 8).join(" ").padEnd(23)}  ${row.slice(8).join(" ").padEnd(23)}  ${text.join("")}\n`,
    );
  }
  return h("pre", { class: "text hex", tabindex: 0, "aria-label": "First bytes" }, rows.join(""));
}

function preview({ preview: one, entry }) {
  if (one.kind === "text") {
    const isCut = one.cut || one.text.length > MOST_TEXT;
    return [
      textLines(one),
      h(
        "p",
        { class: "dim" },
        `${plain(one.encoding)}${isCut ? `, the first ${humanSize(one.shown)} of ${humanSize(one.size)}. Download the file to see all of it.` : ""}`,
      ),
    ];
  }
  if (one.kind === "image") {
    const picture = h("img", {
      src: one.url,
      alt: `The picture in ${plain(entry.name)}`,
      class: "picture",
      loading: "lazy",
    });
    picture.addEventListener("error", () =>
      picture.replaceWith(h("p", { class: "dim" }, "The browser can't show this picture.")),
    );
    return [picture, h("p", { class: "dim" }, plain(one.media_type))];
  }
  if (one.kind === "binary")
    return [
      hexLines(one.hex),
      h("p", { class: "dim" }, `Binary: the first ${counted(one.shown, "byte")} of ${humanSize(one.size)}.`),
    ];
  if (one.kind === "empty") return h("p", { class: "dim" }, "The file is empty.");
  return h("p", { class: "dim" }, `No preview: ${plain(one.why ?? "")}`);
}

export function pathPanel(box, { image, signal, base, close: closed }) {
  let stop = null;

  function show(state) {
    stop?.abort();
    if (!state.path && !state.path_b64) {
      put(
        box,
        h(
          "div",
          { class: "hint" },
          icon("file"),
          h("p", { class: "strong" }, "Choose a path"),
          h("p", { class: "dim" }, "to see which layer put it there, what it shadows, and what is in it."),
        ),
      );
      box.classList.remove("open");
      return;
    }
    stop = new AbortController();
    const mine = stop.signal;
    signal.addEventListener("abort", () => stop.abort());
    const wanted = { path: state.path, path_b64: state.path_b64 };
    const file = { ...base, ...(state.node ? { node: state.node } : asked(wanted)) };
    const about = h("div");
    const blame = h("div");
    const close = h(
      "button",
      { type: "button", class: "quiet close", "aria-label": "Close", title: "Close", onclick: closed },
      icon("close"),
    );
    box.classList.add("open");
    put(
      box,
      h(
        "div",
        { class: "panel-head" },
        crumbs(state),
        copyButton(plain(parts(wanted).at(-1)?.path ?? "/"), "path"),
        close,
      ),
      about,
      h("h3", {}, "History"),
      blame,
    );
    content(about, file, mine);
    fillWith(blame, mine, "blame", { ...base, ...asked(wanted) }, (answer) => history(answer, image), (error) =>
      error.status === 404 ? h("p", { class: "dim" }, "No layer of the image has this path.") : null,
    );
  }

  async function content(box, parameters, mine) {
    put(box, h("p", { class: "dim" }, "Loading…"));
    try {
      const answer = await ask("file", parameters, { signal: mine });
      const { entry } = answer;
      put(
        box,
        isHidden(entry) &&
          h(
            "p",
            { class: "notice small" },
            `Hidden: ${hiding(entry)}. The bytes are still in the image.`,
          ),
        h("p", { class: "owner" }, chip(entry.layer), entry.layer ? ` layer ${entry.layer}` : " stated by no layer"),
        facts(entry),
      );
      if (entry.kind === "file" || answer.preview.kind !== "none") {
        append(box, [
          h(
            "div",
            { class: "bar" },
            h("h3", {}, "Content"),
            h(
              "a",
              { class: "button push", href: address("download", parameters), download: "" },
              icon("download"),
              " Download",
            ),
          ),
          preview(answer),
        ]);
      }
    } catch (error) {
      if (isAbort(error) || mine.aborted) return;
      if (error.status === 404)
        put(box, h("p", { class: "notice small" }, "The union does not have this path. Its history tells why."));
      else
        put(
          box,
          failed(error, () => content(box, parameters, mine)),
        );
    }
  }

  return { show };
}
