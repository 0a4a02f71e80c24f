// What stands where an answer will be: progress, an error with what to do, or that there is nothing.

import { ask, isAbort } from "./api.js";
import { h, put } from "./dom.js";
import { plain } from "./text.js";

/** A box that says what the server does. It only appears if that takes a moment. */
function progress() {
  const bar = h("progress", { max: 100, "aria-label": "Progress" });
  const words = h("p", {}, "Loading…");
  const box = h("div", { class: "waiting", role: "status" }, words, bar);
  return {
    box,
    tell(work) {
      words.textContent = plain(`${work.what[0].toUpperCase()}${work.what.slice(1)}…`);
      if (Number.isFinite(work.percent)) bar.value = work.percent;
      else bar.removeAttribute("value");
    },
  };
}

/** An error, with what to do and a button that tries again. */
export function failed(error, again) {
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    h("p", { class: "strong" }, plain(error.message || "The page failed.")),
    error.hint && h("p", {}, plain(error.hint)),
    error.status === 401 && h("p", {}, "Reload the page, and log in with the name and password of docker login."),
    again && h("button", { type: "button", onclick: again }, "Try again"),
  );
}

/** There is nothing to show, and why. */
export const empty = (title, ...more) =>
  h(
    "div",
    { class: "notice empty" },
    h("p", { class: "strong" }, title),
    more.filter(Boolean).map((one) => h("p", {}, one)),
  );

/**
 * Fill a box with an answer: progress first, then what `draw` makes of it, or the error. `instead` may make something
 * else of an error.
 *
 * @returns {Promise<object|undefined>} the answer; undefined if it failed or nobody waits any more
 */
export async function fillWith(box, signal, endpoint, parameters, draw, instead = () => null) {
  const wait = progress();
  put(box, wait.box);
  box.setAttribute("aria-busy", "true");
  try {
    const answer = await ask(endpoint, parameters, { signal, working: wait.tell });
    if (signal.aborted) return undefined;
    put(box, await draw(answer));
    return answer;
  } catch (error) {
    if (isAbort(error) || signal.aborted) return undefined;
    put(
      box,
      instead(error) ?? failed(error, () => fillWith(box, signal, endpoint, parameters, draw, instead)),
    );
    return undefined;
  } finally {
    box.removeAttribute("aria-busy");
  }
}
