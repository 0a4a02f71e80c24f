"""Checks of the free disk space while writing, and temporary files for data whose size is unknown until it is
inflated. Some space always stays free, because a full disk harms everybody on the host."""

from __future__ import annotations

import errno
import os

from lamina.errors import DiskFull
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING
from lamina.text import human_size

if TYPE_CHECKING:
    from typing import IO

CHECK_EVERY = 64 << 20
"""Bytes written between two checks of the free space."""
_MARGIN = 16 << 20  # bytes that stay free


def check_free_space(root: str, needed: int) -> None:
    """Raise DiskFull unless the disk has ``needed`` bytes and a margin free."""
    free, margin = _free(root)
    if free < needed + margin:
        raise DiskFull(
            f"{root}: the disk is full: {free} bytes are free, {needed + margin} are needed",
            hint="free some space; `lamina prune` deletes what no image needs",
        )


def missing_space(root: str, needed: int) -> int:
    """Return how many bytes have to be freed before the disk has ``needed`` bytes and a margin free."""
    free, margin = _free(root)
    return max(0, needed + margin - free)


def _free(path: str) -> tuple[int, int]:
    """Return how many bytes of a file system are free, and how many of them must stay free."""
    if not hasattr(os, "statvfs"):
        return 1 << 62, 0
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize, min(_MARGIN, state.f_blocks * state.f_frsize // 20)


class Spool:
    """An unnamed temporary file for the inflated content of ``what`` (named in errors): ``write`` pieces, then call
    ``finish``. The caller closes ``file``. Raises DiskFull, SystemFailure."""

    def __init__(self, what: str) -> None:
        import tempfile

        self.directory = tempfile.gettempdir()
        self._what = what
        self._written = self._looked = 0
        with reported(self.directory):
            self.file: IO[bytes] = tempfile.TemporaryFile(prefix="lamina-")  # noqa: SIM115  (its owner's)

    def write(self, data: bytes) -> None:
        if self._written + len(data) - self._looked >= CHECK_EVERY or not self._written:
            self._look(len(data))
        try:
            self.file.write(data)
        except OSError as error:
            self._check(error)
        self._written += len(data)

    def finish(self) -> None:
        """Flush: afterwards everything is in the file."""
        try:
            self.file.flush()
        except OSError as error:
            self._check(error)

    def _look(self, needed: int) -> None:
        with reported(self.directory):
            free, margin = _free(self.directory)
        self._looked = self._written
        if free < needed + margin:
            raise self._full(f"{human_size(free)} free, {human_size(margin)} are reserved")

    def _check(self, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise self._full("no space left") from error
        with reported(self.directory):
            raise error

    def _full(self, why: str) -> DiskFull:
        return DiskFull(
            f"{self._what} does not fit into {self.directory} uncompressed: {why} after the first "
            f"{human_size(self._written)}",
            hint="set TMPDIR to a directory with more space, or free some there",
        )
