"""Images and containers as rows of tables, templates and docker's JSON (pure)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lamina.cli.format.template_record import Record
from lamina.cli.format.text import ago, human_size
from lamina.spec.image_config import parse_time
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.insight.images import ImageSummary

HEADINGS = {
    # headings of `table {{...}}` that are not made from the name of the field
    "CreatedSince": "CREATED",
    "CreatedBy": "CREATED BY",
    "RunningFor": "CREATED",
    "DiffID": "DIFF ID",
}
IMAGE_HEADINGS = HEADINGS | {"ID": "IMAGE ID"}
CONTAINER_HEADINGS = HEADINGS | {"ID": "CONTAINER ID", "LocalVolumes": "LOCAL VOLUMES"}


def age(created: str | None, now: float) -> str:
    """Format the age of a time stamp as docker does; "N/A" if there is none."""
    moment = parse_time(created)
    return "N/A" if moment is None else ago(now - moment.timestamp())


def moment_text(seconds: float) -> str:
    """Format a time as docker does, in the time zone of this host."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "N/A"


def created_text(created: str | None) -> str:
    moment = parse_time(created)
    return "N/A" if moment is None else moment_text(moment.timestamp())


def image_record(image: ImageSummary, now: float, *, no_trunc: bool) -> Record:
    """Return the row of an image: docker's fields, and lamina's own, which are not in docker's JSON."""
    reference, ident = image.reference, image.id
    repository = repository_of(reference) if reference else "<none>"
    tag = (reference.tag if reference else None) or "<none>"
    size = human_size(image.size)
    labels = image.labels
    return Record(
        {
            "Containers": "N/A",
            "CreatedAt": created_text(image.created),
            "CreatedSince": age(image.created, now),
            "Digest": str(image.digest),
            "ID": "<not here>" if ident is None else str(ident) if no_trunc else ident.short,
            "Repository": repository,
            "SharedSize": "N/A",
            "Size": size,
            "Tag": tag,
            "UniqueSize": "N/A",
        },
        {
            "Created": image.created or "",
            "Name": reference.familiar if reference else "<none>",
            "Layers": image.layers,
            "Platform": image.platform,
            "Labels": labels_text(labels),
            "VirtualSize": size,
        },
        {"Label": lambda name: labels.get(str(name), "")},
    )


def labels_text(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def repository_of(reference: Reference) -> str:
    """Return the short name without tag and digest."""
    familiar = reference.familiar
    if reference.digest:
        familiar = familiar.partition("@")[0]
    return familiar.rpartition(":")[0] if reference.tag else familiar


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
