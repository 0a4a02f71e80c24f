// The tags of a repository.

import { copyButton } from "./copy.js";
import { h, put } from "./dom.js";
import { listing } from "./listing.js";
import { pullLine } from "./pull.js";
import { age, counted, humanSize, moment, number, plain, short, visible } from "./text.js";
import { go, to } from "./url.js";
import { empty } from "./waiting.js";

export function tagsPage(box, { repository }, { about, signal }) {
  const chosen = [];
  const compare = h("div", { class: "compare-bar", hidden: true });
  const first = h("div", { class: "pull-box" });

  function choose(tag, isChosen) {
    if (isChosen) chosen.push(tag);
    else chosen.splice(chosen.indexOf(tag), 1);
    compare.hidden = !chosen.length;
    put(
      compare,
      h(
        "span",
        {},
        chosen.length < 2
          ? ["Choose a second tag to compare with ", visible(chosen[0]?.tag), "."]
          : [visible(chosen[0].tag), " and ", visible(chosen[1].tag)],
      ),
      chosen.length === 2 &&
        h(
          "button",
          {
            type: "button",
            class: "main push",
            onclick: () => go({ image: chosen[0].image, view: "compare", other: chosen[1].image }),
          },
          "Compare",
        ),
    );
    for (const check of body.querySelectorAll("input[type=checkbox]"))
      check.disabled = chosen.length >= 2 && !check.checked;
  }

  function row(tag) {
    const opens = tag.kind === "image";
    const name = opens
      ? h("a", { class: "strong", ...to({ image: tag.image }) }, visible(tag.tag))
      : h("span", { class: "strong" }, visible(tag.tag));
    const check = opens && h("input", { type: "checkbox", "aria-label": `Choose ${plain(tag.tag)} to compare` });
    if (check) check.addEventListener("change", () => choose(tag, check.checked));
    const about_ = {
      image: () =>
        tag.platforms?.length > 1
          ? `${plain(tag.platform)} and ${number(tag.platforms.length - 1)} more`
          : plain(tag.platform),
      artifact: () => `artifact: ${plain(tag.artifact_type ?? tag.media_type)}`,
      unreadable: () => h("span", { class: "bad" }, plain(tag.problem ?? "can't be read")),
    }[tag.kind];
    return h(
      "tr",
      {},
      h("td", { class: "tick" }, check),
      h("td", { class: "tag" }, name),
      h("td", { class: "dim", title: plain(tag.platforms?.join(", ")) }, about_?.()),
      h("td", { class: "right" }, tag.size ? humanSize(tag.size) : ""),
      h("td", { class: "right dim" }, tag.layers ? counted(tag.layers, "layer") : ""),
      h("td", { class: "dim", title: moment(tag.created) }, age(tag.created)),
      h(
        "td",
        { class: "digest" },
        h("code", { class: "dim", title: tag.digest }, short(tag.digest)),
        copyButton(tag.digest, "digest"),
      ),
    );
  }

  const body = h("tbody");
  const table = h(
    "table",
    { class: "tags" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, h("span", { class: "out-of-sight" }, "Compare")),
        ["Tag", "Platform", "Size", "Layers", "Created", "Digest"].map((title) =>
          h("th", { scope: "col", class: title === "Size" || title === "Layers" ? "right" : "" }, title),
        ),
      ),
    ),
    body,
  );
  let drawn = false;
  const list = listing({
    endpoint: "tags",
    parameters: { repository },
    items: (answer) => {
      if (!drawn && answer.tags.length && about.pulls && answer.name) {
        drawn = true;
        put(first, pullLine(`${answer.name}:${answer.tags[0].tag}`));
      }
      table.hidden = !answer.tags.length && !body.children.length;
      return answer.tags;
    },
    label: "Filter tags",
    words: ["tag", "tags"],
    body,
    signal,
    draw: (tags) => tags.map(row),
    empty: (filter) =>
      filter
        ? empty(`No tag contains “${plain(filter)}”.`, "Check the spelling, or clear the filter.")
        : empty("This repository has no tags.", "Its manifests can still be pulled by their digests."),
  });
  put(
    box,
    h("nav", { class: "crumbs", "aria-label": "Where this is" }, h("a", to({}), "Repositories"), " /"),
    h(
      "div",
      { class: "heading" },
      h("h1", { class: repository.length > 60 ? "lengthy" : "" }, visible(repository)),
      list.count,
      h("div", { class: "push" }, list.field),
    ),
    first,
    compare,
    h("div", { class: "wide" }, table),
    list.rest,
  );
  return { title: () => repository };
}
