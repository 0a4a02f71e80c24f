"""The directory of a mirror: verified blobs, and records of what each repository has.

::

    blobs/ALGORITHM/HEX                         a blob or a document, verified; its mtime is its last use
    parts/ALGORITHM-HEX                         a blob that is being fetched; its server holds a lock on it
    parts/*.tmp                                 a file that is being written: it must not be taken for a tag
    repositories/HOST/PATH/_links/ALGORITHM/HEX what the repository has: media type, size, and whether its registry
                                                said so of the blob itself
    repositories/HOST/PATH/_tags/TAG            what a tag pointed to, and when the registry said so
    repositories/HOST/PATH/_lists/NAME          lists that the registry gave: tags, referrers

Several servers may use one directory. Everything in it can be fetched again, so it may be deleted at any time, also
while a server runs.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lamina.errors import InvalidContent, UsageError
from lamina.host.files import FileRange, make_directory, remove, replace_file, reported
from lamina.host.spool import check_free_space, missing_space
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.reference import is_tag

MAX_MEMORY = 32 << 20
"""Bytes of documents that are kept in memory."""
_TOUCH = 60.0  # seconds: the last use is noted no more often
_LINKS, _TAGS, _LISTS = "_links", "_tags", "_lists"


@dataclass(frozen=True, slots=True)
class KnownTag:
    """What a tag pointed to when the registry was asked last, in seconds since the epoch."""

    descriptor: Descriptor
    checked: float

    def is_fresh(self, seconds: float) -> bool:
        return 0 <= time.time() - self.checked < seconds


@dataclass(frozen=True, slots=True)
class KnownBlob:
    """A blob or document that a repository has; ``proven`` as in ``Cache.link``."""

    descriptor: Descriptor
    proven: bool


class Cache:
    """One such directory."""

    def __init__(self, directory: str) -> None:
        """Open the directory; create it if it does not exist. Raises SystemFailure."""
        self.directory = directory
        self._parts = os.path.join(directory, "parts")
        self._memory: OrderedDict[Digest, bytes] = OrderedDict()
        self._memory_size = 0
        self._guard = threading.Lock()
        with reported(directory):
            for name in ("blobs", "parts", "repositories"):
                make_directory(os.path.join(directory, name))

    # blobs

    def path(self, digest: Digest) -> str:
        return os.path.join(self.directory, "blobs", digest.algorithm, digest.encoded)

    def part(self, digest: Digest) -> str:
        return os.path.join(self._parts, f"{digest.algorithm}-{digest.encoded}")

    def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None if it is not there."""
        try:
            return os.stat(self.path(digest)).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, digest: Digest, start: int = 0, end: int | None = None) -> FileRange | None:
        """Open a range of a blob, and note its use; None if it is not there. Raises SystemFailure."""
        path = self.path(digest)
        with reported(path):
            try:
                stream = FileRange(path, start, end)
            except (FileNotFoundError, NotADirectoryError):
                return None
        self._touch(path)
        return stream

    def take(self, part: str, digest: Digest) -> None:
        """Make a part file, which was verified and synced, the blob. Raises OSError."""
        target = self.path(digest)
        make_directory(os.path.dirname(target))
        os.replace(part, target)

    def check_room(self, size: int) -> None:
        """Raise DiskFull unless the disk has room for so many bytes more."""
        check_free_space(self.directory, size)

    def missing_room(self, size: int) -> int:
        """How many bytes have to be freed before the disk has room for so many more."""
        return missing_space(self.directory, size)

    # documents

    def document(self, descriptor: Descriptor) -> bytes | None:
        """The bytes of a manifest or index, verified; None if it is not there."""
        digest = descriptor.digest
        with self._guard:
            raw = self._memory.get(digest)
            if raw is not None:
                self._memory.move_to_end(digest)
        if raw is not None:
            self._touch(self.path(digest))
            return raw
        stream = self.open(digest)
        if stream is None:
            return None
        with stream:
            raw = stream.read(MAX_DOCUMENT + 1)
        try:
            descriptor.check(raw)
        except InvalidContent:
            if Digest.of(raw, digest.algorithm) != digest:  # an index may state a wrong size
                remove(self.path(digest))  # the disk has damaged it; it is fetched again
            return None
        self._remember(digest, raw)
        return raw

    def put_document(self, descriptor: Descriptor, raw: bytes) -> None:
        """Keep a manifest or index. Raises InvalidContent, Unsupported (algorithm), SystemFailure."""
        descriptor.check(raw)
        path = self.path(descriptor.digest)
        with reported(path):
            make_directory(os.path.dirname(path))
            replace_file(path, [raw], mode=0o444, within=self._parts)
        self._remember(descriptor.digest, raw)

    def _remember(self, digest: Digest, raw: bytes) -> None:
        with self._guard:
            if digest not in self._memory:
                self._memory[digest] = raw
                self._memory_size += len(raw)
            while self._memory_size > MAX_MEMORY:
                self._memory_size -= len(self._memory.popitem(last=False)[1])

    # records of repositories

    def link(self, repository: str, descriptor: Descriptor, *, proven: bool) -> None:
        """Note that a repository has a blob or document. ``proven``: it came from there, or its registry says that it
        is there; else a manifest of the repository names it."""
        digest = descriptor.digest
        value = {"mediaType": descriptor.media_type, "size": descriptor.size, "proven": proven}
        self._write(self._record(repository, _LINKS, digest.algorithm, digest.encoded), value)

    def linked(self, repository: str, digest: Digest) -> KnownBlob | None:
        """What is known of a blob or document of a repository; None if nobody knows that it has it."""
        value = self._read(self._record(repository, _LINKS, digest.algorithm, digest.encoded))
        found = None if value is None else _descriptor({**value, "digest": str(digest)})
        return None if value is None or found is None else KnownBlob(found, value.get("proven") is True)

    def set_tag(self, repository: str, tag: str, descriptor: Descriptor) -> None:
        value = {
            "mediaType": descriptor.media_type,
            "digest": str(descriptor.digest),
            "size": descriptor.size,
            "checked": time.time(),
        }
        self._write(self._record(repository, _TAGS, tag), value)

    def tag(self, repository: str, tag: str) -> KnownTag | None:
        """What a tag pointed to; None if it is not known."""
        value = self._read(self._record(repository, _TAGS, tag))
        found = None if value is None else _descriptor(value)
        checked = None if value is None else value.get("checked")
        return KnownTag(found, checked) if found is not None and isinstance(checked, float) else None

    def drop_tag(self, repository: str, tag: str) -> None:
        remove(self._record(repository, _TAGS, tag))

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository that are known, sorted."""
        try:
            return sorted(name for name in os.listdir(self._record(repository, _TAGS)) if is_tag(name))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def set_list(self, repository: str, name: str, values: list[Any]) -> None:
        """Keep a list that the registry gave."""
        self._write(self._record(repository, _LISTS, name), {"values": values})

    def known_list(self, repository: str, name: str) -> list[Any] | None:
        """The list that the registry gave last; None if there is none."""
        values = (self._read(self._record(repository, _LISTS, name)) or {}).get("values")
        return values if isinstance(values, list) else None

    def repositories(self) -> list[str]:
        """The repositories of which something is known, sorted."""
        top = os.path.join(self.directory, "repositories")
        found = []
        for directory, below, _ in os.walk(top):
            own = [name for name in below if name.startswith("_")]
            below[:] = [name for name in below if not name.startswith("_")]
            if own:
                found.append(os.path.relpath(directory, top).replace(os.sep, "/"))
        return sorted(found)

    def records(self) -> Iterator[str]:
        """The paths of all records."""
        for directory, below, files in os.walk(os.path.join(self.directory, "repositories"), topdown=False):
            yield from (os.path.join(directory, name) for name in files)
            if not files and not below:
                try:
                    os.rmdir(directory)
                except OSError:
                    continue

    def _record(self, repository: str, *parts: str) -> str:
        return os.path.join(self.directory, "repositories", *repository.split("/"), *parts)

    def _write(self, path: str, value: dict[str, Any]) -> None:
        with reported(path):
            for _ in range(3):
                make_directory(os.path.dirname(path))
                try:
                    replace_file(path, [json.dumps(value).encode()], within=self._parts, lasting=False)
                    return
                except FileNotFoundError:
                    continue  # a sweep has removed the empty directory
            make_directory(os.path.dirname(path))
            replace_file(path, [json.dumps(value).encode()], within=self._parts, lasting=False)

    def _read(self, path: str) -> dict[str, Any] | None:
        """A record; None if there is none, or if a crash has damaged it."""
        try:
            with open(path, "rb") as file:
                value = json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        self._touch(path)
        return value if isinstance(value, dict) else None

    @staticmethod
    def _touch(path: str) -> None:
        try:
            if time.time() - os.stat(path).st_mtime > _TOUCH:
                os.utime(path)
        except OSError:
            return  # it was removed, or the disk is read-only: only the order of removal suffers


def _descriptor(value: dict[str, Any]) -> Descriptor | None:
    try:
        size = value["size"]
        if type(size) is not int or size < 0:
            return None
        return Descriptor(str(value["mediaType"]), Digest.parse(value["digest"]), size)
    except (KeyError, UsageError):
        return None
