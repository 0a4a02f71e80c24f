// The bar at the top: the way home, search, and the theme.

import { h, icon, put, s } from "./dom.js";
import { plain } from "./text.js";
import { go, state, to, write } from "./url.js";

const mark = () =>
  s(
    "svg",
    { class: "mark", viewBox: "0 0 32 32", width: 26, height: 26, "aria-hidden": "true", focusable: "false" },
    s("path", { class: "layer c1", d: "M16 16.5 29 23l-13 6.5L3 23z" }),
    s("path", { class: "layer c2", d: "M16 10 29 16.5 16 23 3 16.5z" }),
    s("path", { class: "layer c0", d: "M16 3.5 29 10l-13 6.5L3 10z" }),
  );

export function drawTop(about) {
  const field = h("input", {
    type: "search",
    id: "search",
    class: "search",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 300,
    "aria-label": "Search files by name",
    placeholder: "Search files",
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !field.value.trim()) return;
    const { image, platform } = state();
    go({ image, platform, view: "search", q: field.value.trim() });
  });
  const theme = h("button", { type: "button", class: "quiet theme" });
  // a plain link: the server asks for the login when the page itself is loaded
  const login = h("a", { class: "login" }, "Log in");
  const label = () => {
    const dark = window.laminaTheme.dark();
    theme.setAttribute("aria-label", dark ? "Use the light theme" : "Use the dark theme");
    theme.title = theme.getAttribute("aria-label");
    put(theme, icon(dark ? "sun" : "moon"));
  };
  theme.addEventListener("click", () => {
    window.laminaTheme.switch();
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
  put(
    document.getElementById("top"),
    h("a", { class: "home", "aria-label": "lamina: all images", ...to({}) }, mark(), h("span", {}, "lamina")),
    h("span", { class: "place dim", title: plain(about.location) }, plain(about.location)),
    h("div", { class: "push find", role: "search" }, icon("search"), field, h("kbd", { "aria-hidden": "true" }, "/")),
    about.user ? h("span", { class: "dim user" }, plain(about.user)) : about.logins && login,
    theme,
  );
  addEventListener("keydown", (event) => {
    const writing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key !== "/" || writing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    field.focus();
    field.select();
  });
  return {
    /** Write into the field what is searched. */
    show: (current) => {
      const here = write(current);
      login.href = `${here}${here.includes("?") ? "&" : "?"}login=1`;
      field.value = current.view === "search" ? (current.q ?? "") : "";
      field.placeholder = current.image ? "Search this image: *.pem" : "Search all images: *.pem";
    },
  };
}
