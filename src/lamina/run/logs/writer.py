"""Write the log of a container: what its program writes to stdout and stderr, in the form of a driver.

A monitor calls ``write`` with what one read of a pipe gave. A writer never stops the container: what can't be
written (a full disk, a missing journald) is left out of the log, and a line of the log says how much, as soon as one
can be written again. Loaded by every monitor: no heavy imports here and in the modules of the drivers.
"""

from __future__ import annotations

from lamina.light import TYPE_CHECKING
from lamina.run.logs.drivers import DEFAULT, limits_of, log_path, parse_driver

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    class Writer(Protocol):
        def write(self, stream: int, data: bytes) -> None:
            """``stream``: 1 for stdout, 2 for stderr. Does not raise OSError."""

        def end_run(self) -> None:
            """The program has ended, and may start again: write what is still held back. Does not raise OSError."""

        def close(self) -> None:
            """Write what is still held back, and close. Does not raise OSError."""


def open_writer(
    directory: str, driver: str, options: tuple[tuple[str, str], ...], *, container: Mapping[str, str]
) -> Writer:
    """``directory``: of the container's log; created if it is missing. ``driver`` "": the default. ``options``: as
    ``attributes.resolved`` made them. ``container``: its id, name and image. A log that exists is continued. Raises
    UsageError (no such driver, a bad option)."""
    driver = parse_driver(driver or DEFAULT)
    limits = limits_of(options)
    if driver == "local":
        from lamina.run.logs.local import LocalWriter

        return LocalWriter(directory, limits)
    if driver == "journald":
        from lamina.run.logs.journald import JournalWriter

        return JournalWriter(options, container)
    if driver == "json-file":
        from lamina.run.logs.json_file import JsonEncoder as Encoder
        from lamina.run.logs.text_file import TextWriter

        path = log_path(directory, driver, options, container["id"])
        return TextWriter(path, limits, Encoder(dict(options).get("attributes", "")))
    if driver == "k8s-file":
        from lamina.run.logs.k8s_file import CriEncoder
        from lamina.run.logs.text_file import TextWriter

        return TextWriter(log_path(directory, driver, options, container["id"]), limits, CriEncoder())
    return NoWriter()


class NoWriter:
    """Keeps nothing."""

    def write(self, stream: int, data: bytes) -> None:
        pass

    def end_run(self) -> None:
        pass

    def close(self) -> None:
        pass
