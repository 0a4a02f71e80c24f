"""Read a log that went to journald, through journalctl."""

from __future__ import annotations

import glob
import subprocess
from collections.abc import Iterator

from lamina.errors import Unsupported
from lamina.run.logs.export_format import parse_export
from lamina.run.logs.pieces import Choice, Piece, Position, wanted_pieces

_DIRECTORIES = ("/run/log/journal/*", "/var/log/journal/*")


class JournalSource:
    def __init__(self, identity: str, *, complete: bool = True) -> None:
        self.complete = complete
        self._identity = identity
        self._cursor = ""
        self._read = 0

    def forward(self, apart: Position | None = None) -> Iterator[tuple[Position, Piece]]:
        words = [f"--after-cursor={self._cursor}"] if self._cursor else []
        for cursor, piece in self._entries(*words):
            self._cursor = cursor
            self._read += 1
            yield (0, self._read), piece

    def bulk(self, choice: Choice) -> Iterator[Piece]:
        return wanted_pieces(self, choice)

    def backward(self) -> Iterator[tuple[Position, Piece]]:
        every = [piece for _, piece in self._entries()]
        for number in reversed(range(len(every))):
            yield (0, number + 1), every[number]

    def end(self) -> Position:
        return 0, sum(1 for _ in self._entries()) + 1

    def seek(self, position: Position) -> None:
        pass  # what comes before is left out by the caller

    def watched(self) -> list[str]:
        return [path for pattern in _DIRECTORIES for path in glob.glob(pattern)]

    def close(self) -> None:
        pass

    def _entries(self, *words: str) -> Iterator[tuple[str, Piece]]:
        command = ["journalctl", "--quiet", "--output=export", *words, f"CONTAINER_ID_FULL={self._identity}"]
        try:
            program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        except OSError:
            raise Unsupported(
                "the log is in journald, and journalctl is not installed",
                hint="install systemd, or use another log driver",
            ) from None
        with program:
            assert program.stdout is not None
            try:
                yield from parse_export(program.stdout)
            finally:
                program.kill()
