// Files by name, in one image or in all.

import { ask, isAbort } from "./api.js";
import { append, h, put } from "./dom.js";
import { chip } from "./layers.js";
import { counted, humanSize, number, plain, visible } from "./text.js";
import { go, place, state as current, to } from "./url.js";
import { empty, failed } from "./waiting.js";

const PAGE = 100;
const KINDS = [
  ["", "everything"],
  ["f", "files"],
  ["d", "directories"],
  ["l", "symbolic links"],
];

/** The directory of a path is quiet, its name is not. */
function named(one) {
  const cut = one.path.lastIndexOf("/") + 1;
  return [h("span", { class: "dim" }, visible(one.path.slice(0, cut))), visible(one.path.slice(cut))];
}

function results(box, { image, signal }) {
  let stop = null;

  function row(one) {
    const first = one.images[0];
    const target = image
      ? { image: image.image, platform: image.platform }
      : { image: first.image, platform: first.platform };
    const isHidden =
      (image ? first : (one.images.find((each) => each.state === "visible") ?? first))?.state === "hidden";
    return h(
      "tr",
      {},
      h(
        "td",
        { class: isHidden ? "gone" : "" },
        h("a", to({ ...target, ...place(one), hidden: isHidden ? "1" : undefined }), named(one)),
      ),
      h("td", { class: "right" }, one.kind === "file" ? humanSize(one.size) : h("span", { class: "dim" }, one.kind)),
      image
        ? h("td", { class: "right" }, chip(first?.layer))
        : h(
            "td",
            {},
            one.images.slice(0, 3).map((each) =>
              h(
                "a",
                {
                  class: "pill",
                  title: plain(each.image),
                  ...to({
                    image: each.image,
                    platform: each.platform,
                    ...place(one),
                    hidden: each.state === "hidden" ? "1" : undefined,
                  }),
                },
                chip(each.layer),
                h("span", {}, plain(each.image.split("/").at(-1))),
              ),
            ),
            one.count > 3 && h("span", { class: "dim" }, ` and ${number(one.count - 3)} more`),
          ),
    );
  }

  async function show(state) {
    stop?.abort();
    stop = new AbortController();
    const mine = stop.signal;
    signal.addEventListener("abort", () => stop.abort());
    if (!state.q) {
      put(
        box,
        empty(
          "Nothing is searched yet.",
          "Type a part of a name, or a pattern such as *.pem or /etc/*.conf, and press Enter.",
        ),
      );
      return;
    }
    const words = h("p", {}, "Searching…");
    put(box, h("div", { class: "waiting" }, words, h("progress", { "aria-label": "Progress" })));
    const parameters = {
      q: state.q,
      image: image?.image,
      platform: image?.platform,
      kind: state.kind,
      ghosts: state.hidden ? 1 : undefined,
      limit: PAGE,
    };
    try {
      const answer = await ask("search", parameters, {
        signal: mine,
        working: (work) => (words.textContent = plain(`${work.what}…`)),
      });
      const body = h("tbody", {}, answer.results.map(row));
      let known = answer.results.length;
      const rest = h("div", { class: "rest" });
      const more = async () => {
        try {
          const next = await ask("search", { ...parameters, offset: known }, { signal: mine });
          known = next.results.length ? known + next.results.length : answer.total;
          body.append(...next.results.map(row));
          draw();
        } catch (error) {
          if (!isAbort(error)) put(rest, failed(error, more));
        }
      };
      const draw = () =>
        put(
          rest,
          known < answer.total &&
            h("button", { type: "button", onclick: more }, `Show more (${number(answer.total - known)})`),
        );
      draw();
      const where = image ? "" : ` in ${counted(answer.searched.images, "image")}`;
      put(
        box,
        h(
          "p",
          { class: "dim", role: "status" },
          `${answer.cut ? "More than " : ""}${counted(answer.total, "match", "matches")}${where}.`,
          answer.cut && " Write more of the name to see fewer.",
        ),
        answer.results.length
          ? h(
              "div",
              { class: "wide" },
              h(
                "table",
                { class: "found" },
                h(
                  "thead",
                  {},
                  h(
                    "tr",
                    {},
                    h("th", { scope: "col" }, "Path"),
                    h("th", { scope: "col", class: "right" }, "Size"),
                    h("th", { scope: "col", class: image ? "right" : "" }, image ? "Layer" : "Images"),
                  ),
                ),
                body,
              ),
            )
          : empty(
              `Nothing is named like “${plain(state.q)}”.`,
              "Without *, a text finds names that contain it. With a slash, the whole path is matched.",
            ),
        rest,
        answer.skipped?.length > 0 &&
          h(
            "details",
            { class: "skipped" },
            h("summary", {}, `${counted(answer.skipped.length, "image")} not searched`),
            h(
              "ul",
              { class: "plain" },
              answer.skipped.map((one) =>
                h(
                  "li",
                  {},
                  h("a", to({ image: one.image }), visible(one.image)),
                  h("span", { class: "dim" }, ` ${plain(one.why)}`),
                ),
              ),
            ),
          ),
      );
    } catch (error) {
      if (isAbort(error) || mine.aborted) return;
      put(
        box,
        failed(error, () => show(current())),
      );
    }
  }
  return show;
}

function controls(state, image) {
  const kind = h(
    "select",
    { "aria-label": "Kind" },
    KINDS.map(([value, text]) => h("option", { value, selected: value === (state.kind ?? "") }, text)),
  );
  kind.addEventListener("change", () => go({ ...current(), kind: kind.value || undefined }));
  const hidden = h("input", { type: "checkbox", id: "search-hidden", checked: Boolean(state.hidden) });
  hidden.addEventListener("change", () => go({ ...current(), hidden: hidden.checked ? "1" : undefined }));
  return h(
    "div",
    { class: "bar" },
    h(
      image ? "h2" : "h1",
      { class: "search-title" },
      "Search ",
      h("span", { class: "dim" }, image ? "in this image" : "in all images"),
    ),
    h("span", { class: "push" }),
    image && h("a", to({ view: "search", q: state.q, kind: state.kind }), "search all images"),
    h("label", { class: "check", for: "search-hidden" }, hidden, " hidden entries"),
    kind,
  );
}

/** The view of one image's search. */
export function searchView(box, state, { image, signal }) {
  const bar = h("div", {}, controls(state, image));
  const found = h("div");
  append(box, [bar, found]);
  const show = results(found, { image, signal });
  show(state);
  return {
    update(now, before) {
      if (now.q === before.q && now.kind === before.kind && now.hidden === before.hidden) return;
      show(now);
    },
  };
}

/** The page of a search over all images. */
export function searchPage(box, state, { signal }) {
  const view = searchView(box, state, { image: null, signal });
  return { ...view, title: (now) => `${now.q ?? ""} · search` };
}
