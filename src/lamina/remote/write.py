"""Writing to a repository (distribution-spec, "Push"): blobs, then documents, then the name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lamina.errors import Conflict, ContentMissing, InvalidContent, LaminaError, Unsupported
from lamina.events import Cancel, OnEvent, ignore
from lamina.light import TYPE_CHECKING
from lamina.remote.client import Client
from lamina.remote.complaint import Complaint
from lamina.remote.http import Answer
from lamina.remote.read import Site
from lamina.remote.upload import Journal, Upload
from lamina.source.accepts import Accepts
from lamina.source.presence import Presence, here_if
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import build_index, parse
from lamina.spec.reference import Reference

ACCEPTS = Accepts(sparse=False, foreign=False)
_LACKS = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})
"""Codes with which registries refuse a manifest because they lack what it lists."""

if TYPE_CHECKING:
    from typing import Protocol

    from lamina.source.protocols import Blob

    class Target(Protocol):
        """The repository that a session writes to. ``mount_from`` names repositories of the same registry that may
        have a blob; ``journal`` remembers uploads. The rest as in ``RemoteReader``."""

        location: str
        journal: Journal
        mount_from: Callable[[Descriptor], Sequence[str]]

        def sites(self) -> Sequence[Site]: ...

        def reference(self, name: str) -> Reference: ...

        def manifest(self, descriptor: Descriptor) -> bytes: ...

        def has_blob(self, descriptor: Descriptor) -> bool: ...

        def remember(self, descriptor: Descriptor, raw: bytes) -> None: ...

        def referrers_tag(self, subject: Digest) -> tuple[str, tuple[Descriptor, ...]]: ...


class RemoteSession:
    """``Session`` of a repository. A document waits for its name: sent under its tag it takes one request instead of
    two."""

    accepts = ACCEPTS
    reader = None

    def __init__(self, repository: Target) -> None:
        self.location = repository.location
        self._repository = repository
        self._held: tuple[Descriptor, bytes] | None = None
        self._denied: set[Digest] = set()  # what the registry says that it lacks, whatever HEAD says
        self._lost: set[Digest] = set()  # what a refused manifest lists: it is sent, never mounted

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> Presence:
        """As ``Session.has``. The registry is asked each time, but for what it named as missing when it refused a
        manifest: that must be put again."""
        if descriptor.digest in self._denied:
            return here_if(False)
        is_document = _is_document(descriptor)
        return here_if(self._has_document(descriptor) if is_document else self._repository.has_blob(descriptor))

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        if diff_id not in (None, descriptor.digest) and not blob.origin:
            _check_compression(descriptor, blob)
        lost = descriptor.digest in self._lost
        mounts = [] if lost else [blob.origin, *self._repository.mount_from(descriptor)]
        upload = Upload(
            self._repository.sites()[-1],
            blob,
            journal=self._repository.journal,
            mount_from=[place for place in mounts if place],
            on_event=on_event,
            cancel=cancel,
        )
        sent = upload.run()
        self._denied.discard(descriptor.digest)
        return sent

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        descriptor.check(raw)
        if self._held is not None and self._held[0].digest == descriptor.digest:
            return
        self.flush()
        self._held = (descriptor, raw)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Tag a document. ``name`` is a reference of this repository; "" or one without a tag stores the document
        under its digest."""
        reference = self._repository.reference(name) if name else None
        if reference is not None and reference.digest not in (None, descriptor.digest):
            raise Conflict(
                f"{reference} can't be a name of {descriptor.digest}: it contains another digest",
                hint="leave out the digest",
            )
        if reference is None or reference.tag is None:
            self.flush()
            return
        if self._held is not None and self._held[0].digest == descriptor.digest:
            held, self._held = self._held, None
            self._put(held[0], held[1], reference.tag)
        else:
            self._put(descriptor, self._repository.manifest(descriptor), reference.tag)

    def flush(self) -> None:
        """Send the document that waits, without a name."""
        if self._held is not None:
            held, self._held = self._held, None
            self._put(held[0], held[1], str(held[0].digest))

    def _put(self, descriptor: Descriptor, raw: bytes, where: str) -> None:
        site = self._repository.sites()[-1]
        what = f"manifest {descriptor.digest}"
        answer = site.client.request(
            "PUT",
            site.url(f"manifests/{where}"),
            scopes=site.push,
            headers={"Content-Type": descriptor.media_type, "Content-Length": str(len(raw))},
            body=raw,
            ok=(200, 201, 202, 204, 400, 404),
            what=what,
        )
        if answer.status in (400, 404):
            raise self._refused(site.client, descriptor, raw, answer)
        answer.release()
        self._denied.discard(descriptor.digest)
        self._repository.remember(descriptor, raw)
        self._refer(descriptor, raw, answer)

    def _refused(self, client: Client, descriptor: Descriptor, raw: bytes, answer: Answer) -> LaminaError:
        """Return the error for a document that the registry does not take. Remember what it says that it lacks."""
        complaint, what = Complaint.of(answer), f"manifest {descriptor.digest}"
        error = client.explained(answer, complaint, what)
        if complaint.codes & _LACKS:
            listed = parse(raw, descriptor.media_type, what).listed
            named = {entry.digest for entry in listed if str(entry.digest) in complaint.text}
            self._denied |= named
            self._lost |= {entry.digest for entry in listed}
            return ContentMissing(
                f"{what}: {client.host} does not have all that this manifest lists: {complaint.said}",
                hint="push again: the registry may have removed a blob before the manifest came",
                manifest=str(descriptor.digest),
                named=frozenset(map(str, named)),
            )
        if answer.status == 400:
            return InvalidContent(error.message, hint="check the manifest: the registry rejects it")
        return error

    def _refer(self, descriptor: Descriptor, raw: bytes, answer: Answer) -> None:
        """Update the referrers tag, if the registry does not confirm the subject and so leaves the list of referrers
        to the client (distribution-spec, "Pushing Manifests with Subject")."""
        document = parse(raw, descriptor.media_type, str(descriptor.digest))
        if document.subject is None or answer.headers.get("OCI-Subject"):
            return
        tag, known = self._repository.referrers_tag(document.subject.digest)
        if any(entry.digest == descriptor.digest for entry in known):
            return
        index = build_index([*known, document.as_referrer()])
        self._put(index.descriptor, index.raw, tag)

    def _has_document(self, descriptor: Descriptor) -> bool:
        site = self._repository.sites()[-1]
        url = site.url(f"manifests/{descriptor.digest}")
        answer = site.client.request(
            "HEAD",
            url,
            scopes=site.push,
            headers={"Accept": descriptor.media_type},
            ok=(200, 400, 403, 404, 405, 501),  # if HEAD is refused it is sent again, which does no harm
            what=f"manifest {descriptor.digest}",
        )
        answer.release()
        return answer.status == 200


def _check_compression(layer: Descriptor, blob: Blob) -> None:
    """Raise Unsupported for a local layer that containerd and others can't unpack."""
    from lamina.layer.codec import READ_ONLY, SNIFF_SIZE, sniff

    with blob.open(0, SNIFF_SIZE) as stream:
        found = sniff(stream.read(SNIFF_SIZE))
    if found in READ_ONLY:
        raise Unsupported(
            f"layer {layer.digest} is compressed with {found}, which not every client of a registry can unpack",
            hint="push a recompressed image: `lamina flatten IMAGE -t NEW --compression gzip`",
        )


def _is_document(descriptor: Descriptor) -> bool:
    from lamina.spec.mediatype import is_known_document

    return is_known_document(descriptor.media_type)
