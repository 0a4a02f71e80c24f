"""Contexts: what COPY, ADD and binds of RUN read. A directory, a tar (file or stdin), a git repository, an address,
an image, a Dockerfile alone on stdin, or nothing.

An ignore file applies to a directory of this host only: the author of any other context has chosen its files, as
in BuildKit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.build.files import copy_sources, source_storage
from lamina.build.patterns import globs
from lamina.build.patterns.ignore import Patterns, names_of_ignore_files, read_ignore_file
from lamina.build.patterns.trees import FileTree, UnionTree, found, read_exactly
from lamina.errors import LimitExceeded, NotFound, PathNotFound, UsageError
from lamina.host.files import CHUNK, failure
from lamina.layer.entry import Kind

if TYPE_CHECKING:
    from lamina.events import Cancel
    from lamina.spec.platform import Platform
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess

MAX_READ = 16 << 20
"""Bytes of a file that is read as a whole: a Dockerfile, an ignore file."""
_IMAGE, _LAYOUT = "docker-image://", "oci-layout://"


class OpenedContext:
    """A context that is open for one build. ``tree``: its files."""

    def __init__(
        self,
        tree: FileTree[Any],
        opened: ExitStack,
        *,
        dockerfile: bytes | None = None,
        look: Callable[[str], bytes | None] | None = None,
        ignored: Patterns | None = None,
    ) -> None:
        """``dockerfile``: the context is a Dockerfile alone. ``look``: reads files past the ignore file.
        ``ignored``: its patterns."""
        self.tree = tree
        self.dockerfile = dockerfile
        self._opened = opened
        self._look = look
        self._ignored = ignored

    def digest(self, patterns: Sequence[str], *, exclude: Sequence[str] = (), parents: bool = False) -> str:
        """The digest of what COPY with these words reads: names, kinds, modes and content; no times and no owners.
        Raises PathNotFound, UsageError, SystemFailure."""
        return copy_sources.digest(self.tree, patterns, exclude=exclude, parents=parents)

    def read(self, path: str) -> bytes:
        """One file, such as the Dockerfile, whatever the ignore file says. Raises PathNotFound, LimitExceeded."""
        if self.dockerfile is not None:
            return self.dockerfile
        if self._look is not None:
            data = self._look(path)
        else:
            data = _file(self.tree, path)
        if data is not None:
            return data
        raise PathNotFound(f"{path!r:.300} was not found in {self.tree.what}", hint="check the path, or use --file")

    def is_ignored(self, path: str) -> bool:
        """Whether the ignore file excludes the path; False if the file has exceptions. Raises UsageError."""
        patterns = self._ignored
        return patterns is not None and not patterns.has_exceptions and patterns.match(path)[0]

    def close(self) -> None:
        self._opened.close()


def open_context(
    place: str,
    *,
    store: Store,
    network: RegistryAccess,
    cancel: Cancel,
    stdin: BinaryIO | None = None,
    dockerfile: str = "",
    ignore: bytes | None = None,
    platform: Platform | None = None,
) -> OpenedContext:
    """Open a context: a directory, a tar, a git repository, an address, "-" (``stdin``: a tar, or a Dockerfile
    alone), ``docker-image://NAME`` and ``oci-layout://PATH`` (the files of an image), an empty one ("").
    ``dockerfile``: where the Dockerfile is in the context, as an ignore file may stand beside it; ``ignore``: the
    content of an ignore file that stands elsewhere. Raises NotFound, UsageError, and what fetching raises."""
    with ExitStack() as opened:
        context = _opened(place, opened, store, network, cancel, stdin, dockerfile, ignore, platform)
        context._opened = opened.pop_all()
        return context
    raise AssertionError("unreachable")


def _opened(
    place: str,
    opened: ExitStack,
    store: Store,
    network: RegistryAccess,
    cancel: Cancel,
    stdin: BinaryIO | None,
    dockerfile: str,
    ignore: bytes | None,
    platform: Platform | None,
) -> OpenedContext:
    if not place:
        return OpenedContext(UnionTree(None, "the empty context"), opened)
    if place == "-":
        if stdin is None:
            raise UsageError("there is no stdin to read a context from", hint="name a directory")
        return _of_stream(stdin, "stdin", opened)
    if place.startswith((_IMAGE, _LAYOUT)):
        return OpenedContext(UnionTree(_image(place, store, network, platform), f"the image {place}"), opened)
    if os.path.exists(place):
        return _local(place, opened, store, cancel, dockerfile, ignore)
    from lamina.build import addresses

    repository = addresses.git_repository(place, short=place.startswith("github.com/"))
    if repository is not None:
        from lamina.build.files import git

        checkout = opened.enter_context(git.checked_out_in(repository, store, cancel, log=lambda data: None))
        return OpenedContext(checkout, opened)
    if addresses.is_address(place):
        from lamina.build.files import fetch

        with fetch.stream(place, network) as answer:
            return _of_stream(answer, addresses.without_credentials(place), opened)
    return _local(place, opened, store, cancel, dockerfile, ignore)


def _local(
    place: str, opened: ExitStack, store: Store, cancel: Cancel, dockerfile: str, ignore: bytes | None
) -> OpenedContext:
    try:
        state = os.stat(place)
    except FileNotFoundError:
        raise NotFound(f"the context {place!r:.300} was not found", hint="check the path") from None
    except OSError as error:
        raise failure(error, place) from error
    if not stat.S_ISDIR(state.st_mode):
        if not stat.S_ISREG(state.st_mode):
            raise UsageError(f"the context {place!r:.300} is neither a directory nor a file", hint="check the path")
        try:
            with open(place, "rb") as file:
                return _of_stream(file, place, opened, only_tar=True)
        except OSError as error:
            raise failure(error, place) from error
    from lamina.build.files.content_hashes import ContentHashes
    from lamina.build.files.local_tree import LocalTree

    # past the ignore file: the Dockerfile may be ignored, or a symlink to what is
    plain = opened.enter_context(LocalTree(place))
    patterns = _ignored(plain, dockerfile) if ignore is None else read_ignore_file(ignore)
    kept = _hashes_of(store, state, place)
    source_storage.touch(kept)
    hashes = ContentHashes(kept, within=store.paths.ingest)
    ignored = Patterns(patterns)
    tree = opened.enter_context(LocalTree(place, ignored=ignored, hashes=hashes, cancel=cancel))
    return OpenedContext(tree, opened, look=lambda path: _file(plain, path), ignored=ignored)


def _ignored(tree: Any, dockerfile: str) -> list[str]:
    """The patterns of the first ignore file that is there."""
    for name in names_of_ignore_files(globs.clean(dockerfile or "Dockerfile")):
        data = None if name.startswith(("/", "../")) else _file(tree, name)
        if data is not None:
            return read_ignore_file(data, name)
    return []


def _hashes_of(store: Store, state: os.stat_result, place: str) -> str:
    import hashlib

    name = hashlib.sha256(f"{state.st_dev} {os.path.realpath(place)}".encode("utf-8", "surrogateescape")).hexdigest()
    return source_storage.place(store.paths, source_storage.CONTEXTS, name[:40])


def _of_stream(stream: Any, what: str, opened: ExitStack, *, only_tar: bool = False) -> OpenedContext:
    """A tar, or a Dockerfile alone."""
    from lamina.build.files import archives

    start = read_exactly(stream, CHUNK)
    archive = archives.opened_stream(stream, start, f"the context on {what}" if what == "stdin" else what)
    if archive is not None:
        opened.callback(archive.close)
        return OpenedContext(archives.ArchiveTree(archive), opened)
    if only_tar:
        raise UsageError(f"the context {what!r:.300} is neither a directory nor a tar", hint="check the path")
    if not start:
        raise UsageError(f"{what} is empty", hint="give it a tar, or a Dockerfile")
    rest = read_exactly(stream, MAX_READ)
    if len(rest) == MAX_READ:
        raise LimitExceeded(f"{what} is neither a tar nor a Dockerfile: it is too long", hint="check what is sent")
    return OpenedContext(UnionTree(None, "the empty context"), opened, dockerfile=start + rest)


def _image(place: str, store: Store, network: RegistryAccess, platform: Platform | None) -> Any:
    from lamina.spec.platform import Platform as Known

    wanted = platform or Known.host()
    if place.startswith(_IMAGE):
        name = place.removeprefix(_IMAGE)
        return None if name == "scratch" else store.stack(name, wanted)
    raise UsageError(
        f"{place!r:.200} can't be read as files yet", hint="load it into the store, and use docker-image://"
    )


def _file(tree: FileTree[Any], path: str) -> bytes | None:
    """The content of a small file; None if there is none. Symlinks are followed inside the tree. Raises
    LimitExceeded."""
    node = found(tree, os.fsencode(path))
    if node is None or tree.kind(node) != Kind.FILE:
        return None
    if tree.entry(node, b"").size > MAX_READ:
        raise LimitExceeded(f"{path!r:.200} has more than {MAX_READ} bytes", hint="check the file")
    content = tree.content(node)
    if not callable(content):
        return content or b""
    stream = content()
    try:
        return read_exactly(stream, MAX_READ + 1)
    finally:
        stream.close()
