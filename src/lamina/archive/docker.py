"""docker-archive, the format of ``docker save``: reads every version of it, and writes podman's and skopeo's form
(uncompressed layers, named by diff_id).

The archive holds no manifest, so one is made from its content. An archive that is an OCI layout too (docker 25 and
later) keeps its own manifests, and so its digests.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import dumps
from typing import TYPE_CHECKING, Any

from lamina.archive.copy_verified import copy_verified
from lamina.archive.oci import MemberBlob, OciArchiveReader
from lamina.archive.tar_members import Members
from lamina.archive.tar_output import ArchiveFile
from lamina.archive.unwrapped import UnwrappedBlob, unwrapped
from lamina.errors import BlobNotFound, InvalidContent, InvalidDocument, ReferenceNotFound, Unsupported, UsageError
from lamina.events import BlobProgress, Cancel, Event, OnEvent, ignore
from lamina.host.files import CHUNK, reported
from lamina.layer.archive_codec import sniff_archive
from lamina.layer.codec import COMPRESSIONS
from lamina.layer.tarheader import BLOCK
from lamina.source.accepts import Accepts
from lamina.source.presence import Presence, here_if
from lamina.source.verify import PieceStream, verified
from lamina.spec import json, mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest, new_hasher
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import Manifest, build_manifest, parse
from lamina.spec.reference import Reference, canonical

if TYPE_CHECKING:
    from lamina.source.protocols import Blob


class DockerArchiveReader:
    """``Reader`` and ``Lister`` of a docker-archive."""

    def __init__(self, path: str, members: Members | None = None) -> None:
        """Open the archive. Raises NotFound, InvalidDocument, LimitExceeded."""
        self.location = f"docker-archive:{path}"
        self.path = path
        self._members = members or Members(path)
        if "manifest.json" not in self._members:
            raise InvalidDocument(f"{path} has no manifest.json", hint="check the file: it may be an oci-archive")
        self._oci = OciArchiveReader(path, self._members) if "index.json" in self._members else None
        self._images = self._read_list()
        self._documents: dict[Digest, bytes] = {}
        self._places: dict[Digest, str] = {}  # blob -> member
        # diff_id -> the compressed member, of compressions that no media type names
        self._wrapped: dict[Digest, str] = {}
        self._made: dict[int, Descriptor] = {}
        self._numbers: dict[str, int] | None = None  # this and the next are made on first need
        self._digests: dict[str, Descriptor] | None = None
        self._layout_manifests: _LayoutManifests | None = None

    def resolve(self, name: str) -> Descriptor:
        if not name:
            if len(self._images) == 1:
                return self._image(0)
            raise ReferenceNotFound(f"{self.location} holds {len(self._images)} images", hint=self._there())
        if self._numbers is None:
            self._numbers = self._numbered()
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers.get(canonical(name) or name)
        if number is not None:
            return self._image(number)
        if self._digests is None:
            every = [self._image(number) for number in range(len(self._images))]
            self._digests = {str(made.digest): made for made in reversed(every)}
        if name in self._digests:
            return self._digests[name]
        raise ReferenceNotFound(f"{self.location} holds no image {name!r:.200}", hint=self._there())

    def _numbered(self) -> dict[str, int]:
        """Map each name to the number of its image, as written and as docker normalises it. A map, because an archive
        may hold thousands of images."""
        found: dict[str, int] = {}
        for number, image in enumerate(self._images):
            for name in (f"@{number}", *image["RepoTags"]):
                for one in filter(None, (name, canonical(name))):
                    found.setdefault(one, number)
        return found

    def manifest(self, descriptor: Descriptor) -> bytes:
        raw = self._documents.get(descriptor.digest)
        if raw is None:
            if self._oci is None:
                raise BlobNotFound(
                    f"manifest {descriptor.digest} was not found in {self.location}", hint="get the archive again"
                )
            return self._oci.manifest(descriptor)
        descriptor.check(raw)
        return raw

    def has_made(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self._documents

    def blob(self, descriptor: Descriptor) -> Blob:
        place = self._places.get(descriptor.digest)
        if descriptor.digest in self._wrapped:
            return UnwrappedBlob(descriptor, self._members, self._wrapped[descriptor.digest])
        if place is not None:
            return MemberBlob(descriptor, self._members, place)
        if self._oci is not None:
            return self._oci.blob(descriptor)
        raise BlobNotFound(
            f"blob {descriptor.digest} was not found in {self.location}",
            hint="get the archive again: it is incomplete",
        )

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        for number, image in enumerate(self._images):
            for name in image["RepoTags"] or [""]:
                yield name, self._image(number)

    def check_names(self) -> None:
        """Raise InvalidDocument for a name that no image can have, as `docker load` does."""
        for number, image in enumerate(self._images):
            for name in image["RepoTags"]:
                try:
                    Reference.parse(name)
                except UsageError as error:
                    raise InvalidDocument(
                        f"{self.path} names an image {name!r:.200}: {error.message}",
                        hint=f"give it another name: `lamina copy docker-archive:{self.path}:@{number} NAME`",
                    ) from None

    def _image(self, number: int) -> Descriptor:
        made = self._made.get(number)
        if made is None:
            made = self._made[number] = self._layout_manifest(number) or self._make(number)
        return made

    def _layout_manifest(self, number: int) -> Descriptor | None:
        """Return the manifest with this config, in an archive that is an OCI layout as well."""
        if self._oci is None:
            return None
        if self._layout_manifests is None:
            self._layout_manifests = _LayoutManifests(self._oci)
        return self._layout_manifests.of(self._images[number])

    def _make(self, number: int) -> Descriptor:
        """Make a manifest from the config and the layers in the archive."""
        image = self._images[number]
        what = f"{self.path}: image {number + 1}"
        raw = self._read(image["Config"], what)
        config = ImageConfig.parse(raw, f"{what}: config", mediatype.DOCKER_CONFIG)
        config.check_layers(len(image["Layers"]), what)
        place = config.descriptor
        self._places[place.digest] = image["Config"]
        layers = [
            self._layer(name, diff_id, what) for name, diff_id in zip(image["Layers"], config.diff_ids, strict=True)
        ]
        docker = all(mediatype.compression(layer.media_type) != "zstd" for layer in layers)
        manifest = build_manifest(place, layers, docker=docker)
        self._documents[manifest.descriptor.digest] = manifest.raw
        return manifest.descriptor

    def _layer(self, name: str, diff_id: Digest, what: str) -> Descriptor:
        """Describe a layer. The digest of an uncompressed layer is its diff_id (verified when it is copied); a gzip
        or zstd layer is hashed. A layer in bzip2, xz or lzma is described as its uncompressed tar, because no media
        type names these."""
        try:
            with self._members.open(name) as stream:
                compression = sniff_archive(stream.read(BLOCK))
            if compression not in COMPRESSIONS:
                self._wrapped[diff_id] = name
                size = sum(map(len, unwrapped(self._members, name)))
                return Descriptor(mediatype.layer_type("none", docker=True), diff_id, size)
            size = self._members.size(name)
            digest = diff_id
            if compression != "none":
                hasher = new_hasher()
                with self._members.open(name) as stream:
                    while data := stream.read(CHUNK):
                        hasher.update(data)
                digest = Digest("sha256", hasher.hexdigest())
        except KeyError:
            raise InvalidDocument(
                f"{what} names the layer {name!r:.200}, which was not found in the archive",
                hint="get the archive again",
            ) from None
        self._places[digest] = name
        return Descriptor(mediatype.layer_type(compression, docker=compression != "zstd"), digest, size)

    def _read_list(self) -> list[dict[str, Any]]:
        what = f"{self.path}: manifest.json"
        raw = self._members.read("manifest.json")
        listed = json.load(b'{"images":' + raw + b"}", what, limit=64 << 20).get("images")
        if not isinstance(listed, list) or not listed:
            raise InvalidDocument(
                f"{what} is not a list of images", hint="check that `docker save` wrote the archive"
            )
        for image in listed:
            if not isinstance(image, dict) or not isinstance(image.get("Config"), str):
                raise InvalidDocument(
                    f"{what}: an image without Config", hint="check that `docker save` wrote the archive"
                )
            for key in ("RepoTags", "Layers"):
                values = image[key] = image.get(key) or []
                if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                    raise InvalidDocument(
                        f"{what}: {key} is not a list of strings", hint="get the archive again: it is malformed"
                    )
        return listed

    def _read(self, name: str, what: str) -> bytes:
        try:
            return self._members.read(name)
        except KeyError:
            raise InvalidDocument(
                f"{what} names {name!r:.200}, which was not found in the archive", hint="get the archive again"
            ) from None

    def _there(self) -> str:
        names = [name for image in self._images for name in image["RepoTags"]]
        return "name one of: " + ", ".join(names[:20]) if names else "name one by position: @0, @1, ..."


class _LayoutManifests:
    """Maps each image of docker's list to a manifest of the layout. It uses dictionaries, because both lists may have
    thousands of entries."""

    def __init__(self, oci: OciArchiveReader) -> None:
        self._entries: list[Descriptor] = []
        self._by_config: dict[str, int] = {}  # hex digits of the config's digest -> number of the first entry with it
        self._by_name: dict[str, int] = {}  # name -> number of an index
        # the first damaged manifest; an image with a later number can't be found
        self._failed: tuple[int, InvalidContent] | None = None
        indexes: dict[Digest, int] = {}
        names = list(oci.names())
        for number, (_, entry) in enumerate(names):
            self._entries.append(entry)
            if not mediatype.is_manifest(entry.media_type):
                indexes.setdefault(entry.digest, number)
                continue
            try:
                document = parse(oci.manifest(entry), entry.media_type)
            except BlobNotFound:
                continue
            except InvalidContent as error:
                self._failed = self._failed or (number, error)
                continue
            if isinstance(document, Manifest):
                self._by_config.setdefault(document.config.digest.encoded, number)
        for name, entry in names:
            if name and entry.digest in indexes:
                number, key = indexes[entry.digest], canonical(name) or name
                self._by_name[key] = min(number, self._by_name.get(key, number))

    def of(self, image: Mapping[str, Any]) -> Descriptor | None:
        """Return the manifest of an image in docker's list, or None. Raises InvalidContent if an earlier manifest is
        damaged."""
        found = [self._by_config.get(image["Config"][-size:]) for size in _DIGITS]
        found += [self._by_name.get(canonical(tag) or tag) for tag in image["RepoTags"]]
        first = min((number for number in found if number is not None), default=None)
        if self._failed is not None and (first is None or self._failed[0] < first):
            raise self._failed[1]
        return self._entries[first] if first is not None else None


_DIGITS = (64, 128)
"""Lengths of digests in hex digits: sha256, sha512."""


class DockerArchiveWriter:
    """``Writer`` of a docker-archive: a new file, or ``-`` for standard output. Layers are written uncompressed, each
    once."""

    accepts = Accepts(indexes=False, sparse=False)

    def __init__(self, path: str) -> None:
        self.path = path
        self.location = f"docker-archive:{path}"

    @contextmanager
    def session(self, purpose: str) -> Iterator[DockerArchiveSession]:
        archive = ArchiveFile(self.path)
        with archive.writing():
            session = DockerArchiveSession(archive)
            yield session
            session.finish()


class DockerArchiveSession:
    """``Session`` of a docker-archive, and ``TarWriter``."""

    accepts = DockerArchiveWriter.accepts
    reader = None

    def __init__(self, archive: ArchiveFile) -> None:
        self.location = f"docker-archive:{archive.path}"
        self._archive = archive
        self._diff_ids: dict[Digest, Digest] = {}  # digest of the layer's blob -> diff_id, which names its member
        self._configs: dict[Digest, str] = {}
        self._images: dict[Digest, dict[str, Any]] = {}

    def finish(self) -> None:
        """Write the lists of images and names."""
        images = list(self._images.values())
        self._archive.add("manifest.json", dumps(images, separators=(",", ":")).encode())
        self._archive.add("repositories", dumps(self._repositories(), separators=(",", ":")).encode())

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> Presence:
        diff_id = self._diff_ids.get(descriptor.digest)
        is_layer = diff_id is not None and _layer_name(diff_id) in self._archive
        return here_if(is_layer or descriptor.digest in self._configs)

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        with tempfile.TemporaryFile(prefix="lamina-") as spool:
            with reported(tempfile.gettempdir()):
                copy_verified(
                    descriptor,
                    blob,
                    (lambda data: None) if diff_id else spool.write,
                    diff_id=diff_id,
                    on_event=on_event,
                    cancel=cancel,
                    write_plain=spool.write if diff_id else None,
                )
                size = spool.tell()
                spool.seek(0)
            name = _layer_name(diff_id) if diff_id else f"{descriptor.digest.encoded}.json"
            self._archive.add_stream(name, size, spool)
        if diff_id:
            self._diff_ids[descriptor.digest] = diff_id
        else:
            self._configs[descriptor.digest] = name
        return True

    def put_tar(
        self, layer: Descriptor, tar: Blob, *, on_event: OnEvent = ignore, cancel: Cancel | None = None
    ) -> None:
        def told(event: Event) -> None:
            # report it as progress of the layer's blob, as the first and last events do
            if isinstance(event, BlobProgress):
                event = BlobProgress(layer.digest, layer.size * event.done // max(1, event.size), layer.size)
            on_event(event)

        found = tar.descriptor
        pieces = verified(tar, on_event=told, cancel=cancel)
        self._archive.add_stream(_layer_name(found.digest), found.size, PieceStream(pieces))
        self._diff_ids[layer.digest] = found.digest

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        document = parse(raw, descriptor.media_type)
        if not isinstance(document, Manifest) or not document.is_image:
            raise Unsupported(
                f"{self.location} can't hold {descriptor.digest}: it is not an image of one platform",
                hint="choose one with --platform, or write an oci-archive",
            )
        missing = [layer.digest for layer in document.layers if layer.digest not in self._diff_ids]
        if missing or document.config.digest not in self._configs:
            raise BlobNotFound(
                f"{self.location}: {(missing or [document.config.digest])[0]} was not found in the archive",
                hint="write the config and the layers before the manifest",
            )
        image = {
            "Config": self._configs[document.config.digest],
            "RepoTags": [],
            "Layers": [_layer_name(self._diff_ids[layer.digest]) for layer in document.layers],
        }
        self._images.setdefault(descriptor.digest, image)  # it may come again with another name

    def tag(self, name: str, descriptor: Descriptor) -> None:
        tags = self._images[descriptor.digest]["RepoTags"]
        if name and "@" not in name:
            tag = Reference.parse(name).with_default_tag()
            written = tag.familiar if tag.domain == "docker.io" else str(tag)
            if written not in tags:
                tags.append(written)

    def _repositories(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for image in self._images.values():
            for name in image["RepoTags"]:
                repository, _, tag = name.rpartition(":")
                if image["Layers"]:
                    found.setdefault(repository, {})[tag] = image["Layers"][-1].removesuffix(".tar")
        return found


def _layer_name(diff_id: Digest) -> str:
    return f"{diff_id.encoded}.tar"
