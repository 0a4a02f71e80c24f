"""Search for names in one image, or in all images that somebody may see."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import NotFound, UsageError
from lamina.insight.as_json import entry_json
from lamina.serve.explorer.asked import Asked, Refused
from lamina.serve.explorer.cached_layer import CachedLayer
from lamina.serve.explorer.catalog import Listed
from lamina.serve.explorer.listing import state_json
from lamina.serve.explorer.opened import Images
from lamina.source.search import LayerMap, Query, Search, find_in
from lamina.text import json_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.layer.file_digests import LayerDigests
    from lamina.layer.index import LayerIndex
    from lamina.serve.explorer.work import Progress
    from lamina.source.protocols import LayerHandle, Reader
    from lamina.source.search_hits import Found

MAX_QUERY = 300
MAX_HITS = 10_000
SECONDS = 20.0
"""The time after which no more layers are read or searched."""
UNFINISHED = 30.0
"""Seconds that a result is kept if some images were not searched."""
MAX_GROUPS = 8
MAX_IMAGES_SHOWN = 20
MAX_SKIPPED = 50
MAX_READERS = 20
"""Images that are asked for a layer which they name."""


@dataclass(frozen=True)
class Result:
    """What a search found. ``images`` and ``layers`` were to be searched; ``platforms`` of images by name."""

    search: Search
    images: int
    layers: int
    platforms: dict[str, str]
    first: int


def query_of(asked: Asked) -> Query:
    """Return the query of a request. Raises Refused."""
    text = asked.needed("q", MAX_QUERY)
    kind, hidden = asked.choice("kind", "", "f", "d", "l"), asked.flag("hidden")
    regex = not any(one in text for one in "*?[")
    if text.count("[") > MAX_GROUPS:
        raise Refused(400, "bad_request", f"a pattern has at most {MAX_GROUPS} groups in brackets")
    try:
        pattern = "(?i)" + re.escape(text) if regex else text
        return Query.of(pattern, regex=regex, type=kind, ghosts=hidden)
    except UsageError as error:
        raise Refused(400, "bad_request", error.message, error.hint) from None


class _Indexes:
    """The indexes of layers, opened as long as there is time."""

    def __init__(self, layers: Sequence[LayerHandle], progress: Progress) -> None:
        self._layers = layers
        self._progress = progress
        self._until = time.monotonic() + SECONDS
        self._opened: set[int] = set()

    def open(self, number: int) -> LayerIndex:
        self._progress.cancel.check()
        if number not in self._opened and time.monotonic() > self._until:
            raise NotFound("there was no time to search it", hint="refine the search, or open the image once")
        layer = self._layers[number]
        if isinstance(layer, CachedLayer):
            layer.cancel = self._progress.cancel
        index = layer.index()
        self._opened.add(number)
        self._progress.done = len(self._opened)
        return index

    def digests(self, number: int, index: LayerIndex) -> LayerDigests:
        raise NotImplementedError  # contents are not searched


def search_images(
    found: Sequence[Listed], query: Query, images: Images, progress: Progress, *, first: int = 1
) -> Result:
    """Search images for names. ``first``: the number of the lowest layer."""
    numbers: dict[tuple[object, object], int] = {}
    layers: list[LayerHandle] = []
    readers: list[list[Reader]] = []
    known = LayerMap()
    for one in found:
        stack = []
        for descriptor, diff_id in one.layers:
            # by blob and diff_id: a config that states a false diff_id harms only its own image
            key = (descriptor.digest, diff_id)
            if key not in numbers:
                numbers[key] = len(layers)
                readers.append([])
                layers.append(images.layer(readers[-1], descriptor, diff_id))
                known.layers.append(diff_id)
            if len(readers[numbers[key]]) < MAX_READERS:  # an image may name a layer that its repository lacks
                readers[numbers[key]].append(one.reader)
            stack.append(numbers[key])
        known.stacks.setdefault(tuple(stack), []).append((one.image, str(one.digest)))
    progress.begin("searching", len(layers))
    result = find_in(known, query, _Indexes(layers, progress), most=MAX_HITS)
    return Result(result, len(found), len(layers), {one.image: one.platform for one in found}, first)


def search_page(result: Result, asked: Asked) -> dict[str, Any]:
    """Return a page of what was found. Raises Refused."""
    offset, limit = asked.page()
    hits = result.search.found
    total = min(len(hits), MAX_HITS)
    skipped = result.search.unread
    return {
        "q": asked.text("q"),
        "offset": offset,
        "total": total,
        "results": [_hit(hits[at], result) for at in range(offset, min(offset + limit, total))],
        "cut": result.search.cut or len(hits) > total,
        "searched": {"images": result.images - len(skipped), "layers": result.layers},
        "skipped": [{"image": name, "why": why} for name, why in skipped[:MAX_SKIPPED]],
        "complete": not skipped,
    }


def _hit(found: Found, result: Result) -> dict[str, Any]:
    more = result.first - 1
    return {
        **entry_json(found.entry),
        **json_text(found.entry.path.rpartition(b"/")[2], "name"),
        "diff_id": str(found.diff_id),
        "images": [
            {
                "image": place.name,
                "platform": result.platforms.get(place.name),
                "layer": more + place.layer,
                **(state_json() if place.by is None else state_json(more + place.by, place.state)),
            }
            for place in found.places[:MAX_IMAGES_SHOWN]
        ],
        "count": len(found.places),
    }
