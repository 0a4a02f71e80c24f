"""Parsing of request paths and ranges, by table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.serve.ranges import Unsatisfiable, parse_chunk, parse_range
from lamina.serve.routes import ApiError, next_page, parse_target, wanted_page

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("target", "kind", "name", "rest"),
    [
        ("/v2/", "base", "", ""),
        ("/v2", "base", "", ""),
        ("/v2/_catalog?n=5", "catalog", "", ""),
        ("/v2/a/manifests/1", "manifest", "a", "1"),
        (f"/v2/a/b/manifests/{DIGEST}", "manifest", "a/b", DIGEST),
        (f"/v2/a/blobs/{DIGEST}", "blob", "a", DIGEST),
        ("/v2/a/blobs/sha256%3Aabc", "blob", "a", "sha256:abc"),
        ("/v2/a/blobs/uploads", "uploads", "a", ""),
        ("/v2/a/blobs/uploads/", "uploads", "a", ""),
        ("/v2/a/blobs/uploads/xyz", "upload", "a", "xyz"),
        ("/v2/a/tags/list", "tags", "a", ""),
        (f"/v2/a/referrers/{DIGEST}", "referrers", "a", DIGEST),
        ("/v2/manifests/manifests/manifests", "manifest", "manifests", "manifests"),
        ("/v2/blobs/uploads/blobs/uploads/", "uploads", "blobs/uploads", ""),
    ],
)
def test_routes(target: str, kind: str, name: str, rest: str) -> None:
    route = parse_target(target)
    assert (route.kind, route.name, route.rest) == (kind, name, rest)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404),
        ("/v1/a", 404),
        ("/v2/a", 404),
        ("/v2/a/tags/other", 404),
        ("/v2/A/tags/list", 400),
        ("/v2/../../etc/manifests/passwd", 400),
        ("/v2/a//b/manifests/1", 400),
        ("/v2/%00/manifests/1", 400),
        (f"/v2/{'a' * 300}/manifests/1", 400),
    ],
)
def test_unknown_paths_have_no_route(target: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        parse_target(target)
    assert caught.value.status == status


@given(st.text(max_size=80))
def test_any_text_is_a_route_or_an_error(text: str) -> None:
    try:
        parse_target("/v2/" + text)
    except (ApiError, ValueError):
        pass


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=5-", (5, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=9-5", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
    ],
)
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_ranges_outside(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, 100)


def test_chunks() -> None:
    assert parse_chunk(None) is None
    assert parse_chunk("0-99") == parse_chunk("bytes 0-99/*") == parse_chunk("bytes=0-99") == (0, 99)
    for text in ("99-0", "x", "0-", "-5"):
        with pytest.raises(ValueError, match=text):
            parse_chunk(text)


def test_pages() -> None:
    assert wanted_page({}) == ("", None)
    assert wanted_page({"n": ["2"], "last": ["b"]}) == ("b", 2)
    assert wanted_page({"n": ["999999999"]}) == ("", 10_000)
    assert next_page(["a", "b"], None, "/p") == (["a", "b"], "")
    assert next_page(["a", "b", "c"], 2, "/p") == (["a", "b"], '</p?n=2&last=b>; rel="next"')
    assert next_page(["c", "d"], 2, "/p") == (["c", "d"], "")
    assert next_page(["a"], 0, "/p") == ([], "")
    with pytest.raises(ApiError):
        wanted_page({"n": ["-1"]})
