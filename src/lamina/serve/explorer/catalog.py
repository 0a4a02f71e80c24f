"""All images of the repositories in short: which layers each has. Which images share a layer, and which are searched,
is read from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lamina.errors import LaminaError
from lamina.insight.layer_report import sharers_among
from lamina.serve.explorer.gallery import Gallery, Place
from lamina.serve.explorer.opened import Choices, Chosen
from lamina.serve.explorer.work import Working
from lamina.serve.permit import Permit
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from typing import Any

    from lamina.serve.explorer.work import Progress, Work
    from lamina.source.protocols import Reader
    from lamina.spec.descriptor import Descriptor

MAX_IMAGES = 5000
SECONDS = 30.0
"""The time after which no more images are looked at."""
FRESH = 20.0
"""Seconds after which names are looked up again."""
MAX_SHARERS = 50


@dataclass(frozen=True)
class Listed:
    """An image with its layers: descriptors and diff_ids."""

    image: str
    repository: str
    digest: Digest
    platform: str
    layers: tuple[tuple[Descriptor, Digest], ...]
    reader: Reader


@dataclass(frozen=True)
class Catalog:
    """``complete`` is False if there are more images than were looked at."""

    images: tuple[Listed, ...]
    complete: bool
    turn: int = 0


class Catalogs:
    """Makes the catalog, and keeps it for a short time. What a digest stands for is kept longer: it never changes."""

    def __init__(self, gallery: Gallery, choices: Choices, work: Work) -> None:
        self._gallery = gallery
        self._choices = choices
        self._work = work
        self._known: dict[tuple[str, Digest], Listed | None] = {}
        self._guard = threading.Lock()
        self._turn = 0
        self._last: tuple[float, Catalog] | None = None
        """When the catalog of the last turn was made."""

    def all(self) -> Catalog:
        """Return the catalog: an older one while a new one is made. Raises Working, Busy."""
        with self._guard:
            last = self._last
            if last is not None and time.monotonic() > last[0] + FRESH and last[1].turn == self._turn:
                self._turn += 1
            turn = self._turn
        try:
            return self._work.get(("catalog", turn), lambda progress: self._read(progress, turn))
        except Working:
            if last is None:
                raise
            return last[1]

    def _read(self, progress: Progress, turn: int) -> Catalog:
        gallery, found = self._gallery, []
        until = time.monotonic() + SECONDS
        known: dict[tuple[str, Digest], Listed | None] = {}
        complete = True
        progress.begin("listing the images")
        for image in gallery.named:
            found.append(self._listed(gallery.named[image], known))
        place = gallery.repositories_of_place
        for repository in place.names() if place is not None else ():
            progress.cancel.check()
            if len(found) >= MAX_IMAGES or time.monotonic() > until:
                complete = False
                break
            try:
                tags = place.tags(repository) if place is not None else []
            except LaminaError:
                continue
            for tag in tags[: MAX_IMAGES - len(found)]:
                found.append(self._listed(partial(gallery.in_repository, repository, tag), known))
                progress.done += 1
        self._known = known
        catalog = Catalog(tuple(one for one in found if one is not None), complete, turn)
        with self._guard:
            self._last = time.monotonic(), catalog
        return catalog

    def _listed(self, find: Callable[[], Place], known: dict[tuple[str, Digest], Listed | None]) -> Listed | None:
        try:
            place = find()
            key = (place.image, place.descriptor.digest)
            if key in self._known:
                known[key] = self._known[key]
                return known[key]
            chosen: Chosen = self._choices.choose(place)
            if not chosen.manifest.is_image:
                known[key] = None
                return None
            config = chosen.config
        except LaminaError:
            return None
        layers = tuple(zip(chosen.manifest.layers, config.diff_ids, strict=True))
        high = len(layers) if place.high is None else place.high
        one = known[key] = Listed(
            place.image,
            place.repository,
            chosen.manifest.descriptor.digest,
            str(config.platform),
            layers[place.low - 1 : high],
            place.reader,
        )
        return one


def visible(catalog: Catalog, permit: Permit) -> list[Listed]:
    """Return the images that a permit allows."""
    allowed: dict[str, bool] = {"": True}
    found = []
    for one in catalog.images:
        if one.repository not in allowed:
            allowed[one.repository] = permit.may_pull(one.repository)
        if allowed[one.repository]:
            found.append(one)
    return found


def sharing(catalog: Catalog, chosen: Chosen, permit: Permit) -> dict[str, Any]:
    """Return for each layer of an image the other images that have it, as far as the permit allows them."""
    images = visible(catalog, permit)
    sharers = sharers_among(
        ((one.image, one.digest, [diff_id for _, diff_id in one.layers]) for one in images),
        chosen.manifest.descriptor.digest,
    )
    place = chosen.place
    high = len(chosen.config.diff_ids) if place.high is None else place.high
    layers = []
    for number, diff_id in enumerate(chosen.config.diff_ids, 1):
        if place.low <= number <= high:
            names = sharers.get(diff_id, ())
            layers.append(
                {
                    "number": number,
                    "diff_id": str(diff_id),
                    "count": len(names),
                    "images": list(names[:MAX_SHARERS]),
                }
            )
    return {"layers": layers, "images": len(images), "complete": catalog.complete}
