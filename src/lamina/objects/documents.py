"""The small documents of the bucket as typed values (pure). Each one that is changed by comparison has a nonce:
storage compares contents by ETag, and the same contents at two times must differ."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from lamina.errors import LaminaError, StoreDamaged
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT, load

TOMBSTONE_SIZE = 64
"""A tag whose object is not larger is being removed: lists show sizes, so they can leave it out unread."""

HERE, CONDEMNED, REMOVING = "here", "condemned", "removing"


@dataclass(frozen=True)
class Run:
    """Parts of the same size, one after the other: ``count`` objects of ``size`` bytes, numbered from ``first``."""

    epoch: int
    first: int
    size: int
    count: int


Runs = tuple[Run, ...]


def total(runs: Runs) -> int:
    return sum(run.size * run.count for run in runs)


def with_part(runs: Runs, epoch: int, number: int, size: int) -> Runs:
    """Add a part at the end."""
    if runs:
        last = runs[-1]
        if (last.epoch, last.first + last.count, last.size) == (epoch, number, size):
            return (*runs[:-1], replace(last, count=last.count + 1))
    return (*runs, Run(epoch, number, size, 1))


def without_last(runs: Runs) -> Runs:
    """Remove the last part."""
    last = runs[-1]
    return runs[:-1] if last.count == 1 else (*runs[:-1], replace(last, count=last.count - 1))


def slices(runs: Runs, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """Return the parts that hold the bytes from ``start`` to ``end``: epoch, number, and the range in the part."""
    found = []
    at = 0
    for run in runs:
        length = run.size * run.count
        if at + length > start and at < end and run.size:
            first = max(0, start - at) // run.size
            last = (min(end, at + length) - at - 1) // run.size
            for index in range(first, last + 1):
                begin = at + index * run.size
                found.append((run.epoch, run.first + index, max(0, start - begin), min(run.size, end - begin)))
        at += length
    return found


@dataclass(frozen=True)
class Record:
    """A blob: its size, the upload that brought its bytes, and its state for gc."""

    size: int
    ident: str
    runs: Runs
    state: str = HERE

    def to_bytes(self) -> bytes:
        return _dump({"state": self.state, "size": self.size, "upload": self.ident, "parts": _listed(self.runs)})

    @classmethod
    def from_bytes(cls, raw: bytes, what: str) -> Record:
        """Raises StoreDamaged."""
        with _reading(what):
            value = _load(raw, what)
            found = cls(int(value["size"]), str(value["upload"]), _runs(value["parts"]), str(value["state"]))
            if found.size != total(found.runs) or found.state not in (HERE, CONDEMNED, REMOVING):
                raise ValueError("it contradicts itself")
            return found


@dataclass(frozen=True)
class Upload:
    """An upload: what was received. ``epoch`` counts the servers that have written to it; only the last one may.
    ``finishing``: the digest under which it is being published."""

    repository: str
    runs: Runs = ()
    epoch: int = 0
    finishing: str = ""
    removing: bool = False

    @property
    def size(self) -> int:
        return total(self.runs)

    def to_bytes(self) -> bytes:
        return _dump(
            {
                "repository": self.repository,
                "epoch": self.epoch,
                "parts": _listed(self.runs),
                "finishing": self.finishing,
                "removing": self.removing,
            }
        )

    @classmethod
    def from_bytes(cls, raw: bytes, what: str) -> Upload:
        """Raises StoreDamaged."""
        with _reading(what):
            value = _load(raw, what)
            return cls(
                str(value["repository"]),
                _runs(value["parts"]),
                int(value["epoch"]),
                str(value["finishing"]),
                bool(value["removing"]),
            )


@dataclass(frozen=True)
class Tag:
    """A tag; without a descriptor it is being removed."""

    descriptor: Descriptor | None = None
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))

    def to_bytes(self) -> bytes:
        if self.descriptor is None:
            return json.dumps({"gone": self.nonce}).encode()
        one = self.descriptor
        return json.dumps(
            {"mediaType": one.media_type, "digest": str(one.digest), "size": one.size, "nonce": self.nonce}
        ).encode()

    @classmethod
    def from_bytes(cls, raw: bytes, what: str) -> Tag:
        """Raises StoreDamaged."""
        with _reading(what):
            value = _load(raw, what)
            if "gone" in value:
                return cls(None, str(value["gone"]))
            digest = Digest.parse(str(value["digest"]))
            return cls(Descriptor(str(value["mediaType"]), digest, int(value["size"])), str(value["nonce"]))


def pack_manifest(media_type: str, raw: bytes) -> bytes:
    """Write a manifest with its media type: one line of JSON, then the bytes of the manifest."""
    return json.dumps({"mediaType": media_type}).encode() + b"\n" + raw


def unpack_manifest(data: bytes, what: str) -> tuple[str, bytes]:
    """Return the media type and the bytes of a manifest. Raises StoreDamaged."""
    head, newline, raw = data.partition(b"\n")
    with _reading(what):
        if not newline:
            raise ValueError("it has no header")
        return str(_load(head, what)["mediaType"]), raw


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps({**value, "nonce": secrets.token_hex(8)}).encode()


def _load(raw: bytes, what: str) -> dict[str, Any]:
    return load(raw, what, limit=4 * MAX_DOCUMENT)


def _listed(runs: Runs) -> list[list[int]]:
    return [[run.epoch, run.first, run.size, run.count] for run in runs]


def _runs(value: Any) -> Runs:
    runs = tuple(Run(*(int(number) for number in one)) for one in value)
    if any(run.count < 1 or min(run.epoch, run.first, run.size) < 0 for run in runs):
        raise ValueError("a part has a negative number")
    return runs


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn what reading a damaged document raises into StoreDamaged."""
    try:
        yield
    except (LaminaError, ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(f"{what} is damaged: {error}", hint="run `lamina fsck --storage URL`") from None
