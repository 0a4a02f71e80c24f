"""Media types of images: OCI (image-spec media-types.md) and docker v2 schema 2, and functions that classify them."""

from __future__ import annotations

from lamina.errors import Unsupported, UsageError

OCI_LAYOUT_HEADER = "application/vnd.oci.layout.header.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_FOREIGN_GZIP = OCI_FOREIGN + "+gzip"
OCI_FOREIGN_ZSTD = OCI_FOREIGN + "+zstd"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
"""The artifact manifest that image-spec 1.1 withdrew; lamina only knows its name, to refuse it."""

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
"""Never specified, but it occurs: lamina reads it and does not write it."""
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_GZIP = DOCKER_FOREIGN + ".gzip"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""All types to ask a registry for in one Accept header: with fewer, old registries convert the manifest or pick a
platform."""

_INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
_MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_IMAGE_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_OLD_CONFIGS = frozenset({"", "application/octet-stream", "application/json", "text/html", "text/plain"})
"""Media types that docker 1.10 and registries of its time gave to image configs. They count only in docker's
manifests: an OCI manifest with one of them is an artifact."""
_COMPRESSION = {
    OCI_LAYER: "none",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    OCI_FOREIGN: "none",
    OCI_FOREIGN_GZIP: "gzip",
    OCI_FOREIGN_ZSTD: "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_FOREIGN: "none",
    DOCKER_FOREIGN_GZIP: "gzip",
}
_FOREIGN = frozenset({OCI_FOREIGN, OCI_FOREIGN_GZIP, OCI_FOREIGN_ZSTD, DOCKER_FOREIGN, DOCKER_FOREIGN_GZIP})
_OCI_LAYERS = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_OCI_FOREIGNS = {"none": OCI_FOREIGN, "gzip": OCI_FOREIGN_GZIP, "zstd": OCI_FOREIGN_ZSTD}
_DOCKER_LAYERS = {"none": DOCKER_LAYER, "gzip": DOCKER_LAYER_GZIP}
_DOCKER_FOREIGNS = {"none": DOCKER_FOREIGN, "gzip": DOCKER_FOREIGN_GZIP}


def is_index(media_type: str) -> bool:
    """Whether it is a list of manifests for several platforms."""
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """Whether it is one image (or artifact): a config and layers."""
    return media_type in _MANIFESTS


def is_known_document(media_type: str) -> bool:
    """Whether lamina reads documents of this type: manifests and indexes."""
    return media_type in _INDEXES or media_type in _MANIFESTS


def is_schema1(media_type: str) -> bool:
    """Whether it is docker's manifest schema 1, which lamina only knows by name."""
    return media_type in (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED)


def is_image_config(media_type: str, *, in_docker: bool = False) -> bool:
    """Whether it is an image config. ``in_docker``: the type is from a docker manifest, where old versions wrote
    other types."""
    return media_type in _IMAGE_CONFIGS or (in_docker and media_type in _OLD_CONFIGS)


def is_layer(media_type: str) -> bool:
    """Whether it is a file system layer in a known format."""
    return media_type in _COMPRESSION


def is_foreign(media_type: str) -> bool:
    """Whether it is a layer whose licence forbids redistribution: not pushed unless asked."""
    return media_type in _FOREIGN


def is_docker(media_type: str) -> bool:
    return media_type.startswith("application/vnd.docker.")


def compression(media_type: str) -> str | None:
    """Return "none", "gzip" or "zstd"; None if it is not a known layer type."""
    return _COMPRESSION.get(media_type)


def layer_type(compression: str, docker: bool = False, *, foreign: bool = False) -> str:
    """Return the media type to write for a layer. Raises Unsupported for zstd in docker's format, UsageError for an
    unknown compression."""
    oci, dockers = (_OCI_FOREIGNS, _DOCKER_FOREIGNS) if foreign else (_OCI_LAYERS, _DOCKER_LAYERS)
    types = dockers if docker else oci
    if compression in types:
        return types[compression]
    if compression in oci:
        raise Unsupported(
            f"docker's manifest format has no {compression} layers", hint="write OCI, or compress with gzip"
        )
    raise UsageError(f"unknown compression {compression!r:.60}", hint="use " + ", ".join(oci))


def essence(content_type: str) -> str:
    """Return a Content-Type header's value without parameters, in lower case: ``a/b; charset=utf-8`` -> ``a/b``."""
    return content_type.partition(";")[0].strip().lower()
