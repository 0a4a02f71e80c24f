"""A wheel as the items of a layer. PyPI's ``installer`` decides where each file goes; nothing is unpacked on the
host."""

from __future__ import annotations

import base64
import calendar
import io
import posixpath
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, BinaryIO

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.exceptions import InstallerError
from installer.records import Hash, RecordEntry
from installer.scripts import Script
from installer.sources import WheelFile
from installer.utils import Scheme

from lamina.build.addresses import is_address
from lamina.errors import DigestMismatch, InvalidDocument, LimitExceeded
from lamina.host.files import CHUNK, reported
from lamina.layer.entry import Entry, Kind
from lamina.layer.safe_path import normalise
from lamina.spec.digest import new_hasher

if TYPE_CHECKING:
    from installer.scripts import ScriptSection

    from lamina.build.protocols import Inputs
    from lamina.build.steps import WheelStep
    from lamina.layer.tar_write import Content, Item, Readable

_OLDEST = (1980, 1, 1, 0, 0, 0)
"""The time of files that the wheel does not have itself (RECORD, scripts): the oldest that a zip can state."""
_MAX_IN_MEMORY = 64 << 20  # bytes: files that are rewritten (scripts), or read as a whole (RECORD and other metadata)


@contextmanager
def wheel_items(step: WheelStep, open_file: Callable[[], Readable], *, limit: int) -> Iterator[list[Item]]:
    """The items of the layer; their contents can be read while the block runs. ``open_file`` opens the wheel's bytes,
    which are read once and checked. ``limit``: bytes that the wheel may have, and its files together. Raises
    DigestMismatch, InvalidDocument (it is not a wheel), LimitExceeded."""
    with _checked(step, open_file, limit) as file:
        with _invalid_reported(step.file):
            archive = zipfile.ZipFile(file)
        with archive:
            with _invalid_reported(step.file):
                if sum(info.file_size for info in archive.infolist()) > limit:
                    raise LimitExceeded(
                        f"{step.file}: its files have more than {limit} bytes", hint="use another wheel"
                    )
                _check_metadata(step.file, archive)
                archive.filename = step.file  # ``WheelFile`` takes the name and the version from it
                collected = _Collected(step, archive)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # files in __pycache__ are left out
                    install(WheelFile(archive), collected, {"INSTALLER": b"lamina\n"})
            yield collected.items()


def opened(step: WheelStep, inputs: Inputs) -> Callable[[], Readable]:
    """What opens the bytes of the wheel: its address, or its path on this host. Calling it raises what
    ``remote.download.Download`` raises, NotFound, SystemFailure."""

    def from_host() -> Readable:
        with reported(step.url):
            return open(step.url, "rb")

    return partial(inputs.network.download, step.url) if is_address(step.url) else from_host


@contextmanager
def _checked(step: WheelStep, open_file: Callable[[], Readable], limit: int) -> Iterator[IO[bytes]]:
    """The wheel as a temporary file, after its size and digest were checked."""
    most = limit if step.size is None else min(limit, step.size)
    with reported(tempfile.gettempdir()):
        file = tempfile.TemporaryFile(prefix="lamina-")  # noqa: SIM115  (closed below)
    with file:
        hasher, size, stream = new_hasher(), 0, open_file()
        try:
            while data := stream.read(CHUNK):
                size += len(data)
                if size > most:
                    raise LimitExceeded(f"{step.file} has more than {most} bytes", hint="make the lock file again")
                hasher.update(data)
                with reported(tempfile.gettempdir()):
                    file.write(data)
        finally:
            stream.close()
        if hasher.hexdigest() != step.sha256:
            raise DigestMismatch(
                f"{step.file} has the digest sha256:{hasher.hexdigest()}, not sha256:{step.sha256}",
                hint="make the lock file again; if that does not help, don't trust the index",
            )
        with reported(tempfile.gettempdir()):
            file.seek(0)
        yield file


def _check_metadata(name: str, archive: zipfile.ZipFile) -> None:
    """The installer reads the metadata into memory. Raises LimitExceeded."""
    for info in archive.infolist():
        if ".dist-info/" in info.filename and info.file_size > _MAX_IN_MEMORY:
            raise LimitExceeded(
                f"{name}: {info.filename!r:.200} has {info.file_size} bytes, more than {_MAX_IN_MEMORY}",
                hint="use another wheel",
            )


@contextmanager
def _invalid_reported(name: str) -> Iterator[None]:
    try:
        yield
    except (
        InstallerError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,  # a compression that Python lacks
        KeyError,
        ValueError,
        EOFError,
        RuntimeError,  # an encrypted file
    ) as error:
        raise InvalidDocument(
            f"{name} is not a valid wheel: {error}", hint="report it to the publisher of the package"
        ) from None


class _Collected(SchemeDictionaryDestination):
    """Where the files of a wheel would go, as items instead of files."""

    def __init__(self, step: WheelStep, archive: zipfile.ZipFile) -> None:
        site, scripts, data = step.site, step.scripts, step.data
        name = step.name.replace("-", "_")
        headers = posixpath.join(data, "include/site/python" + ".".join(step.python.split(".")[:2]), name)
        places = {"purelib": site, "platlib": site, "scripts": scripts, "data": data, "headers": headers}
        super().__init__(places, interpreter=step.executable, script_kind="posix")
        self._archive = archive
        self._files: dict[bytes, Item] = {}
        self._directories: dict[bytes, Item] = {}

    def items(self) -> list[Item]:
        return [*self._directories.values(), *self._files.values()]

    def write_script(self, name: str, module: str, attr: str, section: ScriptSection) -> RecordEntry:
        file, data = Script(name, module, attr, section).generate(self.interpreter, "posix")
        return self.write_to_fs(Scheme("scripts"), file, io.BytesIO(data), is_executable=True)

    def write_to_fs(self, scheme: Scheme, path: str, stream: BinaryIO, is_executable: bool) -> RecordEntry:
        """Note a file instead of writing it. Its content is read again when the layer is written, unless it is not in
        the archive as it is."""
        place = normalise(posixpath.join(self.scheme_dict[scheme].lstrip("/"), path.lstrip("/")).encode())
        if place in self._files:
            raise ValueError(f"two files at /{place.decode()}")
        hasher, size = new_hasher(), 0
        while data := stream.read(CHUNK):
            size += len(data)
            hasher.update(data)
        content, time = self._content(stream, size)
        mode = 0o755 if is_executable else 0o644
        self._files[place] = Entry(place, Kind.FILE, mode, size=size, mtime=_nanoseconds(time)), content
        self._state_parents(place, scheme)
        text = base64.urlsafe_b64encode(bytes.fromhex(hasher.hexdigest())).rstrip(b"=").decode()
        return RecordEntry(path, Hash("sha256", text), size)

    def _content(self, stream: BinaryIO, size: int) -> tuple[Content, tuple[int, ...]]:
        if isinstance(stream, zipfile.ZipExtFile):
            info = self._archive.getinfo(stream.name)
            return (lambda: self._archive.open(info)), info.date_time
        if size > _MAX_IN_MEMORY:
            raise ValueError(f"a script of {size} bytes")
        stream.seek(0)
        return stream.read(), _OLDEST

    def _state_parents(self, path: bytes, scheme: Scheme) -> None:
        """State the directories below the scheme's own, which the image has already."""
        top = normalise(self.scheme_dict[scheme].encode())
        parent = path.rpartition(b"/")[0]
        while len(parent) > len(top) and parent not in self._directories:
            entry = Entry(parent, Kind.DIRECTORY, 0o755, mtime=_nanoseconds(_OLDEST))
            self._directories[parent] = entry, None
            parent = parent.rpartition(b"/")[0]


def _nanoseconds(time: tuple[int, ...]) -> int:
    """A zip states local time without a zone: it counts as UTC, so that it is the same everywhere."""
    try:
        return calendar.timegm((*time, 0, 0, 0)) * 1_000_000_000
    except (ValueError, OverflowError):
        return calendar.timegm((*_OLDEST, 0, 0, 0)) * 1_000_000_000
