// All repositories, or the images that were named on the command line.

import { h, icon, put } from "./dom.js";
import { listing } from "./listing.js";
import { counted, plain, visible } from "./text.js";
import { to, turn } from "./url.js";
import { empty } from "./waiting.js";

/** A repository's name: the host is quiet, the last part is what people look for. */
function split(repository) {
  const cut = repository.lastIndexOf("/") + 1;
  return [
    cut > 0 && h("span", { class: "dim" }, visible(repository.slice(0, cut))),
    h("span", { class: "strong" }, visible(repository.slice(cut))),
  ];
}

export function repositoriesPage(box, _state, { about, signal }) {
  const given = about.images ?? [];
  const links = given.map((image) =>
    h(
      "li",
      {},
      h(
        "a",
        { class: "line", ...to({ image }) },
        h("span", { class: "strong" }, visible(image)),
        h("span", { class: "push" }, icon("right")),
      ),
    ),
  );
  if (about.kind === "images") {
    if (given.length === 1) queueMicrotask(() => turn({ image: given[0] }));
    put(
      box,
      h("h1", {}, "Images"),
      links.length
        ? h("ul", { class: "plain lines" }, links)
        : empty("No image was given.", "Start it with one: lamina ui IMAGE."),
    );
    return { title: () => "images" };
  }
  const body = h("ul", { class: "plain lines" });
  const list = listing({
    endpoint: "repositories",
    parameters: {},
    items: (answer) => answer.repositories,
    label: "Filter repositories",
    words: ["repository", "repositories"],
    body,
    signal,
    draw: (repositories) =>
      repositories.map((one) =>
        h(
          "li",
          {},
          h(
            "a",
            { class: "line", ...to({ repository: one.repository }) },
            h("span", { class: "grow" }, split(one.repository)),
            h("span", { class: "dim push" }, one.tags === null ? "" : counted(one.tags, "tag")),
            icon("right"),
          ),
        ),
      ),
    empty: (filter) =>
      filter
        ? empty(`No repository's name contains “${plain(filter)}”.`, "Check the spelling, or clear the filter.")
        : empty(
            "There are no images yet.",
            about.writable && ["Push one: ", h("code", {}, `lamina push IMAGE ${location.host}/NAME:TAG`), "."],
            !about.writable && [
              "Pull one into the store: ",
              h("code", {}, "lamina pull IMAGE"),
              ", or load an archive.",
            ],
          ),
  });
  put(
    box,
    h("div", { class: "heading" }, h("h1", {}, "Repositories"), list.count, h("div", { class: "push" }, list.field)),
    links.length > 0 && h("ul", { class: "plain lines given" }, links),
    body,
    list.rest,
  );
  return { title: () => "repositories" };
}
