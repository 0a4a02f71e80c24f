// Bytes that nobody sees, or that are there twice: what a better build would save.

import { ask, isAbort } from "./api.js";
import { h, put } from "./dom.js";
import { hiding } from "./hidden.js";
import { chip } from "./layers.js";
import { counted, humanSize, number, plain, visible } from "./text.js";
import { place, to } from "./url.js";
import { failed, fillWith } from "./waiting.js";

const PAGE = 100;

/** A table of which more can be loaded. */
function pages({ title, lead, columns, row, endpoint, parameters, items, signal, first, total }) {
  const body = h("tbody", {}, first.map(row));
  let known = first.length;
  const rest = h("div", { class: "rest" });
  const draw = () =>
    put(
      rest,
      known < total && h("button", { type: "button", onclick: more }, `Show more (${number(total - known)})`),
    );
  async function more() {
    try {
      const answer = await ask(endpoint, { ...parameters, offset: known, limit: PAGE }, { signal });
      const found = items(answer);
      known = found.length ? known + found.length : total;
      body.append(...found.map(row));
      draw();
    } catch (error) {
      if (!isAbort(error)) put(rest, failed(error, more));
    }
  }
  draw();
  return h(
    "section",
    { class: "part" },
    h("h3", {}, title),
    h("p", { class: "dim" }, lead),
    total
      ? h(
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
                columns.map((one) =>
                  h(
                    "th",
                    { scope: "col", class: one === "Path" || one === "What" || one === "Paths" ? "" : "right" },
                    one,
                  ),
                ),
              ),
            ),
            body,
          ),
        )
      : h("p", {}, "None."),
    rest,
  );
}

export function wasteView(box, state, { image, signal }) {
  const base = { image: image.image, platform: image.platform };
  const link = (one, text) =>
    h(
      "a",
      to({
        ...base,
        ...(one.node ? { path: one.path, path_b64: one.path_b64, node: String(one.node), hidden: "1" } : place(one)),
      }),
      visible(text ?? one.path),
    );
  const layers = (list) =>
    h(
      "span",
      { class: "chips" },
      list.slice(0, 6).map((one) => chip(one)),
      list.length > 6 && ` +${list.length - 6}`,
    );
  const summary = h("div");
  const hidden = h("div");
  put(box, summary, hidden);

  fillWith(summary, signal, "waste", base, (answer) => {
    const totals = answer.totals ?? {};
    const total = (kind) => totals[kind]?.count ?? answer[kind]?.length ?? 0;
    const saved = (kind) =>
      !totals[kind]?.size ? "" : ` ${humanSize(totals[kind].size)} in ${counted(totals[kind].count, "case")}.`;
    const part = (kind, options) =>
      pages({
        ...options,
        lead: options.lead + saved(kind),
        endpoint: "waste",
        parameters: { ...base, kind },
        items: (one) => one.items,
        signal,
        first: answer[kind] ?? [],
        total: total(kind),
      });
    const share = Math.max(0, Math.min(1, answer.efficiency ?? 1));
    return [
      h(
        "div",
        { class: "counts" },
        h(
          "div",
          { class: "count" },
          h("span", { class: "figure" }, `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`),
          h("span", {}, "of the bytes are visible"),
          h("meter", {
            min: 0,
            max: 1,
            low: 0.8,
            high: 0.95,
            optimum: 1,
            value: share,
            "aria-label": "Visible share",
          }),
        ),
        h(
          "div",
          { class: "count" },
          h("span", { class: "figure" }, humanSize(answer.hidden?.size ?? 0)),
          h("span", {}, "hidden by upper layers"),
        ),
        h(
          "div",
          { class: "count" },
          h("span", { class: "figure" }, humanSize(answer.content ?? 0)),
          h("span", {}, "content of all layers"),
        ),
      ),
      part("rewrites", {
        title: "Written again",
        lead: "Files that a layer has once more though their content stays the same.",
        columns: ["Path", "Size", "Layer", "Below", "Changed"],
        row: (one) =>
          h(
            "tr",
            {},
            h("td", {}, link(one)),
            h("td", { class: "right" }, humanSize(one.size)),
            h("td", { class: "right" }, chip(one.layer)),
            h("td", { class: "right" }, chip(one.below)),
            h("td", { class: "right dim" }, plain((one.changed ?? []).join(", "))),
          ),
      }),
      part("copies", {
        title: "Copies",
        lead: "Files with the same content under several paths.",
        columns: ["Paths", "Size", "Wasted"],
        row: (one) => {
          const count = one.count ?? one.paths.length;
          return h(
            "tr",
            {},
            h(
              "td",
              {},
              link(one.paths[0]),
              one.paths.length > 1 &&
                h(
                  "details",
                  { class: "more" },
                  h("summary", {}, `and ${number(count - 1)} more`),
                  h(
                    "ul",
                    { class: "plain" },
                    one.paths.slice(1).map((each) => h("li", {}, link(each))),
                    count > one.paths.length &&
                      h("li", { class: "dim" }, `${number(count - one.paths.length)} are not listed`),
                  ),
                ),
            ),
            h("td", { class: "right" }, humanSize(one.size)),
            h("td", { class: "right strong" }, humanSize(one.wasted)),
          );
        },
      }),
      part("caches", {
        title: "Caches",
        lead: "Directories of package managers and compilers that an image does not need.",
        columns: ["What", "Size", "Files", "Layers"],
        row: (one) =>
          h(
            "tr",
            {},
            h("td", {}, plain(one.name)),
            h("td", { class: "right" }, humanSize(one.size)),
            h("td", { class: "right" }, number(one.files ?? 0)),
            h("td", { class: "right" }, layers(one.layers ?? [])),
          ),
      }),
    ];
  });

  fillWith(hidden, signal, "ghosts", { ...base, limit: 20 }, (answer) =>
    pages({
      title: "Hidden entries",
      lead: `What lower layers have and no one sees: ${humanSize(answer.hidden.size)} in ${counted(answer.hidden.paths, "path")}.`,
      columns: ["Path", "Size", "Paths", "From", "Hidden by"],
      row: (one) =>
        h(
          "tr",
          {},
          h("td", { class: "gone" }, link(one)),
          h("td", { class: "right" }, humanSize(one.size)),
          h("td", { class: "right dim" }, number(one.paths)),
          h("td", { class: "right" }, layers(one.layers)),
          h("td", { class: "right" }, chip(one.hidden_by, hiding(one))),
        ),
      endpoint: "ghosts",
      parameters: base,
      items: (one) => one.ghosts,
      signal,
      first: answer.ghosts,
      total: answer.total,
    }),
  );
  return {};
}
