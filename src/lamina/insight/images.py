"""The list of images in the store: a summary of each, from its manifest and config only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from lamina.errors import InvalidContent, NotFound, Unsupported, UsageError
from lamina.source.select import find_manifest, read_config
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.store.store import Store

FILTERS = ("reference", "dangling", "label", "before", "since", "until")


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """One image. ``name`` is canonical, "" for an untagged image. ``size`` is the bytes of manifest, config and
    layers as stored. ``id`` is the config's digest (None: the manifest for the platform was never fetched)."""

    name: str
    digest: Digest
    id: Digest | None
    created: str | None
    size: int
    layers: int
    platform: str
    labels: dict[str, str]
    artifact: str | None = None

    @property
    def reference(self) -> Reference | None:
        return Reference.parse(self.name) if self.name else None


def summaries(store: Store, platform: Platform) -> Iterator[ImageSummary]:
    """Yield a summary for each name and each untagged image. What can't be read is an image without an ID: `lamina
    fsck` reports why."""
    for name, descriptor in store.names():
        yield summarise(store, name, descriptor, platform)


def summarise(store: Store, name: str, descriptor: Descriptor, platform: Platform) -> ImageSummary:
    """Summarise one image; a damaged or incomplete one has no ID. Raises SystemFailure."""
    try:
        manifest = find_manifest(store, descriptor, platform, name or str(descriptor.digest))
    except (NotFound, InvalidContent, Unsupported):
        return ImageSummary(name, descriptor.digest, None, None, descriptor.size, 0, "", {})
    size = manifest.descriptor.size + manifest.config.size + sum(layer.size for layer in manifest.layers)
    if not manifest.is_image:
        kind = manifest.artifact_type or manifest.config.media_type
        return ImageSummary(
            name, descriptor.digest, manifest.config.digest, None, size, len(manifest.layers), "", {}, kind
        )
    try:
        config = read_config(store, manifest, name or str(descriptor.digest))
    except (NotFound, InvalidContent):
        return ImageSummary(name, descriptor.digest, None, None, size, len(manifest.layers), "", {})
    return ImageSummary(
        name,
        descriptor.digest,
        manifest.config.digest,
        config.created,
        size,
        len(manifest.layers),
        str(config.platform),
        dict(config.labels),
    )


def select_images(
    found: Iterable[ImageSummary], *, patterns: Iterable[str] = (), filters: Iterable[str] = ()
) -> list[ImageSummary]:
    """docker's ``--filter key=value``: the same key several times is "or" for reference, "and" for all others.

    Raises UsageError for a filter that is not known, NotFound where before= or since= names no image.
    """
    images = list(found)
    globs = list(patterns)
    tests = []
    for text in filters:
        key, equals, value = text.partition("=")
        if key not in FILTERS or not equals:
            raise UsageError(
                f"not a filter: {text!r:.200}", hint="use one of: " + ", ".join(f"{k}=..." for k in FILTERS)
            )
        if key == "reference":
            globs.append(value)
        else:
            tests.append((key, value))
    kept = images
    if globs:
        kept = [image for image in kept if any(_matches(image, glob) for glob in globs)]
    for key, value in tests:
        if key == "dangling":
            if value not in ("true", "false", "1", "0"):
                raise UsageError(
                    f"{value!r:.60} is not a value for dangling", hint="use dangling=true or dangling=false"
                )
            kept = [image for image in kept if (not image.name) == (value in ("true", "1"))]
        elif key == "label":
            label, has_value, wanted = value.partition("=")
            kept = [i for i in kept if label in i.labels and (not has_value or i.labels[label] == wanted)]
        else:
            kept = _by_time(key, value, kept, images)
    return kept


def sort_images(found: list[ImageSummary], by: str) -> list[ImageSummary]:
    """Sort images in podman's orders: "created" (newest first), "size" (largest first), "id", "repository" or "tag";
    then by name."""
    found = sorted(found, key=lambda image: image.name)
    if by == "created":
        return sorted(found, key=lambda image: image.created or "", reverse=True)
    if by == "size":
        return sorted(found, key=lambda image: image.size, reverse=True)
    if by == "id":
        return sorted(found, key=lambda image: str(image.id or ""))
    if by == "tag":
        return sorted(found, key=lambda image: (image.reference.tag if image.reference else None) or "")
    return found


def _matches(image: ImageSummary, pattern: str) -> bool:
    reference = image.reference
    if reference is None:
        return False
    familiar = reference.familiar
    repository = familiar.partition("@")[0]
    if reference.tag:
        repository = repository.rpartition(":")[0]
    return any(fnmatchcase(text, pattern) for text in (familiar, repository, image.name))


def _is_meant(image: ImageSummary, word: str) -> bool:
    """Whether a word means this image: a name, or the beginning of its ID or digest."""
    if image.name and _matches(image, word):
        return True
    digits = word.removeprefix("sha256:")
    known = (image.digest.encoded, image.id.encoded if image.id else "")
    return len(digits) >= 4 and any(one.startswith(digits) for one in known)


def _by_time(key: str, value: str, kept: list[ImageSummary], images: list[ImageSummary]) -> list[ImageSummary]:
    from lamina.spec.image_config import parse_time

    if key == "until":
        limit = parse_time(value)
        if limit is None:
            raise UsageError(f"{value!r:.60} is not a time for until", hint="give one like 2026-01-31T12:00:00Z")
    else:
        base = next((image for image in images if _is_meant(image, value)), None)
        if base is None:
            raise NotFound(f"{key}={value}: no such image", hint="list images with `lamina images`")
        limit = parse_time(base.created)
    out = []
    for image in kept:
        created = parse_time(image.created)
        if created is None or limit is None:
            continue
        if (created > limit) if key == "since" else (created < limit):
            out.append(image)
    return out
