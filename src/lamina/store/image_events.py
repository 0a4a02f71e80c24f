"""Events of images in the store's journal, with docker's words for them."""

from __future__ import annotations

from lamina.errors import LaminaError
from lamina.light import TYPE_CHECKING
from lamina.source.select import read_config
from lamina.spec.manifest import Manifest, parse
from lamina.spec.reference import Reference, canonical, familiar
from lamina.store.journal import note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.spec.descriptor import Descriptor
    from lamina.store.store import Store


def note_transfer(store: Store, action: str, name: str) -> None:
    """Note a pull or a push. ``name``: the full name of the image."""
    try:
        reference = Reference.parse(name).with_default_tag()
    except LaminaError:
        note(store.paths.root, "image", action, name, {"name": name})
        return
    shown = reference.familiar
    stem = shown.partition("@")[0] if reference.digest else shown.rpartition(":")[0]
    note(store.paths.root, "image", action, shown, {"name": stem})


def note_image(store: Store, action: str, descriptor: Descriptor, name: str = "") -> None:
    """Note what happened to an image that is in the store. ``name``: the full name that it was about; by default its
    ID stands there, as in docker."""
    identity, labels = _facts(store, descriptor)
    note(
        store.paths.root, "image", action, identity, {**labels, "name": familiar(canonical(name) or name) or identity}
    )


def tag(store: Store, name: str, descriptor: Descriptor) -> None:
    """``store.tag``, and note it. Raises as that does."""
    store.tag(name, descriptor)
    note_image(store, "tag", descriptor, name)


def note_removal(store: Store, images: Iterable[tuple[str, bool]]) -> None:
    """Note for each image, by its ID, that it has lost a name, and whether it was deleted."""
    for identity, deleted in images:
        note(store.paths.root, "image", "delete" if deleted else "untag", identity, {"name": identity})


def image_id(store: Store, descriptor: Descriptor) -> str:
    """The ID of an image: the digest of its config; of what has none, or can't be read, the document's."""
    return _facts(store, descriptor, with_labels=False)[0]


def _facts(store: Store, descriptor: Descriptor, *, with_labels: bool = True) -> tuple[str, dict[str, str]]:
    try:
        document = parse(store.manifest(descriptor), descriptor.media_type)
        if not isinstance(document, Manifest):
            return str(descriptor.digest), {}
        identity = str(document.config.digest)
    except LaminaError:
        return str(descriptor.digest), {}
    try:
        return identity, read_config(store, document, "").labels if with_labels else {}
    except LaminaError:  # an artifact
        return identity, {}
