// A tree of any length: rows are made for what is seen, children are asked for page by page as they come into view.

import { isAbort } from "./api.js";
import { append, h, icon, put } from "./dom.js";
import { plain } from "./text.js";

const PAGE = 500;
const AROUND = 12;
const TYPE_AHEAD_MS = 700;

const bytes = new TextEncoder();

/** The bytes of a name, which the order of entries follows. */
function nameBytes(entry) {
  if (!entry.name_b64) return bytes.encode(entry.name);
  return Uint8Array.from(atob(entry.name_b64), (character) => character.charCodeAt(0));
}

function compare(one, other) {
  const length = Math.min(one.length, other.length);
  for (let at = 0; at < length; at += 1) if (one[at] !== other[at]) return one[at] - other[at];
  return one.length - other.length;
}

class Node {
  constructor(entry, parent, index) {
    this.entry = entry;
    this.parent = parent;
    this.index = index;
    this.depth = parent ? parent.depth + 1 : 0;
    this.open = false;
    this.children = null; // once known: one place for each child, empty until it is loaded
    this.pages = new Map();
    this.error = null;
  }
}

let trees = 0;

/**
 * A tree view with the keys of one: arrows, Home, End, Page Up and Down, Enter, and names as they are typed.
 *
 * @param {object} options
 * @param {string} options.label for screen readers
 * @param {(entry: object|null, offset: number, limit: number) => Promise<{total: number, entries: object[]}>}
 *   options.load children of an entry (null: of the root), in a fixed order
 * @param {(entry: object) => Node[]} options.draw what stands in a row
 * @param {(entry: object) => boolean} options.expandable
 * @param {(entry: object, how: string) => void} options.choose an entry was clicked, or Enter was pressed on it
 * @param {(entry: object) => string} [options.style] a class of the row
 * @param {boolean} [options.byName] children are in byte order of their names
 */
export class Tree {
  constructor(options) {
    this.options = options;
    this.id = `tree${(trees += 1)}`;
    this.rows = [];
    this.elements = new Map();
    this.at = 0;
    this.chosen = null;
    this.typed = "";
    this.typedAt = 0;
    this.height = matchMedia("(pointer: coarse)").matches ? 40 : 28;
    this.space = h("div", { class: "space", role: "presentation" });
    this.element = h("div", { class: "tree", role: "tree", tabindex: 0, "aria-label": options.label }, this.space);
    this.element.style.setProperty("--row", `${this.height}px`);
    this.element.addEventListener("scroll", () => this.drawSoon(), { passive: true });
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("click", (event) => this.click(event));
    this.element.addEventListener("focus", () => this.mark());
    this.element.addEventListener("blur", () => this.mark());
    this.resized = new ResizeObserver(() => this.drawSoon());
    this.resized.observe(this.element);
    this.root = new Node(null, null, 0);
    this.root.depth = -1;
  }

  /** Load the root's children and show them. Raises what `load` raises. */
  async start() {
    this.root.open = true;
    await this.page(this.root, 0);
    this.flatten();
  }

  /** Open directories, from the top, as long as there are not more rows than that. */
  async openSome(most) {
    for (let at = 0; at < this.rows.length; at += 1) {
      const node = this.node(this.rows[at]);
      if (!node || node.open || !this.options.expandable(node.entry)) continue;
      await this.page(node, 0);
      if (this.closed || this.rows.length + node.children.length > most) return;
      node.open = true;
      this.flatten();
    }
  }

  close() {
    this.resized.disconnect();
    this.closed = true;
  }

  /** The node of a row, or undefined while it is not loaded. */
  node(row) {
    return row && row.parent.children[row.index];
  }

  /** Load the page of children that has `index`; twice the same page is one request. */
  page(node, index) {
    const first = Math.floor(index / PAGE) * PAGE;
    let pending = node.pages.get(first);
    if (!pending) {
      pending = this.fetchPage(node, first);
      node.pages.set(first, pending);
      pending.catch((error) => {
        node.pages.delete(first);
        if (!isAbort(error)) node.error = error;
      });
    }
    return pending;
  }

  async fetchPage(node, first) {
    const { total, entries } = await this.options.load(node.entry, first, PAGE);
    node.error = null;
    node.children ??= new Array(total);
    entries.forEach((entry, at) => {
      node.children[first + at] ??= new Node(entry, node, first + at);
    });
  }

  /** Make the list of rows from what is open. */
  flatten() {
    const rows = [];
    const add = (node) => {
      const { children } = node;
      if (!children) return;
      for (let index = 0; index < children.length; index += 1) {
        rows.push({ parent: node, index });
        const child = children[index];
        if (child?.open) add(child);
      }
    };
    const focused = this.rows[this.at];
    add(this.root);
    this.rows = rows;
    if (focused) {
      const at = rows.findIndex((row) => row.parent === focused.parent && row.index === focused.index);
      this.at = at >= 0 ? at : Math.min(this.at, Math.max(0, rows.length - 1));
    }
    this.space.style.height = `${rows.length * this.height}px`;
    for (const element of this.elements.values()) element.remove();
    this.elements.clear();
    this.draw();
  }

  drawSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    const top = Math.floor(this.element.scrollTop / this.height);
    const seen = Math.ceil((this.element.clientHeight || 400) / this.height);
    const first = Math.max(0, top - AROUND);
    const last = Math.min(this.rows.length, top + seen + AROUND);
    for (const [at, element] of this.elements) {
      if (at >= first && at < last) continue;
      element.remove();
      this.elements.delete(at);
    }
    let missing = false;
    for (let at = first; at < last; at += 1) {
      const row = this.rows[at];
      const node = this.node(row);
      const old = this.elements.get(at);
      if (!node) missing = true;
      if (old && old.isLoaded === Boolean(node)) continue;
      old?.remove();
      const element = this.row(row, node, at);
      element.isLoaded = Boolean(node);
      this.elements.set(at, element);
      this.space.append(element);
    }
    this.mark();
    if (missing) this.loadSeenSoon();
  }

  /** Ask for what is seen once scrolling has come to rest, not for all that has passed by. */
  loadSeenSoon() {
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      const top = Math.floor(this.element.scrollTop / this.height);
      const seen = Math.ceil((this.element.clientHeight || 400) / this.height);
      const wanted = [];
      for (let at = Math.max(0, top - 2); at < Math.min(this.rows.length, top + seen + 2); at += 1) {
        const row = this.rows[at];
        if (!this.node(row)) wanted.push(this.page(row.parent, row.index));
      }
      if (wanted.length)
        Promise.allSettled(wanted).then((results) => {
          if (this.closed) return;
          if (results.every((one) => one.status === "fulfilled")) this.draw();
        });
    }, 60);
  }

  row(row, node, at) {
    const { parent, index } = row;
    const element = h("div", {
      class: "row",
      role: "treeitem",
      id: `${this.id}-${at}`,
      "aria-level": parent.depth + 2,
      "aria-posinset": index + 1,
      "aria-setsize": parent.children.length,
      vars: { "--depth": parent.depth + 1, top: `${at * this.height}px` },
    });
    element.at = at;
    if (!node) {
      element.append(h("span", { class: "dim" }, "…"));
      element.setAttribute("aria-busy", "true");
      return element;
    }
    const opens = this.options.expandable(node.entry);
    const style = this.options.style?.(node.entry);
    if (style) element.classList.add(style);
    if (opens) element.setAttribute("aria-expanded", String(node.open));
    return append(element, [
      h("span", { class: `twist${opens ? "" : " none"}`, "aria-hidden": "true" }, opens && icon("right")),
      this.options.draw(node.entry),
      node.error && h("span", { class: "bad", title: plain(node.error.message) }, "did not load"),
    ]);
  }

  /** Show which row has the focus, and which one is chosen. */
  mark() {
    for (const [at, element] of this.elements) {
      const node = this.node(this.rows[at]);
      element.classList.toggle("at", at === this.at);
      element.setAttribute("aria-selected", String(Boolean(node && node === this.chosen)));
    }
    const id = this.elements.get(this.at)?.id;
    if (id) this.element.setAttribute("aria-activedescendant", id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  /** Move the focus to a row, and scroll so that it is seen. */
  move(at, { middle = false } = {}) {
    if (!this.rows.length) return;
    this.at = Math.max(0, Math.min(this.rows.length - 1, at));
    const top = this.at * this.height;
    const seen = this.element.clientHeight;
    if (middle) this.element.scrollTop = top - seen / 2;
    else if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + this.height > this.element.scrollTop + seen) this.element.scrollTop = top + this.height - seen;
    this.draw();
  }

  rowOf(node) {
    return this.rows.findIndex((row) => row.parent === node.parent && row.index === node.index);
  }

  async expand(node) {
    if (node.open || !this.options.expandable(node.entry)) return;
    node.open = true;
    this.flatten();
    let one = node;
    try {
      await this.page(one, 0);
      // a directory with nothing but a directory: open that one too
      while (one.children.length === 1 && one.children[0] && this.options.expandable(one.children[0].entry)) {
        one = one.children[0];
        one.open = true;
        await this.page(one, 0);
      }
    } catch (error) {
      if (!isAbort(error)) one.open = false;
    }
    if (!this.closed) this.flatten();
  }

  collapse(node) {
    if (!node.open) return;
    node.open = false;
    this.flatten();
  }

  toggle(node) {
    return node.open ? this.collapse(node) : this.expand(node);
  }

  choose(node) {
    this.chosen = node;
    this.mark();
    this.options.choose(node.entry);
  }

  click(event) {
    const element = event.target.closest("[role=treeitem]");
    const node = element && this.node(this.rows[element.at]);
    if (!node) return;
    this.at = element.at;
    if (event.target.closest(".twist:not(.none)")) {
      this.toggle(node);
      this.mark();
      return;
    }
    if (this.options.expandable(node.entry) && (!node.open || this.chosen === node)) this.toggle(node);
    this.choose(node);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = this.rows[this.at];
    const node = this.node(row);
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.height) - 1);
    const moves = {
      ArrowDown: () => this.move(this.at + 1),
      ArrowUp: () => this.move(this.at - 1),
      PageDown: () => this.move(this.at + page),
      PageUp: () => this.move(this.at - page),
      Home: () => this.move(0),
      End: () => this.move(this.rows.length - 1),
      ArrowRight: () => {
        if (!node) return;
        if (!node.open) this.expand(node);
        else if (node.children?.length) this.move(this.at + 1); // not while they are loaded: that row is no child
      },
      ArrowLeft: () => {
        if (node?.open) this.collapse(node);
        else if (row && row.parent !== this.root) this.move(this.rowOf(row.parent));
      },
      Enter: () => node && this.choose(node),
      " ": () => {
        if (this.typed && event.timeStamp - this.typedAt < TYPE_AHEAD_MS) this.typeAhead(" ", event.timeStamp);
        else if (node) {
          if (this.options.expandable(node.entry)) this.toggle(node);
          else this.choose(node);
        }
      },
    };
    const act =
      moves[event.key] ?? (event.key.length === 1 ? () => this.typeAhead(event.key, event.timeStamp) : null);
    if (!act) return;
    event.preventDefault();
    if (event.key.length > 1) this.typed = "";
    act();
  }

  typeAhead(letter, now) {
    if (now - this.typedAt > TYPE_AHEAD_MS) this.typed = "";
    this.typed += letter;
    this.typedAt = now;
    const wanted = this.typed.toLowerCase();
    const from = this.at + (this.typed.length === 1 ? 1 : 0);
    for (let step = 0; step < this.rows.length; step += 1) {
      const at = (from + step) % this.rows.length;
      const name = this.node(this.rows[at])?.entry.name;
      if (name?.toLowerCase().startsWith(wanted)) {
        this.move(at);
        return;
      }
    }
    const parent = this.rows[this.at]?.parent;
    if (parent && this.options.byName && parent.children.includes(undefined))
      this.locate(parent, bytes.encode(this.typed)).then(
        (found) => found && found.entry.name.startsWith(this.typed) && this.move(this.rowOf(found)),
        () => {},
      );
  }

  /** The first child whose name is not less than `name`: a few pages are loaded, not all. */
  async locate(parent, name) {
    await this.page(parent, 0);
    let low = 0;
    let high = parent.children.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      await this.page(parent, middle);
      if (compare(nameBytes(parent.children[middle].entry), name) < 0) low = middle + 1;
      else high = middle;
    }
    if (low < parent.children.length) await this.page(parent, low);
    return parent.children[low];
  }

  /**
   * Open the directories on the way to an entry, and choose it without telling `choose`.
   *
   * @param {{name: string, name_b64?: string}[]} names from the root down
   * @returns {Promise<boolean>} whether it is there
   */
  async reveal(names, { hidden } = {}) {
    let node = this.root;
    for (const [depth, one] of names.entries()) {
      const wanted = nameBytes(one);
      let child;
      if (this.options.byName) child = await this.locate(node, wanted);
      else {
        await this.page(node, 0);
        child = node.children.find((each) => each && compare(nameBytes(each.entry), wanted) === 0);
      }
      if (!child || compare(nameBytes(child.entry), wanted) !== 0) break;
      if (hidden !== undefined && depth === names.length - 1) {
        // the visible entry comes first, those that it hides follow
        for (let at = child.index; child && String(child.entry.node) !== String(hidden); at += 1) {
          if (at + 1 >= node.children.length) break;
          await this.page(node, at + 1);
          const next = node.children[at + 1];
          if (compare(nameBytes(next.entry), wanted) !== 0) break;
          child = next;
        }
      }
      node = child;
      if (depth < names.length - 1) {
        if (!this.options.expandable(node.entry)) break;
        node.open = true;
      } else {
        if (this.closed) return false;
        this.chosen = node;
        this.flatten();
        this.move(this.rowOf(node), { middle: true });
        return true;
      }
    }
    if (!this.closed) this.flatten();
    return false;
  }

  /** Forget what was loaded, and begin again. */
  async restart() {
    this.root = new Node(null, null, 0);
    this.root.depth = -1;
    this.rows = [];
    this.at = 0;
    this.chosen = null;
    this.element.scrollTop = 0;
    put(this.space);
    this.elements.clear();
    await this.start();
  }
}
