"""Writing a tar archive of images. The file appears at its path only when it is complete."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from lamina.errors import Conflict
from lamina.host.files import reported, whole_file
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Content, LayerWriter, Readable


class ArchiveFile:
    """A tar archive that is being written. ``path`` may be ``-`` for standard output."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._writer: LayerWriter | None = None
        self._names: set[str] = set()
        self._lock = threading.Lock()  # keeps members from interleaving

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Open the archive; at the end close, sync and rename it. After an exception nothing is left. Raises Conflict
        if the path exists and is not a regular file, SystemFailure."""
        if self.path == "-":
            self._start(sys.stdout.buffer)
            yield
            self._finish()
            sys.stdout.buffer.flush()
            return
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise Conflict(f"{self.path!r:.300} already exists and is not a regular file", hint="choose another name")
        try:
            with reported(self.path), whole_file(self.path) as file:
                self._start(file)
                yield
                self._finish()
        finally:
            self._file = self._writer = None

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str, content: bytes) -> None:
        """Add a small member."""
        self._add(name, len(content), content)

    def add_stream(self, name: str, size: int, stream: Readable) -> None:
        """Add a member of ``size`` bytes from an open stream, and close the stream."""
        self._add(name, size, lambda: stream)

    def _add(self, name: str, size: int, content: Content) -> None:
        assert self._writer is not None, "inside `with archive.writing()`"
        with self._lock:
            if name in self._names:
                return
            self._add_parents(name)
            self._writer.add(Entry(os.fsencode(name), Kind.FILE, 0o644, size=size), content)
            self._names.add(name)

    def _add_parents(self, name: str) -> None:
        """Add parent directories as members: skopeo can't create implied ones for an unprivileged user."""
        assert self._writer is not None
        for at, character in enumerate(name):
            if character == "/" and name[:at] not in self._names:
                self._writer.add(Entry(os.fsencode(name[:at]), Kind.DIRECTORY, 0o755))
                self._names.add(name[:at])

    def _start(self, file: IO[bytes]) -> None:
        self._file = file
        self._writer = LayerWriter(file.write)
        self._names.clear()

    def _finish(self) -> None:
        assert self._writer is not None
        self._writer.close()
