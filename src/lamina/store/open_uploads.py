"""Which uploads are open, of all processes that use the store: for quotas, and for the limit of their number.

The file of an upload has a mark of its repository in its name. A name of a repository may be too long for that, so it
is in a file of its own, named by the mark.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from lamina.host.files import remove, replace_file
from lamina.light import pattern
from lamina.source.upload_limits import Open, client_mark_in
from lamina.spec.digest import Digest
from lamina.store import clock
from lamina.store.members import UPLOADS

if TYPE_CHECKING:
    from lamina.store.paths import Paths

PREFIX = "upload-"
_FILE = pattern(PREFIX + r"([0-9a-f]{32})-([0-9a-f]{16})")
_UNUSED = 3600.0  # seconds after which the name of a repository without uploads is removed


def mark_of(repository: str) -> str:
    """What stands for a repository in the names of files."""
    return Digest.of(repository.encode()).encoded[:16]


class OpenUploads:
    """The files of uploads in ``ingest/``."""

    def __init__(self, paths: Paths) -> None:
        self._ingest = paths.ingest
        self._names_in = os.path.join(paths.repositories, UPLOADS)
        self._paths = paths

    def paths(self) -> Iterator[str]:
        """The files of all uploads. Raises OSError."""
        return (os.path.join(self._ingest, f"{PREFIX}{ident}-{mark}") for ident, mark in self._found())

    def count(self, repository: str, client: str) -> Open:
        """The number of uploads to this repository, of the client with this mark, and of all. Raises OSError."""
        mark, found = mark_of(repository), self._found()
        return Open(
            sum(one == mark for _, one in found),
            sum(client_mark_in(ident) == client for ident, _ in found),
            len(found),
        )

    def received(self, repository: str = "") -> dict[str, tuple[str, int]]:
        """The uploads to this repository ("": to all): by ident, the repository and the bytes received. Raises
        OSError."""
        names = {mark_of(repository): repository} if repository else self._names()
        found = {}
        for ident, mark in self._found():
            if mark in names:
                with suppress(FileNotFoundError):
                    path = os.path.join(self._ingest, f"{PREFIX}{ident}-{mark}")
                    found[ident] = names[mark], os.stat(path, follow_symlinks=False).st_size
        return found

    def note(self, repository: str) -> None:
        """Keep the name of a repository that gets an upload now. Raises OSError."""
        path = os.path.join(self._names_in, mark_of(repository))
        try:
            with open(path, "rb") as file:
                known = file.read() == repository.encode()  # a file is empty after a crash of the host
            os.utime(path)
        except FileNotFoundError:
            known = False
        if not known:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            replace_file(path, [repository.encode()], within=self._ingest, lasting=False)

    def tidy(self, now: int) -> None:
        """Remove the names of repositories that have no uploads any more. ``now``: by the clock of the store. Raises
        OSError."""
        old = []
        for mark in self._names():
            path = os.path.join(self._names_in, mark)
            with suppress(FileNotFoundError):
                if not clock.is_younger(os.stat(path).st_mtime_ns, _UNUSED, now):
                    old.append((mark, path))
        there = {mark for _, mark in self._found()}  # after the times: what was begun since is younger
        for mark, path in old:
            if mark not in there:
                remove(path)

    def _names(self) -> dict[str, str]:
        """The repositories by their marks."""
        names = {}
        with suppress(FileNotFoundError):
            for mark in os.listdir(self._names_in):
                with suppress(FileNotFoundError), open(os.path.join(self._names_in, mark), "rb") as file:
                    name = file.read(1000).decode("utf-8", "replace")
                    if mark_of(name) == mark:
                        names[mark] = name
        return names

    def _found(self) -> list[tuple[str, str]]:
        """The idents of all uploads, with the marks of their repositories."""
        with os.scandir(self._ingest) as found:
            names = [one.name for one in found if one.name.startswith(PREFIX) and one.is_file(follow_symlinks=False)]
        return [(name[1], name[2]) for name in map(_FILE.fullmatch, names) if name is not None]
