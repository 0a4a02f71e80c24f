"""The Link header of the next page, as registries write it."""

from __future__ import annotations

import pytest

from lamina.errors import RemoteFailure
from lamina.remote.link import MAX_LINK, next_page


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        ([""], None),
        (['</v2/a/tags/list?last=b>; rel="next"'], "/v2/a/tags/list?last=b"),
        (['/v2/a/tags/list?n=2&last=b; rel="next"'], "/v2/a/tags/list?n=2&last=b"),
        (["/v2/a/tags/list?last=b"], "/v2/a/tags/list?last=b"),
        (["</v2/a/tags/list?last=b>"], "/v2/a/tags/list?last=b"),
        (["<x>; rel=next"], "x"),
        (['<x>; REL="Next"'], "x"),
        (['<x>; title="a; b, c"; rel="next"'], "x"),
        (['<x>; rel="last next"'], "x"),
        (['<?last=b&x=1,2>; rel="next"'], "?last=b&x=1,2"),
        (['<a>; rel="prev", <b>; rel="next"'], "b"),
        (['<a>; rel="prev",<b>; rel="next"'], "b"),
        (['<a>; rel="first"', '<b>; rel="next"'], "b"),
        (['<a>; rel="prev"'], None),
        (['<a>; rel=""'], None),
        (["<a>; rel"], None),
    ],
)
def test_next_page_is_found(headers: list[str], found: str | None) -> None:
    assert next_page(headers, "tags") == found


@pytest.mark.parametrize(
    "header", ["<", "<x", '<x> rel="next"', "; rel=next", "<x>; =y", "<" * 100, "x" * (MAX_LINK + 1)]
)
def test_header_that_can_not_be_read_is_an_error_and_not_the_end(header: str) -> None:
    with pytest.raises(RemoteFailure, match="is invalid"):
        next_page([header], "tags")
