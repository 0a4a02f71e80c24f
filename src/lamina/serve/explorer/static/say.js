// Short messages: shown for a moment, and read out by screen readers.

const place = document.getElementById("said");
let timer = 0;

export function say(text) {
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => place.classList.remove("shown"), 2500);
}
