"""HTML for notebooks: well formed, small, and without markup from the image."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.image import Image, Layer
from lamina.insight.change import Change
from lamina.insight.compare import Diff
from lamina.insight.config_diff import ConfigChange, StepChange
from lamina.insight.html import MOST_CHANGES, MOST_LAYERS, MOST_OTHERS
from lamina.insight.side import Side
from lamina.layer.entry import Entry, Kind
from lamina.source.stack import Stack
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import History, ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform

TAGS = {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td"}
STYLES = {("style", "text-align:right"), ("style", "text-align:left")}
HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onclick='alert(1)",
    "&lt;b&gt;&#60;b&#62;",
    "<!-- ",
    "]]><![CDATA[",
    "\x1b[2J\x07\x00\r\n\x85\u2028\u2029",
    "\u202egnp.exe \u2066\u2069\u200f\u061c",
    "caf\udce9",
    "$\\href{javascript:alert(1)}{x}$",
    "x" * 5000,
    "<" * 5000,
]


class Checked(HTMLParser):
    """Raises for tags that are not nested, and for unknown tags and attributes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in TAGS
        assert set(attrs) <= (STYLES if self.open else {("class", "tex2jax_ignore mathjax_ignore")}), attrs
        assert tag != "div" or not self.open
        self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert self.open
        assert data.isprintable(), data
        data.encode("utf-8")
        self.words.append(data)

    def _never(self, *found: object) -> None:
        raise AssertionError(found)

    handle_startendtag = handle_comment = handle_decl = handle_pi = unknown_decl = _never  # type: ignore[assignment]


def checked(one: object) -> Checked:
    text = one._repr_html_()  # type: ignore[attr-defined]
    parser = Checked()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert len(text) < 200_000
    return parser


class Handle:
    """A layer that must be shown without reading it."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.diff_id = Digest.of(b"tar of " + str(descriptor.digest).encode())

    def index(self) -> Any:
        raise AssertionError("read")

    def open(self, start: int = 0, end: int | None = None) -> Any:
        raise AssertionError("read")


def made(name: str, words: list[str], first: int = 1) -> Image:
    """An image with these words in its history."""
    handles = [Handle(Descriptor.of(mediatype.OCI_LAYER_GZIP, str(n).encode())) for n in range(len(words))]
    steps = [History(created="2024-01-01T00:00:00Z", created_by=word) for word in words]
    config = ImageConfig.build(Platform.host(), diff_ids=[handle.diff_id for handle in handles])
    manifest = build_manifest(config.descriptor, [handle.descriptor for handle in handles])
    cut = slice(first - 1, None)
    return Image(Stack(name, manifest, config, tuple(handles[cut]), tuple(steps[cut]), first))  # type: ignore[arg-type]


def diff_of(changes: list[Change], config: Any = (), history: Any = (), name: str = "a") -> Diff:
    sides = Side(name, []), Side(name, [])
    return Diff(*sides, b"", tuple(changes), tuple(config), tuple(history))


def entry(path: bytes, **more: Any) -> Entry:
    return Entry(path, Kind.FILE, **more)


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_names_and_texts_are_escaped_in_html(word: str) -> None:
    raw = word.encode("utf-8", "surrogateescape")
    link = Entry(raw, Kind.SYMLINK, link=raw)
    changes = [
        Change("added", raw, None, entry(raw)),
        Change("renamed", raw, entry(raw + b"2"), entry(raw)),
        Change("changed", raw, link, Entry(raw, Kind.SYMLINK, link=raw + b"3"), ("target",)),
    ]
    config = [ConfigChange(f"config.Env.{word}", word, [word, {word: word}])]
    diff = diff_of(changes, config, [StepChange("added", History(created_by=word))], name=word)
    image = made(word, [word, word])
    for one in (diff, image, *image.layers, image.layers[0].__class__(image.layers[0].handle, 1, None)):
        parser = checked(one)
        assert max(map(len, parser.words)) <= 250
    if word.startswith("<script>"):
        assert word in checked(image).words
        assert "/" + word in checked(diff).words
    if word == "caf\udce9":
        assert "/caf\\xe9" in checked(diff).words
    if word.startswith("\u202e"):
        assert "\\u202egnp.exe \\u2066\\u2069\\u200f\\u061c" in checked(image).words


@given(st.text(), st.binary())
def test_any_names_and_texts_give_valid_html(text: str, raw: bytes) -> None:
    checked(diff_of([Change("added", raw, None, entry(raw))], [ConfigChange(text, text, None)], name=text))
    checked(made(text, [text]))


def test_the_size_of_an_html_report_is_limited() -> None:
    many = [Change("removed", b"%d" % n, entry(b"%d" % n), None) for n in range(46_000)]
    config = [ConfigChange(f"config.Labels.{n}", None, "x" * 100_000) for n in range(50)]
    history = [StepChange("removed", History(created_by=f"step {n}")) for n in range(1000)]
    parser = checked(diff_of(many, config, history))
    assert "46,000 removed, 50 differences of config, 1,000 steps of history" in parser.words
    assert [word for word in parser.words if word.startswith("and ")] == [
        f"and {46_000 - MOST_CHANGES:,} more",
        f"and {50 - MOST_OTHERS} more",
        f"and {1000 - MOST_OTHERS} more",
    ]
    assert parser.rows == 3 + MOST_CHANGES + 2 * MOST_OTHERS
    assert f"and {400 - MOST_LAYERS} more" in checked(made("deep", ["step"] * 400)).words


def test_a_diff_has_the_same_values_as_the_command() -> None:
    one = Change(
        "changed", b"etc/x", entry(b"etc/x", size=3), entry(b"etc/x", size=5, mode=0o600), ("content", "mode")
    )
    parser = checked(diff_of([one]))
    assert parser.words[-3:] == ["C", "/etc/x", "content (3 to 5 bytes), mode (0644 to 0600)"]
    assert checked(diff_of([])).words[-1] == "the same files"
    renamed = Change("renamed", b"b", entry(b"a"), entry(b"b"))
    assert "/a -> /b" in checked(diff_of([renamed])).words


def test_an_image_shows_its_layers_and_a_range_its_numbers() -> None:
    image = made("app", ["FROM base", "RUN x"])
    words = checked(image).words
    assert words[0] == "app"
    assert words[-4:] == ["2", image.layers[1].digest.short, "1B", "RUN x"]
    assert str(image.digest) in words
    assert "2 to 2 of 2" in checked(made("app", ["FROM base", "RUN x"], first=2)).words
    layer = checked(Layer(image.layers[0].handle, 1, None)).words
    assert layer[0] == "layer 1"
    assert layer[-1] == "not recorded"
    assert str(image.layers[0].diff_id) in layer
