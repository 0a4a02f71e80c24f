// Files by name, in one image or in all.

import { ask, isAbort } from "./api.js";
import { append, h, put } from "./dom.js";
import { hiding, isHidden } from "./hidden.js";
import { chip } from "./layers.js";
import { counted, humanSize, number, plain, visible } from "./text.js";
import { go, place, state as current, to } from "./url.js";
import { empty, failed } from "./waiting.js";

const PAGE = 100;
const MOST_IMAGES = 3;
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

/** A name that fits a small place: a long one without its middle, because its end has the tag. */
function brief(name) {
  if (name.length <= 28) return name;
  const last = name.split("/").at(-1);
  return last.length <= 26 ? `…/${last}` : `${last.slice(0, 12)}…${last.slice(-13)}`;
}

function results(box, { image, signal }) {
  let stop = null;

  const isVisible = (one) => one.images.some((each) => !isHidden(each));

  /** The state that shows an entry where an image has it. */
  const shows = (one, each) => ({
    image: each.image,
    platform: each.platform,
    ...place(one),
    hidden: isHidden(each) ? "1" : undefined,
  });

  function pill(one, each) {
    const why = isHidden(each) && hiding(each);
    return h(
      "a",
      { class: "pill", title: `${plain(each.image)}, layer ${each.layer}${why ? `, ${why}` : ""}`, ...to(shows(one, each)) },
      chip(each.layer),
      h("span", { class: why ? "gone" : "" }, image ? `layer ${each.layer}` : plain(brief(each.image))),
      image && why && h("span", { class: "dim" }, why),
    );
  }

  function version(one) {
    const more = one.count - Math.min(MOST_IMAGES, one.images.length);
    return h(
      "p",
      { class: "version" },
      h("span", { class: "size" }, one.kind === "file" ? humanSize(one.size) : h("span", { class: "dim" }, one.kind)),
      h(
        "span",
        {},
        one.images.slice(0, MOST_IMAGES).map((each) => pill(one, each)),
        more > 0 && h("span", { class: "dim" }, `and ${number(more)} more`),
      ),
    );
  }

  /** Appends entries to a list: a path once, with the versions that several layers have of it, also over pages. */
  function lister(list) {
    let last = null;
    const pathOf = (one) => one.path_b64 ?? one.path;
    return (found) => {
      for (const one of found) {
        if (last === null || pathOf(last.entries[0]) !== pathOf(one)) {
          last = { entries: [], path: h("p", { class: "path" }), versions: h("div") };
          list.append(h("li", {}, last.path, last.versions));
        }
        last.entries.push(one);
        last.versions.append(version(one));
        const shown = last.entries.find(isVisible) ?? last.entries[0];
        const where = shown.images.find((each) => !isHidden(each)) ?? shown.images[0];
        put(last.path, h("a", to(shows(shown, where)), named(shown)));
        last.path.classList.toggle("gone", !isVisible(shown));
      }
    };
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
      hidden: state.hidden ? 1 : undefined,
      limit: PAGE,
    };
    try {
      const answer = await ask("search", parameters, {
        signal: mine,
        working: (work) => (words.textContent = plain(`${work.what}…`)),
      });
      const list = h("ol", { class: "plain found" });
      const add = lister(list);
      add(answer.results);
      let known = answer.results.length;
      const rest = h("div", { class: "rest" });
      const more = async () => {
        try {
          const next = await ask("search", { ...parameters, offset: known }, { signal: mine });
          known = next.results.length ? known + next.results.length : answer.total;
          add(next.results);
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
          { class: "dim matches", role: "status" },
          `${answer.cut ? "More than " : ""}${counted(answer.total, "match", "matches")}${where}.`,
          answer.cut && " Write more of the name to see fewer.",
        ),
        answer.results.length
          ? list
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
