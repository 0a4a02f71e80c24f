"""Media types of images: OCI (image-spec media-types.md), docker v2 schema 2, and what can be said of them."""

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
"""The artifact manifest that image-spec 1.1 withdrew; known only to be refused by name."""

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
"""Never legal, but met: read, not written."""
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_GZIP = DOCKER_FOREIGN + ".gzip"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""All that a registry is to be asked for, at once: with fewer, old registries convert or pick a child."""

_INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
_MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_IMAGE_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_OLD_CONFIGS = frozenset({"", "application/octet-stream", "application/json", "text/html", "text/plain"})
"""What docker 1.10 and registries of its time wrote for an image config, in docker's manifests only: an OCI manifest
with one of these is an artifact."""
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
    """A list of manifests for several platforms."""
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """One image (or artifact): a config and layers."""
    return media_type in _MANIFESTS


def is_known_document(media_type: str) -> bool:
    """A manifest or an index of a type that lamina reads."""
    return media_type in _INDEXES or media_type in _MANIFESTS


def is_schema1(media_type: str) -> bool:
    """Docker's first manifest format, which lamina knows only by name."""
    return media_type in (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED)


def is_image_config(media_type: str, *, in_docker: bool = False) -> bool:
    """``in_docker``: the type stands in a manifest of docker's, where old versions wrote others."""
    return media_type in _IMAGE_CONFIGS or (in_docker and media_type in _OLD_CONFIGS)


def is_layer(media_type: str) -> bool:
    """A filesystem layer whose form is known."""
    return media_type in _COMPRESSION


def is_foreign(media_type: str) -> bool:
    """A layer that its licence forbids to distribute: not pushed unless asked."""
    return media_type in _FOREIGN


def is_docker(media_type: str) -> bool:
    return media_type.startswith("application/vnd.docker.")


def compression(media_type: str) -> str | None:
    """ "none", "gzip" or "zstd"; None for what is no known layer type."""
    return _COMPRESSION.get(media_type)


def layer_type(compression: str, docker: bool = False, *, foreign: bool = False) -> str:
    """The layer type to write. Raises Unsupported for zstd in docker's format, UsageError for unknown words."""
    oci, dockers = (_OCI_FOREIGNS, _DOCKER_FOREIGNS) if foreign else (_OCI_LAYERS, _DOCKER_LAYERS)
    types = dockers if docker else oci
    if compression in types:
        return types[compression]
    if compression in oci:
        raise Unsupported(
            f"docker's manifest format has no {compression} layers", hint="write OCI, or compress with gzip"
        )
    raise UsageError(f"unknown compression {compression!r:.60}", hint="known: " + ", ".join(oci))


def essence(content_type: str) -> str:
    """A Content-Type header's value without parameters, in lower case: ``a/b; charset=utf-8`` -> ``a/b``."""
    return content_type.partition(";")[0].strip().lower()
