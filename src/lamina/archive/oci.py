"""oci-archive: an OCI layout in one tar, read in place and written in one pass."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from lamina.archive.copy_verified import copy_verified
from lamina.archive.layout import LAYOUT_FILE, IndexedReader, check_layout_file, parse_index
from lamina.archive.names import annotated
from lamina.archive.tar_members import Members
from lamina.archive.tar_output import ArchiveFile
from lamina.errors import BlobNotFound, InvalidDocument
from lamina.events import Cancel, OnEvent, ignore
from lamina.host.files import SharedRange, reported
from lamina.light import TYPE_CHECKING
from lamina.source.accepts import Accepts
from lamina.source.presence import Presence, here_if
from lamina.spec import json, mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from lamina.source.protocols import Blob


class OciArchiveReader(IndexedReader):
    """``Reader`` and ``Lister`` of an oci-archive."""

    def __init__(self, path: str, members: Members | None = None) -> None:
        """Open the archive. Raises NotFound, InvalidDocument (no tar, no layout), LimitExceeded."""
        self.location = f"oci-archive:{path}"
        self._members = members or Members(path)
        if "oci-layout" not in self._members or "index.json" not in self._members:
            raise InvalidDocument(f"{path} holds no OCI layout", hint="check the file: it may be a docker-archive")
        check_layout_file(self._members.read("oci-layout"), path)
        self.index = parse_index(self._members.read("index.json"), path)

    def blob(self, descriptor: Descriptor) -> MemberBlob:
        return MemberBlob(descriptor, self._members, member_name(descriptor.digest))


class MemberBlob:
    """A ``Blob`` that is a member of a tar."""

    origin = ""

    def __init__(self, descriptor: Descriptor, members: Members, name: str) -> None:
        self.descriptor = descriptor
        self._members = members
        self._name = name

    def open(self, start: int = 0, end: int | None = None) -> SharedRange:
        try:
            return self._members.open(self._name, start, end)
        except KeyError:
            raise BlobNotFound(
                f"{self._members.path} has no member {self._name!r:.200}", hint="get the archive again"
            ) from None


class OciArchiveWriter:
    """``Writer`` of an oci-archive: a new file, or ``-`` for standard output."""

    accepts = Accepts()

    def __init__(self, path: str) -> None:
        self.path = path
        self.location = f"oci-archive:{path}"

    @contextmanager
    def session(self, purpose: str) -> Iterator[OciArchiveSession]:
        archive = ArchiveFile(self.path)
        with archive.writing():
            session = OciArchiveSession(archive)
            archive.add("oci-layout", LAYOUT_FILE)
            yield session
            archive.add("index.json", session.index())


class OciArchiveSession:
    """``Session`` of an oci-archive."""

    accepts = OciArchiveWriter.accepts
    reader = None

    def __init__(self, archive: ArchiveFile) -> None:
        self.location = f"oci-archive:{archive.path}"
        self._archive = archive
        self._entries: list[Descriptor] = []

    def index(self) -> bytes:
        """The index.json of what was tagged."""
        entries = [entry.to_json() for entry in self._entries]
        return json.dump({"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries})

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> Presence:
        return here_if(member_name(descriptor.digest) in self._archive)

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        # verify the blob before writing it: a tar can't take back a member
        with tempfile.TemporaryFile(prefix="lamina-") as spool:
            with reported(tempfile.gettempdir()):
                copy_verified(descriptor, blob, spool.write, diff_id=diff_id, on_event=on_event, cancel=cancel)
                spool.seek(0)
            self._archive.add_stream(member_name(descriptor.digest), descriptor.size, spool)
        return True

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        descriptor.check(raw)
        self._archive.add(member_name(descriptor.digest), raw)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        self._entries.append(annotated(descriptor, name))


def member_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.encoded}"
