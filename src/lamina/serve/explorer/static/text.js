// Values as people read them: sizes, dates, counts, and names from hostile images.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/** Bytes in powers of ten with three digits, as the command line prints them: 12.3kB. */
export function humanSize(size) {
  if (!Number.isFinite(size)) return "?";
  let value = size;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  if (unit === 0) return `${size}B`;
  const digits = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  const text = value.toFixed(digits);
  return (text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text) + UNITS[unit];
}

const NUMBERS = new Intl.NumberFormat("en");

export const number = (value) => NUMBERS.format(value);

/** `1 entry`, `2 entries`. */
export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

const AGES = [
  [60, "second", 1],
  [3600, "minute", 60],
  [86400, "hour", 3600],
  [86400 * 30, "day", 86400],
  [86400 * 365, "month", 86400 * 30.44],
  [Infinity, "year", 86400 * 365.25],
];

/** How long ago a date is, in words; an empty text if it is no date or not recorded. */
export function age(date, now = Date.now()) {
  const at = Date.parse(date ?? "");
  if (!Number.isFinite(at)) return "";
  const seconds = (now - at) / 1000;
  if (seconds < 0) return day(date);
  const [, unit, length] = AGES.find(([below]) => seconds < below);
  return `${counted(Math.max(1, Math.floor(seconds / length)), unit)} ago`;
}

/** The day of a date, as 2024-01-31. */
export function day(date) {
  const at = Date.parse(date ?? "");
  return Number.isFinite(at) && Math.abs(at) < 8.64e15 ? new Date(at).toISOString().slice(0, 10) : "";
}

/** A date to the second in UTC. */
export function moment(date) {
  const at = typeof date === "number" ? date : Date.parse(date ?? "");
  if (!Number.isFinite(at) || Math.abs(at) > 8.64e15) return "";
  return new Date(at).toISOString().slice(0, 19).replace("T", " ") + " UTC";
}

/** The first digits of a digest, which are enough to recognise it. */
export const short = (digest) =>
  String(digest ?? "")
    .replace(/^[a-z0-9+._-]+:/, "")
    .slice(0, 12);

// what does not show, or changes what is shown: controls, formats (bidi), unassigned, line ends, odd spaces
const ODD = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

const escaped = (character) => {
  const code = character.codePointAt(0);
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
};

/** A text in one line in which every character shows. */
export const plain = (text) => String(text ?? "").replace(ODD, escaped);

/** Append a text that may break after slashes. */
function appendPath(element, text) {
  text.split(/(?<=\/)(?=.)/s).forEach((part, at) => {
    if (at > 0) element.append(document.createElement("wbr"));
    element.append(part);
  });
}

/** A text from an image as nodes: what does not show is written as an escape, and marked. */
export function visible(text) {
  const whole = String(text ?? "");
  const out = document.createElement("bdi");
  out.className = "name";
  let at = 0;
  for (const match of whole.matchAll(ODD)) {
    if (match.index > at) appendPath(out, whole.slice(at, match.index));
    const mark = document.createElement("span");
    mark.className = "odd";
    mark.textContent = escaped(match[0]);
    mark.title = "A character that does not show";
    out.append(mark);
    at = match.index + match[0].length;
  }
  if (at < whole.length) appendPath(out, whole.slice(at));
  return out;
}

const NOP = /^\/bin\/sh -c #\(nop\)\s*/;
const SHELL = /^(?:RUN )?(?:\|\d+ (?:\S+=\S* )*)?\/bin\/(?:sh|bash)(?: -o \w+)?(?: -[a-z]+)+ /;

/** A step of the history as a line of a Dockerfile. */
export function step(createdBy) {
  const text = String(createdBy ?? "")
    .replace(/\s+/g, " ")
    .trim();
  if (NOP.test(text)) return text.replace(NOP, "");
  if (SHELL.test(text)) return `RUN ${text.replace(SHELL, "")}`.replace(/ # buildkit$/, "");
  return text.replace(/ # buildkit$/, "");
}
