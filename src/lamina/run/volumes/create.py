"""Making a volume that no container has asked for."""

from __future__ import annotations

from collections.abc import Mapping

from lamina.errors import Unsupported
from lamina.light import TYPE_CHECKING
from lamina.run.volumes.driver import check_options
from lamina.store.journal import note
from lamina.store.volumes import LOCAL, Volume, check_name, new_name, new_volume

if TYPE_CHECKING:
    from lamina.store.store import Store


def create_volume(
    store: Store, name: str, labels: Mapping[str, str], options: Mapping[str, str], *, driver: str = LOCAL
) -> Volume:
    """Make a volume, or return the one that exists, unchanged, as docker does. ``name``: "" for a new one. Raises
    UsageError, Unsupported, Conflict, SystemFailure."""
    if driver not in ("", LOCAL):
        raise Unsupported(
            f"unknown driver of volumes {driver!r:.60}", hint="leave --driver out: local is the only one"
        )
    check_options(options)
    made = new_volume(check_name(name) if name else new_name(), labels.items(), options.items(), anonymous=not name)
    if store.volumes.make(made):
        note(store.paths.root, "volume", "create", made.name, {"driver": LOCAL})
        return made
    return store.volumes.get(made.name)
