"""Converts an image to the other manifest format, docker's or OCI's. Blobs are unchanged, so config and layers keep
their digests; the manifest gets a new one."""

from __future__ import annotations

from lamina.errors import Conflict, InvalidDocument, NotFound, Unsupported, UsageError
from lamina.light import TYPE_CHECKING, replace
from lamina.source.abilities import gives_tars
from lamina.source.select import MAX_NESTING, choose
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest, build_index, build_manifest, parse
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.source.protocols import Blob, Reader

FORMATS = {"oci": False, "v2s2": True, "docker": True}
"""Name of a format -> whether it is docker's."""


class Converted:
    """``Reader`` of ``source`` whose documents are all in one format. From an index, only the image for ``platform``
    is included; None means all images."""

    def __init__(self, source: Reader, docker: bool, *, platform: Platform | None, preserve: bool = False) -> None:
        """``preserve``: raise Conflict for a document that would change."""
        self.location = source.location
        self._source = source
        self._docker = docker
        self._platform = platform
        self._preserve = preserve
        self._documents: dict[Digest, bytes] = {}
        self._made: dict[
            tuple[Digest, str], Descriptor
        ] = {}  # each once: indexes may list the same ones again and again

    def resolve(self, name: str) -> Descriptor:
        return self._converted(self._source.resolve(name), name or self.location)

    def manifest(self, descriptor: Descriptor) -> bytes:
        known = self._documents.get(descriptor.digest)
        return self._source.manifest(descriptor) if known is None else known

    def blob(self, descriptor: Descriptor) -> Blob:
        return self._source.blob(descriptor)

    def tar(self, layer: Descriptor, diff_id: Digest) -> Blob | None:
        return self._source.tar(layer, diff_id) if gives_tars(self._source) else None

    def _converted(self, top: Descriptor, what: str, depth: int = 0) -> Descriptor:
        key = (top.digest, top.media_type)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._convert(top, what, depth)
        return made

    def _convert(self, top: Descriptor, what: str, depth: int) -> Descriptor:
        if depth > MAX_NESTING:
            raise InvalidDocument(
                f"{what[:300]}: indexes are nested more than {MAX_NESTING} deep",
                hint="report it to the publisher of the image",
            )
        document = parse(self._source.manifest(top), top.media_type, what)
        if isinstance(document, Index) and self._platform is not None:
            return self._converted(choose(self._source, document, self._platform, what), what, depth + 1)
        made = self._index(document, what, depth) if isinstance(document, Index) else self._image(document, what)
        if made is document:
            return top
        if self._preserve:
            raise Conflict(
                f"{what} can't be converted with --preserve-digests: its digest would change",
                hint="leave out --format or --preserve-digests",
            )
        self._documents[made.descriptor.digest] = made.raw
        return made.descriptor

    def _image(self, manifest: Manifest, what: str) -> Manifest:
        if mediatype.is_docker(manifest.media_type) == self._docker:
            return manifest
        if not manifest.is_image:
            raise Unsupported(
                f"{what} is an artifact, which docker's format can't express", hint="leave out --format"
            )
        config = replace(manifest.config, media_type=manifest.config_type)
        layers = [
            replace(layer, media_type=layer.media_type or mediatype.DOCKER_LAYER_GZIP) for layer in manifest.layers
        ]
        if self._docker:  # docker's format has no annotations
            return build_manifest(_bare(config), [_bare(layer) for layer in layers], docker=True)
        return build_manifest(config, layers, annotations=manifest.annotations)

    def _index(self, index: Index, what: str, depth: int) -> Index:
        entries, changed = [], mediatype.is_docker(index.media_type) != self._docker
        for entry in index.manifests:
            if not mediatype.is_known_document(entry.media_type):
                entries.append(entry)
                continue
            try:
                new = self._converted(entry, f"{what}: {entry.digest}", depth + 1)
            except NotFound:  # a sparse index
                raise UsageError(
                    f"{what} lists {entry.digest}, which was not found, so the index can't be converted",
                    hint="fetch it with `lamina pull --all-platforms`, or leave out --all-platforms",
                ) from None
            changed = changed or new.digest != entry.digest
            raw = {key: value for key, value in entry.raw.items() if key != "data"}
            kept = replace(entry, media_type=new.media_type, digest=new.digest, size=new.size, data=None, raw=raw)
            entries.append(_bare(kept) if self._docker else kept)
        if not changed:
            return index
        return build_index(entries, annotations=None if self._docker else index.annotations, docker=self._docker)


def _bare(descriptor: Descriptor) -> Descriptor:
    """Return the descriptor without fields that docker's format lacks."""
    raw = {key: value for key, value in descriptor.raw.items() if key in ("platform", "urls")}
    return replace(descriptor, annotations={}, data=None, artifact_type=None, raw=raw)
