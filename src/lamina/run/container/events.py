"""Events of containers in the store's journal, with docker's words for them. A monitor loads this module: it imports
little.
"""

from __future__ import annotations

from lamina.light import TYPE_CHECKING
from lamina.store.journal import note

if TYPE_CHECKING:
    from lamina.store.containers import Container


def note_event(root: str, container: Container, action: str, **attributes: str) -> None:
    """Note what happened to the container. ``root``: of the store. ``action``, ``attributes``: docker's words. Its
    image, name and labels are added."""
    known = {**dict(container.labels), "image": container.image, "name": container.name}
    note(root, "container", action, container.id, {**known, **attributes})
