// Begins the page, and shows what the address says.

import { ask } from "./api.js";
import { h, put } from "./dom.js";
import { drawTop } from "./frame.js";
import { imagePage } from "./image.js";
import { repositoriesPage } from "./repositories.js";
import { searchPage } from "./search.js";
import { tagsPage } from "./tags.js";
import { plain } from "./text.js";
import { follow } from "./url.js";
import { failed } from "./waiting.js";

const main = document.getElementById("main");

/** Which page a state belongs to; the same key is the same page, which is told of the change. */
function page(state) {
  if (state.image) return [`image ${state.image} ${state.platform ?? ""}`, imagePage];
  if (state.view === "search") return ["search", searchPage];
  if (state.repository) return [`tags ${state.repository}`, tagsPage];
  return ["repositories", repositoriesPage];
}

async function begin() {
  let about;
  try {
    about = await ask("about");
  } catch (error) {
    put(main, failed(error, begin));
    return;
  }
  const top = drawTop(about);
  let key = null;
  let shown = null;
  let stop = null;
  follow((state, before) => {
    top.show(state);
    const [next, open] = page(state);
    if (next !== key) {
      stop?.abort();
      stop = new AbortController();
      key = next;
      const box = h("div", { class: "page" });
      put(main, box);
      scrollTo(0, 0);
      shown = open(box, state, { about, signal: stop.signal });
      if (Object.keys(before).length) main.focus({ preventScroll: true });
    } else shown.update?.(state, before);
    document.title = `${plain(shown.title?.(state) ?? "images")} · lamina`;
  });
}

begin();
