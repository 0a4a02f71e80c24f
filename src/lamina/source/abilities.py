"""What only some places and streams can do, asked at run time by the methods that they have. The protocols themselves
(``source.protocols``) are for type checkers: no program loads ``typing`` for them.
"""

from __future__ import annotations

from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from lamina.source.protocols import (
        Abortable,
        BatchWriter,
        Lister,
        ManifestMaker,
        Referrers,
        SameImageFinder,
        TarReader,
        TarWriter,
    )
    from lamina.source.served import (
        BlobHolder,
        CopyingRepositories,
        Growing,
        Indexed,
        Linked,
        Pieces,
        Piped,
        Served,
        WarningRepositories,
    )


def gives_url(blob: object) -> TypeIs[Linked]:
    """Whether clients may be sent elsewhere for the bytes of this blob."""
    return hasattr(blob, "url")


def gives_pieces(stream: object) -> TypeIs[Pieces]:
    """Whether the stream has bytes in pieces of its own sizes."""
    return hasattr(stream, "piece")


def is_piped(stream: object) -> TypeIs[Piped]:
    """Whether the bytes of the stream may come from a socket."""
    return hasattr(stream, "source")


def can_abort(stream: object) -> TypeIs[Abortable]:
    """Whether another thread can stop a read of this stream."""
    return hasattr(stream, "abort")


def lists_referrers(place: object) -> TypeIs[Referrers]:
    """Whether the place knows the signatures and attestations of a manifest."""
    return hasattr(place, "referrers")


def gives_tars(place: object) -> TypeIs[TarReader]:
    """Whether the place may have the uncompressed tar of a layer."""
    return hasattr(place, "tar")


def takes_tars(place: object) -> TypeIs[TarWriter]:
    """Whether a layer can be written to the place as an uncompressed tar."""
    return hasattr(place, "put_tar")


def makes_manifests(place: object) -> TypeIs[ManifestMaker]:
    """Whether the place makes manifests for images that have none."""
    return hasattr(place, "has_made")


def finds_same_image(place: object) -> TypeIs[SameImageFinder]:
    """Whether the place finds an image by its config."""
    return hasattr(place, "same_image")


def writes_batches(place: object) -> TypeIs[BatchWriter]:
    """Whether the place writes many images faster together."""
    return hasattr(place, "batch") and hasattr(place, "commit_names")


def lists_names(place: object) -> TypeIs[Lister]:
    """Whether the place can list its images."""
    return hasattr(place, "names")


def finds_in_repositories(place: object) -> TypeIs[Indexed]:
    """Whether the place finds what a repository has without reading all its names."""
    return hasattr(place, "reading")


def gives_warnings(place: object) -> TypeIs[WarningRepositories]:
    """Whether answers of these repositories may be old, and they say so."""
    return hasattr(place, "warning")


def keeps_copies(place: object) -> TypeIs[CopyingRepositories]:
    """Whether these repositories are copied from elsewhere when somebody asks for them."""
    return hasattr(place, "kept")


def is_growing(stream: object) -> TypeIs[Growing]:
    """Whether the bytes of the stream are still coming in."""
    return hasattr(stream, "when_ready")


def takes_pushes(place: object) -> TypeIs[Served]:
    """Whether a registry server can let its clients write to the place."""
    return hasattr(place, "repositories")


def has_blobs(place: object) -> TypeIs[BlobHolder]:
    """Whether the place finds blobs by their digests alone."""
    return hasattr(place, "blobs")
