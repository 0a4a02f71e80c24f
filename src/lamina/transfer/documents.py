"""Writing the documents of an image, and sending again what a registry has lost meanwhile.

A registry may remove a blob after it said that it has it, and before the manifest comes that needs it (garbage
collection while it runs). It refuses that manifest. Then what it lacks is sent again, and the manifest once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lamina.errors import ContentMissing
from lamina.events import OnEvent, Warned
from lamina.light import Value
from lamina.spec.descriptor import Descriptor
from lamina.spec.manifest import Index, Manifest, parse

if TYPE_CHECKING:
    from lamina.source.protocols import Session

Send = Callable[[Sequence[Descriptor]], None]
"""Copies those of the blobs that the target does not have."""


class Documents:
    """Writes documents to a session. Each one may be refused once because something that it lists is missing; the
    second time is an error."""

    def __init__(self, target: Session, on_event: OnEvent) -> None:
        self._target = target
        self._on_event = on_event
        self._known: dict[str, _Document] = {}
        self._repeated: set[str] = set()

    def put(self, descriptor: Descriptor, raw: bytes, send: Send) -> None:
        """As ``Session.put_manifest``. ``send`` copies the blobs that the document lists. Raises ContentMissing."""
        document = self._known[str(descriptor.digest)] = _Document(descriptor, raw, send)
        self._put(document)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """As ``Session.tag``. Raises ContentMissing."""
        self._persistent(lambda: self._target.tag(name, descriptor))

    def _put(self, document: _Document) -> None:
        self._persistent(lambda: self._target.put_manifest(document.descriptor, document.raw))

    def _persistent(self, write: Callable[[], None]) -> None:
        """Write. If a document is refused (this one, or an earlier one that the session sends only now), send what is
        missing and write again."""
        while True:
            try:
                return write()
            except ContentMissing as error:
                self._repeat(error)

    def _repeat(self, error: ContentMissing) -> None:
        refused = self._known.get(error.manifest)
        if refused is None:
            raise error
        if error.manifest in self._repeated:
            raise ContentMissing(
                f"{error.message}; it was sent twice",
                hint="try again later, or ask the registry's operator: it loses what is pushed",
                manifest=error.manifest,
                named=error.named,
            )
        self._repeated.add(error.manifest)
        if refused.is_index and error.named and not error.named & self._known.keys():
            raise error  # an index may list documents that are not copied
        self._on_event(Warned(f"{self._target.location} lost a part of {error.manifest}: it is sent again"))
        self._send_again(refused)

    def _send_again(self, document: _Document) -> None:
        """Send what a document lists, as far as the target does not have it, and the document."""
        if document.is_index:
            for entry in document.listed:
                child = self._known.get(str(entry.digest))
                if child is not None and not self._target.has(entry):
                    self._send_again(child)
        else:
            document.send(document.listed)
        self._put(document)


class _Document(Value):
    descriptor: Descriptor
    raw: bytes
    send: Send

    @property
    def is_index(self) -> bool:
        return isinstance(self._parsed(), Index)

    @property
    def listed(self) -> list[Descriptor]:
        """What the document lists, each digest once."""
        return list({entry.digest: entry for entry in self._parsed().listed}.values())

    def _parsed(self) -> Index | Manifest:
        return parse(self.raw, self.descriptor.media_type, str(self.descriptor.digest))
