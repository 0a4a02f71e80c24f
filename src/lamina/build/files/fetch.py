"""ADD of addresses: a file by http or https, as in BuildKit: mode 0600, the time of Last-Modified (else 1970).

What was fetched is kept in the store with its ETag, so that a later build only asks the server whether it changed.
User and password of an address are sent to its server, and nowhere else: they are in no key, record, name or message.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from lamina.build.addresses import file_name, without_credentials
from lamina.build.files.source_storage import FETCHED, place, touch
from lamina.build.patterns.trees import OneFile
from lamina.errors import DigestMismatch, UsageError
from lamina.host.files import CHUNK, READ_FLAGS, SharedRange, make_directory, replace_file, reported, write_all
from lamina.host.spool import CHECK_EVERY, check_free_space
from lamina.host.temporary import Temporary
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from lamina.build.protocols import Inputs
    from lamina.build.steps import Remote
    from lamina.remote.download import Download
    from lamina.store.paths import Paths
    from lamina.transfer.connect import RegistryAccess

_MODE = 0o600
_SECOND = 1_000_000_000
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was fetched. ``digest``: the sha256 of its content, hex. ``mtime``: in seconds."""

    digest: str
    size: int
    mtime: int
    etag: str


_done: weakref.WeakKeyDictionary[Any, dict[str, Fetched]] = weakref.WeakKeyDictionary()
"""What a build has fetched already: it asks for each address once."""


class RemoteFile(OneFile):
    """A fetched file as a tree. ``name``: its name in a directory."""

    def __init__(self, name: str, kept: Fetched, descriptor: int) -> None:
        self.name = os.fsencode(name)
        super().__init__(
            self.name,
            lambda: SharedRange(self, descriptor, 0, kept.size),
            kept.size,
            mode=_MODE,
            mtime=kept.mtime * _SECOND,
            digest=bytes.fromhex(kept.digest),
        )


def identity(source: Remote, inputs: Inputs) -> tuple[str, str]:
    """For the key: the address, and the digest of the content with its time. With a checksum nothing is fetched.
    Raises DigestMismatch, NotFound, RemoteFailure."""
    name = f"address {without_credentials(source.url)}"
    if source.checksum:
        return name, str(_checksum(source))
    kept = _fetch(source, inputs)
    return name, f"sha256:{kept.digest} {kept.mtime}"


@contextmanager
def fetched(source: Remote, inputs: Inputs) -> Iterator[RemoteFile]:
    """The file; it exists while the block runs. Raises DigestMismatch, NotFound, RemoteFailure."""
    kept = _fetch(source, inputs)
    path = _content(inputs.store.paths, kept.digest)
    with reported(path):
        descriptor = os.open(path, READ_FLAGS)
    touch(path)
    touch(_record_path(inputs.store.paths, source.url))
    try:
        yield RemoteFile(file_name(source.url), kept, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def stream(url: str, network: RegistryAccess) -> Iterator[Download]:
    """The bytes at an address, read once. Raises as ``Download``."""
    with network.download(url, pages=True, login=True) as download:
        yield download


def _checksum(source: Remote) -> Digest:
    try:
        return Digest.parse(source.checksum)
    except UsageError:
        raise UsageError(
            f"--checksum={source.checksum!r:.100} is not a digest", hint="write it like sha256:<64 hex digits>"
        ) from None


def _fetch(source: Remote, inputs: Inputs) -> Fetched:
    try:
        done = _done.setdefault(inputs, {})
    except TypeError:  # the object can't be referred to weakly
        done = {}
    kept = done.get(source.url)
    if kept is None:
        kept = done[source.url] = _asked(source, inputs)
    if source.checksum:
        _compare(source, kept, inputs.store.paths)
    return kept


def _asked(source: Remote, inputs: Inputs) -> Fetched:
    """Ask the server for the file, unless the one that is kept is known to be the right one."""
    paths = inputs.store.paths
    known = _record(paths, source.url)
    if known is not None and source.checksum == f"sha256:{known.digest}":
        return known
    with inputs.network.download(source.url, etag=known.etag if known else "", pages=True, login=True) as download:
        if known is not None and download.is_same:
            return known
        return _save(source, download, paths)


def _save(source: Remote, download: Download, paths: Paths) -> Fetched:
    hasher, size, looked = hashlib.sha256(), 0, 0
    record = _record_path(paths, source.url)
    directory = os.path.dirname(record)
    with reported(directory):
        make_directory(directory)
        with Temporary(paths.ingest, "fetched") as file:
            while data := download.read(CHUNK):
                hasher.update(data)
                write_all(file.descriptor, data)
                size += len(data)
                if size - looked >= CHECK_EVERY:
                    check_free_space(paths.root, 0)
                    looked = size
            file.put(_content(paths, hasher.hexdigest()))
    kept = Fetched(hasher.hexdigest(), size, _seconds(download.header("Last-Modified")), download.header("ETag"))
    text = json.dumps([_VERSION, kept.digest, kept.size, kept.mtime, kept.etag])
    with reported(record):
        replace_file(record, [text.encode()], within=paths.ingest, lasting=False)
    return kept


def _compare(source: Remote, kept: Fetched, paths: Paths) -> None:
    wanted = _checksum(source)
    actual = kept.digest if wanted.algorithm == "sha256" else _hash(_content(paths, kept.digest), wanted.algorithm)
    if actual != wanted.encoded:
        raise DigestMismatch(
            f"{without_credentials(source.url)!r:.300} has the digest {wanted.algorithm}:{actual}, not {wanted}",
            hint="check --checksum, and whether the file at the address changed",
        )


def _record(paths: Paths, url: str) -> Fetched | None:
    """What is known of an address, if its content is still there and whole."""
    with suppress(OSError, ValueError, TypeError):
        with open(_record_path(paths, url), encoding="utf-8") as file:
            version, digest, size, mtime, etag = json.load(file)
        if version == _VERSION and _hash(_content(paths, str(Digest.parse(f"sha256:{digest}").encoded))) == digest:
            return Fetched(digest, int(size), int(mtime), str(etag))
    return None


def _hash(path: str, algorithm: str = "sha256") -> str:
    from lamina.store.derived import hash_of

    with reported(path):
        return hash_of(path, algorithm)


def _record_path(paths: Paths, url: str) -> str:
    name = hashlib.sha256(without_credentials(url).encode("utf-8", "surrogateescape")).hexdigest()
    return place(paths, FETCHED, f"{name}.json")


def _content(paths: Paths, digest: str) -> str:
    return place(paths, FETCHED, digest)


def _seconds(text: str) -> int:
    """The seconds since 1970 of a time in a header; 0 if there is none."""
    try:
        return max(0, int(parsedate_to_datetime(text).timestamp()))
    except (ValueError, TypeError, OverflowError):
        return 0
