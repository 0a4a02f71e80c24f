// What the documents of an image say: config, labels, history, digests, and what refers to it.

import { copyButton } from "./copy.js";
import { h, put } from "./dom.js";
import { chip } from "./layers.js";
import { humanSize, moment, plain, short, step, visible } from "./text.js";
import { go, state as current } from "./url.js";

const quoted = (words) =>
  words?.length ? words.map((one) => (/^[\w@%+=:,./-]+$/.test(one) ? one : JSON.stringify(one))).join(" ") : "";

export function detailsView(box, _state, { image }) {
  const { config } = image;
  const fact = (name, value) => value && [h("dt", {}, name), h("dd", {}, value)];
  const code = (value) => value && h("code", {}, plain(value));
  const digest = (name, value) =>
    value && [
      h("dt", {}, name),
      h("dd", {}, h("code", { class: "long" }, value), copyButton(value, name.toLowerCase())),
    ];
  const health =
    config.healthcheck &&
    (Array.isArray(config.healthcheck.test ?? config.healthcheck.Test)
      ? quoted(config.healthcheck.test ?? config.healthcheck.Test)
      : JSON.stringify(config.healthcheck));
  const table = (pairs, names) =>
    h(
      "div",
      { class: "wide" },
      h(
        "table",
        { class: "pairs" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            names.map((one) => h("th", { scope: "col" }, one)),
          ),
        ),
        h(
          "tbody",
          {},
          pairs.map(([name, value]) =>
            h("tr", {}, h("td", { class: "code" }, visible(name)), h("td", { class: "code" }, visible(value))),
          ),
        ),
      ),
    );
  const env = (config.env ?? []).map((one) => {
    const cut = one.indexOf("=");
    return cut < 0 ? [one, ""] : [one.slice(0, cut), one.slice(cut + 1)];
  });
  const labels = Object.entries(config.labels ?? {});
  const annotations = Object.entries(image.annotations ?? {});
  put(
    box,
    h(
      "section",
      { class: "part" },
      h("h3", {}, "Starts with"),
      h(
        "dl",
        { class: "facts" },
        fact("Entrypoint", code(quoted(config.entrypoint))),
        fact("Command", code(quoted(config.cmd))),
        fact("User", code(config.user)),
        fact("Directory", code(config.working_dir)),
        fact("Ports", code((config.exposed_ports ?? []).join(", "))),
        fact("Volumes", code((config.volumes ?? []).join(", "))),
        fact("Stop signal", code(config.stop_signal)),
        fact("Health check", code(health)),
        fact("Shell", code(quoted(config.shell))),
        fact("Created", moment(image.created)),
        fact("Author", image.author && visible(image.author)),
      ),
    ),
    env.length > 0 && h("section", { class: "part" }, h("h3", {}, "Environment"), table(env, ["Name", "Value"])),
    labels.length > 0 && h("section", { class: "part" }, h("h3", {}, "Labels"), table(labels, ["Label", "Value"])),
    annotations.length > 0 &&
      h("section", { class: "part" }, h("h3", {}, "Annotations"), table(annotations, ["Annotation", "Value"])),
    h(
      "section",
      { class: "part" },
      h("h3", {}, "History"),
      h(
        "ol",
        { class: "plain moments" },
        image.history.map((one) =>
          h(
            "li",
            { class: "moment" },
            one.layer
              ? h(
                  "button",
                  {
                    type: "button",
                    class: "bare",
                    "aria-label": `Show the files of layer ${one.layer}`,
                    onclick: () => go({ ...current(), view: undefined, layer: String(one.layer) }),
                  },
                  chip(one.layer),
                )
              : h("span", { class: "chip no-layer", title: "This step made no layer" }),
            h(
              "div",
              {},
              h(
                "p",
                { class: "code step" },
                one.recorded === false
                  ? h("span", { class: "dim" }, "no step recorded")
                  : visible(step(one.created_by)),
              ),
              h("p", { class: "dim" }, [moment(one.created), plain(one.comment)].filter(Boolean).join(" · ")),
            ),
          ),
        ),
      ),
    ),
    h(
      "section",
      { class: "part" },
      h("h3", {}, "Referrers"),
      image.referrers?.length
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
                  ["Kind", "Type", "Size", "Digest"].map((one) => h("th", { scope: "col" }, one)),
                ),
              ),
              h(
                "tbody",
                {},
                image.referrers.map((one) =>
                  h(
                    "tr",
                    {},
                    h("td", {}, plain(one.kind)),
                    h("td", {}, plain(one.artifact_type || one.media_type)),
                    h("td", {}, humanSize(one.size)),
                    h(
                      "td",
                      {},
                      h("code", { title: one.digest }, short(one.digest)),
                      copyButton(one.digest, "digest"),
                    ),
                  ),
                ),
              ),
            ),
          )
        : h("p", { class: "dim" }, "No signature, SBOM or other artifact refers to this image."),
    ),
    h(
      "section",
      { class: "part" },
      h("h3", {}, "Digests"),
      h(
        "dl",
        { class: "facts" },
        digest("Index", image.index_digest),
        digest("Manifest", image.digest),
        digest("Config", image.id),
        fact("Media type", code(image.media_type)),
      ),
    ),
  );
  return {};
}
