"""Fault points: named places where a test makes the process die as by kill -9. Otherwise each costs one
comparison."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

POINTS = (
    "ingest.part-created",
    "ingest.part-written",
    "ingest.part-synced",
    "ingest.index-renamed",
    "ingest.tar-noted",
    "ingest.tar-renamed",
    "ingest.blob-renamed",
    "batch.written",
    "batch.synced",
    "batch.blob-renamed",
    "batch.moved",
    "manifest.written",
    "layer-map.written",
    "layer-map.renamed",
    "digests.written",
    "digests.renamed",
    "root.created",
    "root.extended",
    "root.removed",
    "pin.written",
    "pin.renamed",
    "refs.locked",
    "refs.written",
    "refs.renamed",
    "gc.marked",
    "gc.locked",
    "gc.document-removed",
    "gc.blob-removed",
    "gc.layer-removed",
    "gc.done",
    "prune.refs-removed",
    "prune.parts-removed",
)
NAME_POINTS = ("names.log-made", "names.half-written", "names.written", "names.synced", "names.folded")
"""Points that a change of names passes while the log is used."""
SERVE_POINTS = (
    "upload.synced",
    "upload.blob-renamed",
    "members.pushed",
    "members.used",
    "members.kept",
    "members.settled",
    "members.deleted",
    "members.ended",
    "members.cleaned",
)
"""Points that a registry server of the store passes, and gc after one."""
KEEP_POINTS = ("ingest.seek-renamed", "ingest.origin-noted", "keep.tar-removed", "keep.blob-removed")
"""Points that are passed only if not everything of a layer is kept."""
MONITOR_POINTS = (
    "monitor.ready",
    "monitor.program-started",
    "monitor.start-noted",
    "monitor.start-told",
    "monitor.program-ended",
    "monitor.settled",
    "monitor.end-noted",
)
"""Points that a container's monitor passes."""
RUN_POINTS = (
    "container.directory-made",
    "container.lock-written",
    "container.record-written",
    "container.top-made",
    "container.named",
    "container.mounted",
    "volume.directory-made",
    "volume.filled",
    "volume.record-ready",
    "volume.record-written",
    "volume.named",
    "container.record-rewritten",
    "container.described",
    "container.ended",
    "container.unmounted",
    "container.opened",
    "container.settled",
    "container.set-aside",
    "container.top-removed",
    "container.removed",
)
"""Points that `run`, `cp` and `rm` pass."""
MACHINE_POINTS = (
    "machine.mounted",
    "machine.described",
    "machine.noted",
    "machine.launched",
    "machine.shown",
)
"""Points that `boot`, the process of a machine, and `commit` of one pass."""
VOLUME_POINTS = ("volume.set-aside", "volume.record-removed", "volume.removed")
"""Points that the removal of a volume passes."""
BUILD_POINTS = (
    "step.made",
    "step.mounted",
    "step.ran",
    "step.unmounted",
    "step.ended",
    "cache-mount.filled",
)
"""Points that RUN steps of a build pass, and the end of those of a killed build."""
CACHE_POINTS = (
    "build.record-written",
    "build.record-renamed",
    "build.records-removed",
)
"""Points that the records of the build cache pass."""
_CHOSEN = os.environ.get("LAMINA_FAULT", "")


def point(name: str) -> None:
    """Die here if LAMINA_FAULT names this point."""
    if name == _CHOSEN:
        import signal

        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def pieces(data: Iterable[bytes], name: str) -> Iterator[bytes]:
    """``data``, and then the point: a file that is written from it is complete then, but does not have its name
    yet."""
    yield from data
    point(name)
