"""``dir:``, the directory format of skopeo and podman: ``manifest.json``, each blob named by the hex digits of its
digest, each manifest of an index as ``HEX.manifest.json``, and ``version``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lamina.archive.copy_verified import copy_verified
from lamina.archive.layout import LayoutBlob, read_document
from lamina.errors import Conflict, NotFound, ReferenceNotFound, Unsupported
from lamina.events import Cancel, OnEvent, ignore
from lamina.host.files import remove, replace_file, reported, whole_file
from lamina.host.lock import locked_directory, unheld
from lamina.host.temporary import SUFFIX
from lamina.light import TYPE_CHECKING
from lamina.source.accepts import Accepts
from lamina.source.presence import ABSENT, Presence, here_if
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import parse

if TYPE_CHECKING:
    from lamina.source.protocols import Blob

VERSION = b"Directory Transport Version: 1.1\n"
_STARTS = b"Directory Transport Version: 1."
_MANIFEST = "manifest.json"
_NAMES = r"(?:version|manifest\.json|signature-\d+|[0-9a-f]{64,128}(?:\.manifest\.json|\.tar)?)"
_OURS = re.compile(_NAMES)
_TEMPORARY = re.compile(_NAMES + r"\.[0-9a-f]{12}" + re.escape(SUFFIX))


class DirectoryReader:
    """``Reader`` and ``Lister`` of a directory with one image or one index."""

    def __init__(self, directory: str) -> None:
        """Open the directory. Raises NotFound (no image there), Unsupported (unknown version), InvalidDocument,
        SystemFailure."""
        self.directory = directory
        self.location = f"dir:{directory}"
        try:
            raw = read_document(directory, _MANIFEST, MAX_DOCUMENT, "image directory")
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                f"{directory} is not an image directory", hint="check the path: it has no manifest.json"
            ) from None
        try:
            version = read_document(directory, "version", MAX_DOCUMENT, "image directory")
        except FileNotFoundError:
            version = VERSION  # the first version had no such file
        if not version.startswith(_STARTS):
            raise Unsupported(
                f"{directory} has the version {version[:60]!r}", hint="use a directory of version 1.0 or 1.1"
            )
        document = parse(raw, None, f"{directory}/{_MANIFEST}")
        self._top = Descriptor.of(document.media_type, raw)

    def resolve(self, name: str) -> Descriptor:
        if name not in ("", str(self._top.digest)):
            raise ReferenceNotFound(
                f"{self.location} holds no image {name!r:.200}",
                hint="leave out the name: a directory holds one image",
            )
        return self._top

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        yield "", self._top

    def manifest(self, descriptor: Descriptor) -> bytes:
        name = _MANIFEST if descriptor.digest == self._top.digest else f"{descriptor.digest.encoded}.manifest.json"
        with LayoutBlob(descriptor, os.path.join(self.directory, name)).open() as stream:
            raw = stream.read(descriptor.size + 1)
        descriptor.check(raw)
        return raw

    def blob(self, descriptor: Descriptor) -> LayoutBlob:
        path = os.path.join(self.directory, descriptor.digest.encoded)
        old = f"{path}.tar"  # the name of a layer in version 1.0
        return LayoutBlob(descriptor, old if not os.path.lexists(path) and os.path.lexists(old) else path)


class DirectoryWriter:
    """``Writer`` of such a directory, which may be new, empty, or hold an image to replace."""

    accepts = Accepts(sparse=False)

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.location = f"dir:{directory}"

    @contextmanager
    def session(self, purpose: str) -> Iterator[DirectorySession]:
        """One at a time: the end of one removes what is not of its image. Raises Conflict, SystemFailure."""
        session = DirectorySession(self.directory)
        with ExitStack() as held:
            with reported(self.directory):
                os.makedirs(self.directory, exist_ok=True)
                held.enter_context(locked_directory(self.directory))
                session.begin()
            yield session
            with reported(self.directory):
                session.finish()


class DirectorySession:
    """``Session`` of an image directory."""

    accepts = DirectoryWriter.accepts
    reader = None

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.location = f"dir:{directory}"
        self._written: set[str] = set()

    def finish(self) -> None:
        """Remove the files of the previous image. Raises OSError."""
        for name in set(os.listdir(self.directory)) - self._written:
            if _OURS.fullmatch(name):
                remove(self._path(name))

    def begin(self) -> None:
        """Remove what killed sessions left. Raises Conflict if the directory contains anything else, OSError."""
        there = []
        for name in os.listdir(self.directory):
            if _TEMPORARY.fullmatch(name):
                with unheld(self._path(name)) as free:  # its creator was killed
                    if free:
                        remove(self._path(name))
            else:
                there.append(name)
        strange = [name for name in there if not _OURS.fullmatch(name)]
        if strange or (there and "version" not in there):
            raise Conflict(
                f"{self.directory!r:.300} is not an image directory: {(strange or there)[0]!r:.100} is in it",
                hint="choose an empty directory, or a new one",
            )
        replace_file(self._path("version"), [VERSION])
        self._written = {"version"}

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> Presence:
        try:
            there = os.lstat(self._path(descriptor.digest.encoded)).st_size == descriptor.size
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        if there:
            self._written.add(descriptor.digest.encoded)
        return here_if(there)

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        path = self._path(descriptor.digest.encoded)
        with reported(path), whole_file(path) as file:
            copy_verified(descriptor, blob, file.write, diff_id=diff_id, on_event=on_event, cancel=cancel)
        self._written.add(descriptor.digest.encoded)
        return True

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        descriptor.check(raw)
        name = f"{descriptor.digest.encoded}.manifest.json"
        with reported(self.directory):
            replace_file(self._path(name), [raw])
        self._written.add(name)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Move the only document to its place; a directory has no names."""
        made = f"{descriptor.digest.encoded}.manifest.json"
        with reported(self.directory):
            os.replace(self._path(made), self._path(_MANIFEST))
        self._written.discard(made)
        self._written.add(_MANIFEST)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)
