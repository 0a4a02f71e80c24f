// Light or dark before the first paint: this file is loaded in the head, as a classic script.
(() => {
  const KEY = "lamina.theme";
  const root = document.documentElement;
  let remembered = null;
  try {
    remembered = localStorage.getItem(KEY);
  } catch {
    // storage is refused: the choice lasts as long as the page
  }
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;

  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;

  window.laminaTheme = {
    dark,
    switch() {
      root.dataset.theme = dark() ? "light" : "dark";
      try {
        localStorage.setItem(KEY, root.dataset.theme);
      } catch {
        // as above
      }
      return root.dataset.theme;
    },
  };
})();
