// A button that copies a text.

import { h, icon, put } from "./dom.js";
import { say } from "./say.js";

async function write(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // without TLS, and not on this machine: browsers only offer the old way
  const area = h("textarea", { class: "out-of-sight", readonly: true });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("refused");
}

/** A button that copies `text`; `what` names it to people ("digest"). */
export function copyButton(text, what) {
  const button = h(
    "button",
    { class: "quiet copy", type: "button", "aria-label": `Copy ${what}`, title: `Copy ${what}` },
    icon("copy"),
  );
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    try {
      await write(text);
    } catch {
      say(`The browser did not allow copying. Select the ${what} and copy it by hand.`);
      return;
    }
    put(button, icon("check"));
    say(`Copied the ${what}.`);
    setTimeout(() => put(button, icon("copy")), 1500);
  });
  return button;
}
