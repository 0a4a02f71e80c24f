// A list that is filtered while one types, and loaded further as one asks.

import { ask, isAbort } from "./api.js";
import { h, put } from "./dom.js";
import { counted } from "./text.js";
import { note, state } from "./url.js";
import { failed } from "./waiting.js";

const PAGE = 100;
const TYPING_MS = 150;

/**
 * @param {object} options
 * @param {string} options.endpoint answers with a page of the list and `next`
 * @param {object} options.parameters
 * @param {(answer: object) => object[]} options.items
 * @param {string} options.label of the field
 * @param {[string, string]} options.words one, many
 * @param {(items: object[]) => Node} options.draw the items as rows
 * @param {(filter: string) => Node} options.empty
 * @param {AbortSignal} options.signal
 */
export function listing({ endpoint, parameters, items, label, words, draw, empty, signal, body }) {
  const field = h("input", {
    type: "search",
    class: "filter",
    "aria-label": label,
    placeholder: label,
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 200,
  });
  field.value = state().q ?? "";
  const count = h("span", { class: "dim", role: "status" });
  const rest = h("div", { class: "rest" });
  let turn = 0;
  let known = 0;

  async function load(after, mine = turn) {
    put(rest, h("span", { class: "dim" }, "Loading…"));
    let answer;
    try {
      answer = await ask(endpoint, { ...parameters, filter: field.value, after, limit: PAGE }, { signal });
    } catch (error) {
      if (!isAbort(error) && mine === turn) {
        if (!after) put(body);
        put(
          rest,
          failed(error, () => load(after)),
        );
      }
      return;
    }
    if (mine !== turn) return;
    const found = items(answer);
    if (!after) {
      known = 0;
      put(body);
    }
    known += found.length;
    body.append(...draw(found));
    count.textContent = answer.next ? `more than ${counted(known, ...words)}` : counted(known, ...words);
    put(
      rest,
      answer.next
        ? h("button", { type: "button", onclick: () => load(answer.next) }, "Show more")
        : !known && empty(field.value),
    );
  }

  let timer = 0;
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      turn += 1;
      note({ q: field.value || undefined });
      load("");
    }, TYPING_MS);
  });
  load("");
  return { field, count, rest };
}
