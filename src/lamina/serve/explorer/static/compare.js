// Two images, file by file: what was added, removed and changed, with sizes.

import { ask } from "./api.js";
import { h, icon, put } from "./dom.js";
import { chip } from "./layers.js";
import { asked, parts } from "./paths.js";
import { counted, humanSize, moment, number, plain, step, visible } from "./text.js";
import { Tree } from "./tree.js";
import { go, place, state as current, to } from "./url.js";
import { empty, fillWith } from "./waiting.js";

const MOST_OPENED = 40;
const SIGNS = { added: "+", removed: "−", changed: "±", renamed: "→" };

const signed = (size) => (size > 0 ? `+${humanSize(size)}` : size < 0 ? `−${humanSize(-size)}` : "");

/** How an entry differs; nothing is said to be changed if only its time differs. */
const howOf = ({ change, fields }) => (change === "changed" && String(fields) === "time" ? "touched" : change);

const TITLES = { null: "only what is below differs", touched: "only the time differs" };

const sign = (how) =>
  h("span", { class: `sign ${how ?? "same"}`, title: TITLES[how] ?? how, "aria-hidden": "true" }, SIGNS[how] ?? "");

function below(all) {
  const counts = { ...all, changed: all.changed - all.touched };
  return h(
    "span",
    { class: "below" },
    Object.keys(SIGNS).map(
      (how) =>
        counts[how] > 0 &&
        h("span", { class: how, title: `${number(counts[how])} ${how} below` }, `${SIGNS[how]}${number(counts[how])}`),
    ),
  );
}

function drawRow(entry) {
  const sizes = { before: entry.before?.size ?? 0, after: entry.after?.size ?? 0 };
  const isDirectory = entry.kind === "directory";
  const delta = isDirectory ? (entry.below?.bytes_delta ?? 0) : sizes.after - sizes.before;
  const how = howOf(entry);
  return [
    sign(how),
    how && h("span", { class: "out-of-sight" }, `${TITLES[how] ?? how}: `),
    icon(isDirectory ? "directory" : entry.kind === "symlink" ? "symlink" : "file"),
    h(
      "span",
      { class: `what ${entry.change === "removed" ? "gone" : ""}` },
      visible(entry.name),
      entry.from && h("span", { class: "dim" }, " from ", visible(entry.from)),
    ),
    entry.fields?.length > 0 && h("span", { class: "why dim" }, plain(entry.fields.join(", "))),
    isDirectory && entry.below && below(entry.below),
    h("span", { class: "size" }, signed(delta)),
  ];
}

/** Fields where the other image is named. */
function chooser(image, other) {
  const names = h("datalist", { id: "images-to-compare" });
  const field = h("input", {
    type: "text",
    class: "other",
    list: "images-to-compare",
    value: other ?? "",
    "aria-label": "Compare with",
    placeholder: "Image to compare with",
    autocomplete: "off",
    spellcheck: "false",
  });
  const use = () => field.value.trim() && go({ ...current(), other: field.value.trim(), ...place(null) });
  field.addEventListener("keydown", (event) => event.key === "Enter" && use());
  const repository = image.repository;
  const more = [];
  if (repository)
    more.push(
      ask("tags", { repository, limit: 200 }).then((answer) =>
        answer.tags.filter((tag) => tag.kind === "image" && tag.image !== image.image).map((tag) => tag.image),
      ),
    );
  more.push(
    ask("sharing", { image: image.image, platform: image.platform }).then((answer) => [
      ...new Set(answer.layers.flatMap((one) => one.images)),
    ]),
  );
  Promise.allSettled(more).then((answers) => {
    const all = new Set(answers.flatMap((one) => (one.status === "fulfilled" ? one.value : [])));
    put(
      names,
      [...all].slice(0, 300).map((name) => h("option", { value: name })),
    );
    if (!other)
      put(
        suggested,
        all.size > 0 && [
          h("p", { class: "dim" }, "Images of this repository, or with layers of this one:"),
          h(
            "ul",
            { class: "plain lines" },
            [...all]
              .slice(0, 12)
              .map((name) =>
                h(
                  "li",
                  {},
                  h(
                    "a",
                    { class: "line", ...to({ ...current(), other: name }) },
                    visible(name),
                    h("span", { class: "push" }, icon("right")),
                  ),
                ),
              ),
          ),
        ],
      );
  });
  const suggested = h("div", { class: "suggested" });
  return [
    h(
      "div",
      { class: "bar compare-with" },
      h("span", {}, "From this image to"),
      field,
      names,
      h("button", { type: "button", onclick: use }, "Compare"),
      other &&
        h(
          "button",
          {
            type: "button",
            class: "quiet",
            "aria-label": "Swap the two images",
            title: "Swap the two images",
            onclick: () => go({ image: other, view: "compare", other: image.image }),
          },
          icon("swap"),
        ),
    ),
    suggested,
  ];
}

function textDiff(lines) {
  return h(
    "pre",
    { class: "text diff", tabindex: 0, "aria-label": "Differences of the text" },
    lines.map((line) => {
      const how =
        line.startsWith("+++") || line.startsWith("---")
          ? "dim"
          : { "+": "added", "-": "removed", "@": "dim" }[line[0]];
      return h(
        "span",
        { class: how ?? "" },
        line.split("\t").flatMap((piece, at) => [at > 0 && "\t", visible(piece)]),
        "\n",
      );
    }),
  );
}

const value = (one) =>
  one === null || one === undefined
    ? h("span", { class: "dim" }, "–")
    : plain(typeof one === "string" ? one : JSON.stringify(one));

function documents(answer) {
  return [
    answer.config?.length > 0 && [
      h("h3", {}, "Config"),
      h(
        "div",
        { class: "wide" },
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ["Field", "Before", "After"].map((title) => h("th", { scope: "col" }, title)),
            ),
          ),
          h(
            "tbody",
            {},
            answer.config.map((one) =>
              h(
                "tr",
                {},
                h("td", {}, plain(one.field)),
                h("td", { class: "code" }, value(one.before)),
                h("td", { class: "code" }, value(one.after)),
              ),
            ),
          ),
        ),
      ),
    ],
    answer.history?.length > 0 && [
      h("h3", {}, "Steps"),
      h(
        "ul",
        { class: "plain steps" },
        answer.history.map((one) =>
          h(
            "li",
            {},
            sign(one.change),
            h(
              "span",
              { class: "code" },
              plain(step(one.created_by ?? one.after?.created_by ?? "")) || "no step recorded",
            ),
          ),
        ),
      ),
    ],
  ];
}

export function compareView(box, state, { image, signal }) {
  let stop = null;
  let tree = null;
  let open = null;
  const key = (now) => JSON.stringify([now.other, now.times]);

  function begin(now) {
    stop?.abort();
    tree?.close();
    stop = new AbortController();
    const mine = stop.signal;
    signal.addEventListener("abort", () => stop.abort());
    open = key(now);
    put(box, chooser(image, now.other));
    if (!now.other) return;
    const both = { before: image.image, before_platform: image.platform, after: now.other };
    const listed = { ...both, skip_times: now.times ? undefined : 1 };
    const result = h("div");
    const side = h("aside", { class: "side", "aria-label": "The chosen difference" });
    box.append(result);
    let loaded = null;
    const drawSide = (entry) => {
      put(
        side,
        h(
          "div",
          { class: "panel-head" },
          h("strong", { class: "path" }, visible(entry.path)),
          h(
            "button",
            {
              type: "button",
              class: "quiet close push",
              "aria-label": "Close",
              title: "Close",
              onclick: () => go({ ...current(), ...place(null) }),
            },
            icon("close"),
          ),
        ),
      );
      side.classList.add("open");
      const fact = (name, one) =>
        one && [
          h("dt", {}, name),
          h(
            "dd",
            {},
            chip(one.layer),
            ` ${one.kind}, ${one.kind === "file" ? `${humanSize(one.size)}, ` : ""}${one.mode}, ${one.uid}:${one.gid}`,
            entry.fields?.includes("time") && h("span", { class: "dim" }, `, ${moment(one.mtime / 1e6)}`),
          ),
        ];
      const how = howOf(entry);
      side.append(
        h(
          "p",
          {},
          SIGNS[how] && [sign(how), " "],
          TITLES[how] ?? how,
          SIGNS[how] && entry.fields?.length > 0 && h("span", { class: "dim" }, `: ${plain(entry.fields.join(", "))}`),
        ),
        h("dl", { class: "facts" }, fact("Before", entry.before), fact("After", entry.after)),
        h(
          "p",
          { class: "links" },
          entry.before &&
            h("a", to({ image: image.image, platform: image.platform, ...place(entry.before) }), "Show before"),
          entry.after &&
            h(
              "a",
              to({ image: loaded.after.image, platform: loaded.after.platform, ...place(entry.after) }),
              "Show after",
            ),
        ),
      );
      if (entry.kind !== "file" || entry.change === null) return;
      const text = h("div");
      side.append(text);
      fillWith(text, mine, "diff/text", { ...both, ...asked(entry) }, (answer) =>
        answer.lines
          ? [textDiff(answer.lines), answer.cut && h("p", { class: "dim" }, "The rest is left out.")]
          : h("p", { class: "dim" }, "Not text, or too large to compare line by line."),
      );
    };
    const hint = () => {
      side.classList.remove("open");
      put(
        side,
        h(
          "div",
          { class: "hint" },
          icon("swap"),
          h("p", { class: "strong" }, "Choose a difference"),
          h("p", { class: "dim" }, "to see both sides, and the lines of a text that differ."),
        ),
      );
    };
    hint();
    show = (later) => {
      if (!later.path && !later.path_b64) hint();
      else if (tree?.chosen && asked(tree.chosen.entry).path === asked(later).path) drawSide(tree.chosen.entry);
      else
        tree
          ?.reveal(parts(later))
          .then((found) => found && !mine.aborted && drawSide(tree.chosen.entry))
          .catch(() => {});
    };
    fillWith(result, mine, "diff", { ...listed, limit: 1 }, async (answer) => {
      loaded = answer;
      tree?.close();
      tree = new Tree({
        label: "Differences",
        load: (entry, offset, limit) => ask("diff", { ...listed, ...asked(entry), offset, limit }, { signal: mine }),
        draw: drawRow,
        expandable: (entry) => entry.children > 0,
        choose: (entry) =>
          go({ ...current(), path: entry.path_b64 ? undefined : entry.path, path_b64: entry.path_b64 }),
        byName: true,
      });
      const { touched, touched_bytes: same, ...summary } = answer.summary;
      summary.changed -= touched;
      const total = (how) =>
        h("div", { class: `count ${how}` }, h("span", { class: "figure" }, number(summary[how])), h("span", {}, how));
      const times = h("input", { type: "checkbox", id: "show-times", checked: Boolean(now.times) });
      times.addEventListener("change", () =>
        go({ ...current(), times: times.checked ? "1" : undefined, ...place(null) }),
      );
      const made = tree;
      await made.start();
      await made.openSome(MOST_OPENED);
      queueMicrotask(() => {
        made.flatten();
        show(current());
      });
      return [
        h(
          "div",
          { class: "counts" },
          ["added", "removed", "changed", "renamed"]
            .filter((how) => how !== "renamed" || summary.renamed > 0)
            .map(total),
          h(
            "div",
            { class: "count" },
            h("span", { class: "figure" }, signed(summary.bytes_delta) || "±0B"),
            h(
              "span",
              {},
              `${humanSize(summary.bytes_before - same)} to ${humanSize(summary.bytes_after - same)} in files that differ`,
            ),
          ),
        ),
        touched > 0 &&
          h(
            "div",
            { class: "bar" },
            h(
              "label",
              { class: "check", for: "show-times" },
              times,
              ` also ${counted(touched, "path")} of which only the time differs`,
            ),
          ),
        answer.total
          ? h(
              "div",
              {
                class: "split",
                onkeydown: (event) => event.key === "Escape" && go({ ...current(), ...place(null) }),
              },
              h("div", { class: "holder" }, tree.element),
              side,
            )
          : empty(touched ? "The files are the same but for times." : "The files are the same."),
        documents(answer),
      ];
    });
  }

  let show = () => {};
  begin(state);
  signal.addEventListener("abort", () => tree?.close());
  return {
    update(now, before) {
      if (key(now) !== open) begin(now);
      else if (now.path !== before.path || now.path_b64 !== before.path_b64) show(now);
    },
  };
}
