"""Reading from the store: names, documents, blobs, and images as stacks."""

from __future__ import annotations

import os
from functools import partial

from lamina.errors import LaminaError, ReferenceNotFound, UsageError
from lamina.light import TYPE_CHECKING, pattern
from lamina.source.select import find_manifest, read_config
from lamina.source.stack import Stack
from lamina.source.verify import is_plain
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest, parse
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.store.blobs import Blobs, StoredBlob
from lamina.store.refs import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lamina.source.protocols import Blob
    from lamina.store.layers import Layers
    from lamina.store.paths import Paths
    from lamina.store.refs import Refs

_PREFIX = pattern(r"(?:sha256:)?([0-9a-f]{4,64})")


class StoreReader:
    """``Reader``, ``Referrers`` and ``TarReader`` of the store."""

    def __init__(self, paths: Paths, blobs: Blobs, refs: Refs, layers: Layers) -> None:
        self.paths = paths
        self.blobs = blobs
        self.refs = refs
        self.layers = layers
        self.location = f"the store {paths.root}"

    def resolve(self, name: str) -> Descriptor:
        """The document that ``name`` points to. ``name``: a reference, a digest, or at least four digits of an image
        ID or manifest digest; "" means the only image. Raises ReferenceNotFound, UsageError (several match)."""
        entries = self.refs.entries()
        if not name:
            if len({entry.digest for entry in entries}) == 1:
                return entries[0]
            raise ReferenceNotFound(
                f"no image was named, and {self.location} has {len(entries)} images", hint="name one of them"
            )
        reference, error = _reference(name)
        if reference is not None:
            for entry in entries:
                if name_of(entry) == str(reference):
                    return entry
            for entry in entries:
                if reference.digest is not None and entry.digest == reference.digest:
                    return entry
        short = _PREFIX.fullmatch(name)
        if short:
            found = self._by_prefix(short[1], entries)
            if found is not None:
                return found
        elif error is not None:
            raise error
        raise ReferenceNotFound(f"no image {name!r:.300} in {self.location}", hint=partial(_near, name, entries))

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.blobs.read(descriptor)

    def blob(self, descriptor: Descriptor) -> Blob:
        return self.blobs.get(descriptor)

    def tar(self, layer: Descriptor, diff_id: Digest) -> StoredBlob | None:
        """The layer's tar, if it is here and correct."""
        if is_plain(layer, diff_id) or not self.layers.has_sound_tar(diff_id):
            return None
        path = self.layers.tar_path(diff_id)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            return None
        return StoredBlob(Descriptor(mediatype.OCI_LAYER, diff_id, size), path)

    def referrers(self, subject: Digest) -> list[Descriptor]:
        """The named and untagged documents whose ``subject`` is this one."""
        found = []
        for entry in {entry.digest: entry for entry in self.refs.entries()}.values():
            try:
                document = parse(self.manifest(entry), entry.media_type)
            except LaminaError:
                continue  # a damaged image has no subject, and must not hide the others
            if document.subject is not None and document.subject.digest == subject:
                found.append(document.as_referrer())
        return found

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        """As ``Lister.names``."""
        return self.refs.names()

    def stack(self, name: str, platform: Platform) -> Stack:
        """The image ``name`` as a stack of layers. Raises what ``resolve`` raises; NotFound (platform), Unsupported
        (artifact), InvalidContent."""
        return self.stack_at(self.resolve(name), platform, name)

    def stack_at(self, descriptor: Descriptor, platform: Platform, name: str) -> Stack:
        """Like ``stack``, for a document that is here, named or not; ``name`` is for messages."""
        manifest = find_manifest(self, descriptor, platform, name)
        config = read_config(self, manifest, name)
        layers = tuple(
            self.layers.get(descriptor, diff_id)
            for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        )
        return Stack(name, manifest, config, layers, config.steps())

    def _by_prefix(self, digits: str, entries: list[Descriptor]) -> Descriptor | None:
        """Find an image by the first digits of its manifest's digest or of its ID."""
        found: dict[Digest, Descriptor] = {}
        for entry in entries:
            idents = [entry.digest.encoded]
            try:
                document = parse(self.manifest(entry), entry.media_type)
                if isinstance(document, Manifest):
                    idents.append(document.config.digest.encoded)
                else:
                    idents += [child.digest.encoded for child in document.manifests]
            except LaminaError:
                pass  # a damaged image has no ID, and must not hide the others
            if any(ident.startswith(digits) for ident in idents):
                found.setdefault(entry.digest, entry)
        if len(found) > 1:
            listed = ", ".join(digest.short for digest in found)
            raise UsageError(
                f"{digits} is ambiguous, several images begin with it: {listed}", hint="give more digits, or a name"
            )
        return next(iter(found.values()), None)


def _near(name: str, entries: list[Descriptor]) -> str:
    """The hint for a name that no image has: the most similar name, or a pull."""
    near = nearest_name(name, entries)
    pulled = f"pull it with `lamina pull {name:.200}`, or see `lamina images`"
    return f"did you mean {near!r}? else {pulled}" if near else pulled


def nearest_name(name: str, entries: Iterable[Descriptor]) -> str | None:
    """Return the name of an image that is most like ``name``; None if none is like it."""
    from lamina.text import nearest

    known: dict[str, None] = {}
    for stored in filter(None, map(name_of, entries)):
        familiar = Reference.parse(stored).familiar
        known |= dict.fromkeys((familiar, familiar.removesuffix(":latest")))
    return next(iter(nearest(name, known)), None)


def _reference(name: str) -> tuple[Reference | None, UsageError | None]:
    if name.startswith(("sha256:", "sha512:")) and len(name) >= 71:
        digest = Digest.parse(name)
        return Reference("", "", None, digest), None
    try:
        return Reference.parse(name).with_default_tag(), None
    except UsageError as error:
        return None, error
