"""OCI image layout directories (image-spec image-layout.md): reading and writing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from lamina.archive.copy_verified import copy_verified
from lamina.archive.names import annotated, by_exact_name, find, names_of
from lamina.errors import BlobNotFound, InvalidDocument, NotFound, Unsupported
from lamina.events import Cancel, OnEvent, ignore
from lamina.host.files import FileRange, replace_file, reported, whole_file
from lamina.host.lock import locked_for_now
from lamina.light import TYPE_CHECKING
from lamina.source.accepts import Accepts
from lamina.source.presence import ABSENT, Presence, here_if
from lamina.spec import json, mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, parse

if TYPE_CHECKING:
    from lamina.source.protocols import Blob

LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
LOCK = "index.json.lock"
"""The lock file while index.json is changed; removed afterwards. BuildKit's exporters use the same lock file."""
_MAX_INDEX = 64 << 20


def check_layout_file(raw: bytes, where: str) -> None:
    """Check the version in the file ``oci-layout``. Raises InvalidDocument, Unsupported (another version)."""
    version = json.load(raw, f"{where}/oci-layout").get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise Unsupported(f"{where} has the layout version {version!r:.40}", hint="use a layout of version 1.0.0")


def parse_index(raw: bytes, where: str) -> Index:
    """Parse the layout's index.json. Raises InvalidDocument."""
    document = parse(raw, mediatype.OCI_INDEX, f"{where}/index.json", limit=_MAX_INDEX)
    assert isinstance(document, Index)
    return document


class IndexedReader:
    """``Reader`` and ``Lister`` of a place with an index.json; subclasses open the blobs."""

    location: str
    index: Index
    _by_exact_name: dict[str, Descriptor] | None = None  # made on first need: an archive may hold thousands of images

    def blob(self, descriptor: Descriptor) -> Blob:
        raise NotImplementedError

    def resolve(self, name: str) -> Descriptor:
        if self._by_exact_name is None:
            self._by_exact_name = by_exact_name(self.index.manifests)
        return self._by_exact_name.get(name) or find(self.index.manifests, name, self.location)

    def manifest(self, descriptor: Descriptor) -> bytes:
        with self.blob(descriptor).open() as stream:
            raw = stream.read(descriptor.size + 1)
        descriptor.check(raw)
        return raw

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        for entry in self.index.manifests:
            yield (names_of(entry) or [""])[0], entry


class LayoutReader(IndexedReader):
    """``Reader`` and ``Lister`` of a layout directory."""

    def __init__(self, directory: str) -> None:
        """Open the layout. Raises NotFound (no layout there), InvalidDocument, SystemFailure."""
        self.directory = directory
        self.location = f"oci:{directory}"
        try:
            check_layout_file(read_document(directory, "oci-layout", 64 << 10, "OCI layout"), directory)
            self.index = parse_index(read_document(directory, "index.json", _MAX_INDEX, "OCI layout"), directory)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                f"{directory} is not an OCI layout", hint="check the path: it has no oci-layout and index.json"
            ) from None

    def blob(self, descriptor: Descriptor) -> LayoutBlob:
        return LayoutBlob(descriptor, blob_path(self.directory, descriptor.digest))


def read_document(directory: str, name: str, limit: int, kind: str) -> bytes:
    """Read a file of at most ``limit`` bytes from a directory that should be a ``kind``. Raises FileNotFoundError,
    NotADirectoryError, InvalidDocument, SystemFailure."""
    path = os.path.join(directory, name)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InvalidDocument(f"{path} is not a regular file", hint=f"check the path: this is not an {kind}")
    with reported(path), open(path, "rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise InvalidDocument(
            f"{path} is too large: more than {limit} bytes", hint=f"check the path: this may not be an {kind}"
        )
    return raw


class LayoutBlob:
    """A ``Blob`` in a layout; only a regular file counts."""

    origin = ""
    hint = "get the layout again: it is incomplete"

    def __init__(self, descriptor: Descriptor, path: str) -> None:
        self.descriptor = descriptor
        self._path = path

    def open(self, start: int = 0, end: int | None = None) -> FileRange:
        try:
            if stat.S_ISREG(os.lstat(self._path).st_mode):
                return FileRange(self._path, start, end)
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise BlobNotFound(
            f"blob {self.descriptor.digest} was not found ({self._path})",
            hint=self.hint,
        )


class LayoutWriter:
    """``Writer`` of a layout directory, which is created if it does not exist; its content is kept."""

    accepts = Accepts()

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.location = f"oci:{directory}"

    @contextmanager
    def session(self, purpose: str) -> Iterator[LayoutSession]:
        with reported(self.directory):
            os.makedirs(os.path.join(self.directory, "blobs", "sha256"), exist_ok=True)
            path = os.path.join(self.directory, "oci-layout")
            if not os.path.exists(path):
                with _locked_index(self.directory):
                    if not os.path.exists(os.path.join(self.directory, "index.json")):
                        _replace_index(self.directory, [])
                    replace_file(path, [LAYOUT_FILE])  # last: readers of it need index.json
            LayoutReader(self.directory)
            yield LayoutSession(self.directory)


class LayoutSession:
    """``Session`` of a layout directory."""

    accepts = LayoutWriter.accepts
    reader = None

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.location = f"oci:{directory}"

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> Presence:
        try:
            return here_if(os.lstat(blob_path(self.directory, descriptor.digest)).st_size == descriptor.size)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        path = blob_path(self.directory, descriptor.digest)
        with reported(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with whole_file(path) as file:
                copy_verified(descriptor, blob, file.write, diff_id=diff_id, on_event=on_event, cancel=cancel)
        return True

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        descriptor.check(raw)
        path = blob_path(self.directory, descriptor.digest)
        with reported(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            replace_file(path, [raw])

    def tag(self, name: str, descriptor: Descriptor) -> None:
        new = annotated(descriptor, name)
        with reported(self.directory), _locked_index(self.directory):
            kept = [
                entry
                for entry in LayoutReader(self.directory).index.manifests
                if (name not in names_of(entry) if name else (names_of(entry) or entry.digest != descriptor.digest))
            ]
            _replace_index(self.directory, [*kept, new])


def _locked_index(directory: str) -> AbstractContextManager[None]:
    return locked_for_now(os.path.join(directory, LOCK))


def _replace_index(directory: str, entries: list[Descriptor]) -> None:
    path = os.path.join(directory, "index.json")
    value: dict[str, object] = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX}
    if os.path.exists(path):
        value = dict(LayoutReader(directory).index.json)  # unknown fields survive
    value["manifests"] = [entry.to_json() for entry in entries]
    replace_file(path, [json.dump(value)])


def blob_path(directory: str, digest: Digest) -> str:
    return os.path.join(directory, "blobs", digest.algorithm, digest.encoded)
