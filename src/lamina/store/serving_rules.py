"""The rules of a registry server of the store."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.store.leftovers import KEEP_UPLOADS
from lamina.store.roots import GRACE


@dataclass(frozen=True, slots=True)
class ServingRules:
    """``grace``: seconds for which objects are protected that were pushed, mounted or found, and have no name yet.
    ``keep_uploads``: seconds without a byte after which an upload is removed. ``max_blob``: bytes that an upload may
    have (None: no limit)."""

    grace: float = GRACE
    keep_uploads: float = KEEP_UPLOADS
    max_blob: int | None = None
