"""The page in both themes and on a phone: it fits, can be read, hostile images stay text, long lists scroll."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from math import dist
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import lamina.serve
from explored import HOSTILE_NAMES

if TYPE_CHECKING:
    from explored import Visitor

STATIC = Path(lamina.serve.__file__).parent / "explorer/static"
WEB = "shop/web:1.4"
HOSTILE = "hostile:1"
VIEWS = (
    "",
    "?repository=shop/web",
    f"?image={WEB}",
    f"?image={WEB}&layer=6&hidden=1",
    f"?image={WEB}&path=/etc/passwd",
    f"?image={WEB}&view=sizes",
    f"?image={WEB}&view=waste",
    f"?image={WEB}&view=compare",
    f"?image={WEB}&view=compare&other=shop/web:1.5&path=/srv/app/main.py",
    f"?image={WEB}&view=details",
    f"?image={WEB}&view=search&q=py",
    "?view=search&q=py",
)

# texts whose contrast with what is behind them is below 4.5, or 3 if they are large
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const known = new Map();
  const rgb = (colour) => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      known.set(colour, [...canvas.getImageData(0, 0, 1, 1).data].map((one) => one / 255));
    }
    return known.get(colour);
  };
  const linear = (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const over = (top, below) => top.slice(0, 3).map((one, at) => one * top[3] + below[at] * (1 - top[3]));
  const behind = (element) => {
    const chain = [];
    for (let one = element; one; one = one.parentElement) chain.unshift(rgb(getComputedStyle(one).backgroundColor));
    return chain.reduce((below, top) => over(top, below), [1, 1, 1]);
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('svg, noscript, option, script')) continue;
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const style = getComputedStyle(element);
    let opacity = 1;
    for (let one = element; one; one = one.parentElement) opacity *= Number(getComputedStyle(one).opacity);
    const back = behind(element);
    const ink = rgb(style.color);
    const shown = luminance(over([...ink.slice(0, 3), ink[3] * opacity], back));
    const [low, high] = [shown, luminance(back)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
    const text = walker.currentNode.data.trim().slice(0, 30);
    if (ratio < (isLarge ? 3 : 4.5)) bad.push(`${text} ${ratio.toFixed(2)} ${element.className}`);
  }
  return [...new Set(bad)];
}"""


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desk", "phone"])
def test_every_view_fits_and_can_be_read(visitors: Callable[..., Visitor], options: dict[str, Any]) -> None:
    """In the light theme and in the dark one, on a screen and on a phone that is 360 pixels wide."""
    visitor = visitors(**options)
    for query in VIEWS:
        page = visitor.see(query)
        if "layer=" in query and options:
            page.get_by_role("button", name="Show the layers").click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{query} scrolls sideways"
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            assert page.evaluate(CONTRAST) == [], (query, theme)
        page.emulate_media(color_scheme="light")
        unnamed = page.eval_on_selector_all(
            "button, a, input, select, [role=tree], nav, aside",
            """all => all.filter(e => e.checkVisibility())
              .filter(e => !(e.getAttribute('aria-label') || e.innerText?.trim() || e.labels?.length))
              .map(e => e.outerHTML.slice(0, 80))""",
        )
        assert unnamed == [], query
        assert page.locator("main").count() == 1
        assert page.locator("header").count() == 1
        assert page.eval_on_selector_all("[id]", "all => all.length === new Set(all.map(e => e.id)).size"), (
            f"{query}: ids are not unique"
        )


def test_touch(visitors: Callable[..., Visitor]) -> None:
    visitor = visitors(**PHONE)
    page = visitor.image()
    assert page.locator("[role=treeitem]").first.bounding_box()["y"] < 600, "the stack is folded, files are in reach"
    page.get_by_role("button", name="Show the layers").tap()
    page.locator(".layers .pick").nth(1).tap()
    page.locator("#chosen-layer").get_by_text("COPY models/").wait_for()
    visitor.settled()
    page.locator("[role=treeitem]").filter(has_text="README.md").tap()
    page.locator(".side.open").get_by_text("Trained on").wait_for()
    page.locator(".side").get_by_role("button", name="Close").tap()
    page.locator(".side.open").wait_for(state="detached")
    small = page.eval_on_selector_all(
        ".layers .pick, .tree .row, .side button, .top button",
        "all => all.filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 36).length",
    )
    assert small == 0, "fingers find it"


def test_the_theme_follows_the_system_and_a_choice_is_remembered(visitors: Callable[..., Visitor]) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    visitor = visitors(own=True, color_scheme="dark")
    page = visitor.see()
    dark = page.evaluate(background)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    assert dark != light
    page.get_by_role("button", name="Use the dark theme").click()
    assert page.evaluate(background) == dark
    page.reload()
    visitor.settled()
    assert page.evaluate(background) == dark
    page.get_by_role("button", name="Use the light theme").click()
    assert page.evaluate(background) == light


def test_nothing_moves_for_those_who_want_that(visitors: Callable[..., Visitor]) -> None:
    page = visitors(reduced_motion="reduce").image()
    assert page.locator(".slab").first.evaluate("one => getComputedStyle(one).transitionDuration") == "0s"


def test_the_page_can_be_printed(visitor: Visitor) -> None:
    page = visitor.image(path="/etc/passwd")
    page.emulate_media(media="print")
    assert not page.locator("header").is_visible()
    assert page.locator(".slab").first.is_visible()
    assert page.pdf()[:4] == b"%PDF"


def test_hostile_names_stay_text(visitor: Visitor) -> None:
    page = visitor.image(HOSTILE, path="/names", hidden="1")
    names = page.locator("[role=treeitem][aria-level='2'] .what .name").all_text_contents()
    assert "<img src=x onerror=alert(1)>" in names
    assert "new\\x0aline" in names
    assert "bell\\x07\\x1b[31mred" in names
    assert "\\u202egnp.exe" in names
    assert "zero\\u200bwidth" in names
    assert "non\\xa0breaking" in names
    assert any(name.startswith("not utf-8 \\xff") for name in names)
    assert len(names) == len(HOSTILE_NAMES)
    assert all(name.isprintable() for name in names)
    for at in range(len(HOSTILE_NAMES)):
        row = page.locator("[role=treeitem][aria-level='2']").nth(at)
        row.scroll_into_view_if_needed()
        page.evaluate("at => document.querySelectorAll(\"[role=treeitem][aria-level='2']\")[at].click()", at)
        visitor.settled()
        page.locator(".side .text").wait_for()
        assert "content of" in page.locator(".side .text").inner_text()
        assert page.locator(".moment").count() >= 1
    assert page.locator("main img, main script, main iframe, main object").count() == 0


HOSTILE_VIEWS = (
    "&view=details",
    "&view=sizes",
    "&view=waste",
    "&view=search&q=*",
    "&view=compare&other=debian:13",
    "&path=/content.html",
    "&path=/picture.svg",
    "&path=/liar.png",
    "&path=/links/html",
    "&path=/program",
    "&path=/empty",
    "&path=/" + "/".join(f"deep{at}" for at in range(60)) + "/end",
    "&path=%3Cimg%20src=x%20onerror=alert(1)%3E",
    "&view=search&q=%3Cimg%20src=x%20onerror=alert(1)%3E",
    "&view=%3Cimg%3E&layer=%3Cimg%3E&platform=&node=%3Cimg%3E&hidden=%3Cimg%3E&kind=%3Cimg%3E&path_b64=%3Cimg%3E",
)


def test_hostile_content_stays_text(visitor: Visitor) -> None:
    for more in HOSTILE_VIEWS:
        page = visitor.see(f"?image={HOSTILE}{more}")
        unwanted = page.locator("main script, main iframe, main object, main embed, main img:not(.picture)")
        assert unwanted.count() == 0, more
        assert page.evaluate(
            "[...document.querySelectorAll('*')].every(e => ![...e.attributes].some(a => a.name.startsWith('on')))"
        ), more
    visitor.wrong = [one for one in visitor.wrong if "Failed to load resource" not in one]


def test_fifty_thousand_entries_scroll(visitor: Visitor) -> None:
    page = visitor.image("many:1")
    visitor.focus_tree()
    page.keyboard.press("ArrowRight")
    page.locator("[role=treeitem]").filter(has_text="entry-00000").wait_for()
    visitor.requests.clear()
    page.keyboard.press("End")
    page.locator("[role=treeitem]").filter(has_text="zebra").wait_for()
    assert visitor.at == "zebra"
    assert page.locator("[role=treeitem]").count() < 120, "only what is seen has elements"
    for share, width in ((0.25, 1440), (0.5, 1440), (0.75, 360)):
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate(
            "share => { const t = document.querySelector('.tree'); t.scrollTop = t.scrollHeight * share; }", share
        )
        page.locator("[role=treeitem]").filter(has_text=f"entry-{int(50_001 * share) // 10:04d}").first.wait_for()
        visitor.settled()
        assert page.locator("[role=treeitem]").count() < 120
    assert len(visitor.requests) <= 12, "and only that is asked for"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.type("entry-3217")
    page.locator("[role=treeitem].at").filter(has_text="entry-32170").wait_for()
    assert len(visitor.requests) <= 25, "a name is found by halving"
    visitor.image("many:1", path="/many/entry-43210")
    assert page.locator("[role=treeitem][aria-selected=true] .what").inner_text() == "entry-43210"


# the files of the page


def test_no_file_of_the_page_parses_text_as_html_or_asks_elsewhere() -> None:
    files = sorted(STATIC.iterdir())
    assert {file.suffix for file in files} <= {".html", ".css", ".js", ".svg", ".ico", ".png"}
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|setAttribute\(\"style\"|srcdoc"
        r"|https?://(?!www\.w3\.org/2000/svg)|@import|url\(",
    )
    for file in files:
        if file.suffix in (".html", ".css", ".js", ".svg"):
            text = file.read_text(encoding="utf-8")
            assert not forbidden.search(text), file.name
            if file.suffix == ".html":
                assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", text)
    assert sum(file.stat().st_size for file in files) < 250_000


# Machado, Oliveira and Fernandes (2009): how linear RGB looks to people who lack one kind of cone
SIGHT = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def oklab(colour: str, sight: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    """A colour as somebody sees it, in a space where distances are differences (Ottosson, 2020)."""
    values = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in values]
    red, green, blue = (max(0, sum(map(mul, row, linear))) for row in sight)
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    middle = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", [0, 1])
def test_colours_of_layers_differ_for_everyone(sight: str, theme: int) -> None:
    style = (STATIC / "page.css").read_text()
    pairs = re.findall(r"--c\d: light-dark\((#\w{6}), (#\w{6})\)", style)
    seen = [oklab(pair[theme], SIGHT[sight]) for pair in pairs]
    assert len(seen) == 8
    for one, other in combinations(range(8), 2):
        neighbours = other - one in (1, 7)
        assert dist(seen[one], seen[other]) > (0.12 if neighbours else 0.07), (pairs[one], pairs[other])


def test_all_modules_are_asked_for_at_once() -> None:
    page = (STATIC / "index.html").read_text()
    modules = {file.name for file in STATIC.iterdir() if file.suffix == ".js"} - {"main.js", "theme.js"}
    assert set(re.findall(r'modulepreload" href="/explore/static/([a-z]+\.js)"', page)) == modules


def test_layouts_are_true(visitor: Visitor) -> None:
    page = visitor.see()
    wrong = page.evaluate(
        """async () => {
          const { squarify } = await import('/explore/static/squarify.js');
          const { thicknesses } = await import('/explore/static/slabs.js');
          const wrong = [];
          let seed = 7;
          const chance = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
          for (let round = 0; round < 300; round += 1) {
            const size = () => ({ size: Math.floor(chance() ** 6 * 1e9) - 3 });
            const items = Array.from({ length: Math.floor(chance() * 60) }, size);
            const box = { x: 5, y: 7, width: chance() * 900 + 1, height: chance() * 600 + 1 };
            const placed = squarify(items, box);
            const total = items.reduce((sum, one) => sum + Math.max(0, one.size), 0);
            if (placed.length !== (total ? items.filter((one) => one.size > 0).length : 0)) wrong.push('count');
            for (const one of placed) {
              const share = (one.width * one.height) / (box.width * box.height);
              if (Math.abs(share - one.item.size / total) > 1e-6) wrong.push('area');
              if (one.x < box.x - 1e-6 || one.x + one.width > box.x + box.width + 1e-6) wrong.push('x');
              if (one.y < box.y - 1e-6 || one.y + one.height > box.y + box.height + 1e-6) wrong.push('y');
            }
            const area = placed.reduce((sum, one) => sum + one.width * one.height, 0);
            if (total && Math.abs(area / (box.width * box.height) - 1) > 1e-6) wrong.push('gap');
            const sizes = items.map((one) => Math.max(0, one.size));
            const thick = thicknesses(sizes, 300, 5);
            if (thick.some((one) => one < 5 - 1e-9)) wrong.push('thin');
            const height = thick.reduce((a, b) => a + b, 0);
            if (total && Math.abs(height - Math.max(300, sizes.length * 5)) > 1e-6) wrong.push('height');
            for (const [a, one] of sizes.entries()) for (const [b, other] of sizes.entries())
              if (one > other && thick[a] < thick[b] - 1e-9) wrong.push('order');
          }
          return wrong;
        }"""
    )
    assert wrong == []
