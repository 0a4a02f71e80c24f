"""What was pushed to repositories, and deleted from them: empty files below ``repositories/`` (docs/store.md).

A repository has four directories, with one file for each digest:

- ``_pushed``: the object was pushed or mounted, and no manifest names it yet. Protected from gc for the grace time.
- ``_links``: a manifest of the repository named the object when it came. Not protected: names do that.
- ``_kept``: a client was told that it need not send the object. Protected for the grace time.
- ``_deleted``: the object is not in the repository, whatever names it.

Beside them, in the top directory, are the settings of the last server, and ``.uploads`` (``store.open_uploads``).

The name of no repository has a component that begins with ``_``. The caller of a method that protects something holds
the store's lock, so that a gc has either seen it or has not begun.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from lamina.errors import UsageError
from lamina.host.files import names_of_files, remove, replace_file, sync_directory
from lamina.host.lock import locked
from lamina.light import TYPE_CHECKING
from lamina.spec.digest import Digest
from lamina.store import clock
from lamina.store.fault import point
from lamina.store.roots import GRACE

if TYPE_CHECKING:
    from lamina.store.paths import Paths

PUSHED, LINKS, KEPT, DELETED = "_pushed", "_links", "_kept", "_deleted"
KINDS = (LINKS, PUSHED, KEPT, DELETED)
_GRACE = ".grace"
_KEEP_UPLOADS = ".keep-uploads"
_TURN = ".gc"
UPLOADS = ".uploads"
"""A directory for ``store.open_uploads``."""
_OWN = (_GRACE, _KEEP_UPLOADS, _TURN)
_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class Members:
    """The membership of objects in repositories. Repositories are given as ``Reference.repository``."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def grace(self) -> float:
        """The seconds for which what was pushed or kept is protected, as the last server has set them."""
        return self._setting(_GRACE, GRACE)

    def keep_uploads(self, default: float) -> float:
        """The seconds without a byte after which an upload is removed, as the last server has set them."""
        return self._setting(_KEEP_UPLOADS, default)

    def set_rules(self, grace: float, keep_uploads: float) -> None:
        """Set both. Raises OSError."""
        self._set(_GRACE, grace, GRACE)
        self._set(_KEEP_UPLOADS, keep_uploads, -1.0)

    def _setting(self, name: str, default: float) -> float:
        try:
            with open(os.path.join(self._paths.repositories, name), encoding="ascii", errors="replace") as file:
                return max(0.0, float(file.read(40)))
        except (OSError, ValueError):
            return default

    def _set(self, name: str, seconds: float, default: float) -> None:
        if self._setting(name, default) != seconds:
            self._make(self._paths.repositories)
            path = os.path.join(self._paths.repositories, name)
            replace_file(path, [f"{seconds}\n".encode()], within=self._paths.ingest)

    def turn_file(self) -> str:
        """The path of the file whose time is that of the last gc by a server. Raises OSError."""
        self._make(self._paths.repositories)
        return os.path.join(self._paths.repositories, _TURN)

    def exists(self, repository: str) -> bool:
        """Whether something was pushed to the repository, or deleted from it."""
        return os.path.isdir(self._directory(repository, LINKS))

    def repositories(self) -> Iterator[str]:
        """The repositories that exist, in no order. Raises OSError."""
        start = len(self._paths.repositories) + 1
        return (_unquoted(directory[start:]) for directory in self._directories())

    def _directories(self) -> Iterator[str]:
        """The directories of the repositories that exist."""
        pending = [self._paths.repositories]
        while pending:
            above = pending.pop()
            own, below = False, []
            try:
                with os.scandir(above) as found:
                    for one in found:
                        if one.name[0] not in "._":
                            below.append(one)
                        own = own or one.name == LINKS
                    pending += [one.path for one in below if one.is_dir(follow_symlinks=False)]
            except FileNotFoundError:
                continue
            if own and above != self._paths.repositories:
                yield above

    def has(self, repository: str, digest: Digest) -> bool:
        """Whether the object was pushed to the repository, and not deleted since."""
        # in this order: settling moves a file from the first to the second
        return any(os.path.exists(self._path(repository, kind, digest)) for kind in (PUSHED, LINKS))

    def is_deleted(self, repository: str, digest: Digest) -> bool:
        return os.path.exists(self._path(repository, DELETED, digest))

    def listed(self, repository: str, kind: str) -> set[Digest]:
        """The digests in one of the directories of a repository."""
        with suppress(FileNotFoundError):
            return {digest for name in names_of_files(self._directory(repository, kind)) if (digest := _digest(name))}
        return set()

    def push(self, repository: str, digests: Iterable[Digest]) -> None:
        """Protect objects that come into the repository. Durable after ``sync``. Raises OSError."""
        self.make(repository)
        for digest in digests:
            path = self._path(repository, PUSHED, digest)
            if os.path.exists(path):
                # another push relies on it too: settling that one must not end the protection of this one
                self._touch(self._path(repository, KEPT, digest))
            self._touch(path)
        point("members.pushed")

    def use(self, repository: str, digests: Iterable[Digest]) -> None:
        """Protect objects that a manifest names, while it comes in. Raises OSError."""
        self.make(repository)
        for digest in digests:
            self._touch(self._path(repository, PUSHED, digest))
        point("members.used")

    def keep(self, repository: str, digests: Iterable[Digest]) -> None:
        """Protect objects of the repository. Raises OSError."""
        self.make(repository)
        for digest in digests:
            self._touch(self._path(repository, KEPT, digest))
        point("members.kept")

    def link(self, repository: str, digests: Iterable[Digest]) -> None:
        """Note that objects are in the repository, without protecting them. Durable after ``sync``. Raises
        OSError."""
        self.make(repository)
        for digest in digests:
            self._touch(self._path(repository, LINKS, digest))

    def settle(self, repository: str, digests: Iterable[Digest]) -> None:
        """A manifest with a name names these now: that protects what was pushed. Raises OSError."""
        for digest in digests:
            with suppress(FileNotFoundError):
                os.replace(self._path(repository, PUSHED, digest), self._path(repository, LINKS, digest))
        point("members.settled")

    def restore(self, repository: str, digest: Digest) -> None:
        """The object is in the repository again, for good. Raises OSError."""
        if remove(self._path(repository, DELETED, digest)):
            sync_directory(self._directory(repository, DELETED))

    def delete(self, repository: str, digest: Digest) -> None:
        """The object is not in the repository any more, for good. Raises OSError."""
        self.make(repository)
        self._touch(self._path(repository, DELETED, digest))
        sync_directory(self._directory(repository, DELETED))
        point("members.deleted")
        for kind in (PUSHED, LINKS, KEPT):
            remove(self._path(repository, kind, digest))

    def sync(self, repository: str) -> None:
        """Wait until what was pushed to the repository is on the disk. Raises OSError."""
        sync_directory(self._directory(repository, PUSHED))
        sync_directory(self._directory(repository, LINKS))

    def linked_elsewhere(self, digest: Digest, repository: str) -> bool:
        """Whether the object was pushed to another repository than this one. Raises OSError."""
        own = os.path.dirname(self._directory(repository, LINKS))
        name = _name(digest)
        return any(
            any(os.path.exists(f"{directory}{os.sep}{kind}{os.sep}{name}") for kind in (PUSHED, LINKS))
            and not os.path.exists(os.path.join(directory, DELETED, name))
            for directory in self._directories()
            if directory != own
        )

    def protected(self) -> set[Digest]:
        """The objects that are protected now. Raises OSError."""
        found = [(digest, time) for _, _, digest, time in self._files(PUSHED, KEPT)]
        grace, now = self.grace(), clock.now(self._paths)  # the clock last: no file is younger than now
        return {digest for digest, time in found if clock.is_younger(time, grace, now)}

    def clean(self, exists: Callable[[Digest], bool]) -> None:
        """Remove what is of no use any more: protection that has ended, and what is noted about objects that do not
        exist. Takes the store's lock for what it has found. Raises OSError."""
        grace, now = self.grace(), clock.now(self._paths)
        ended = [path for _, path, _, time in self._files(PUSHED, KEPT) if not clock.is_younger(time, grace, now)]
        lost = [
            (path, digest) for _, path, digest, _ in self._files(LINKS, DELETED, dated=False) if not exists(digest)
        ]
        if not ended and not lost:
            return
        with locked(self._paths.lock):
            now = clock.now(self._paths)
            for path in ended:
                with suppress(FileNotFoundError):
                    if not clock.is_younger(os.stat(path).st_mtime_ns, grace, now):
                        os.unlink(path)
                        point("members.ended")
            for path, digest in lost:
                if not exists(digest):
                    remove(path)
        point("members.cleaned")

    def drop_empty(self, is_named: Callable[[str], bool]) -> None:
        """Remove the repositories that have neither names nor objects. The caller holds the store's lock."""
        for repository in list(self.repositories()):
            if is_named(repository) or any(self.listed(repository, kind) for kind in KINDS):
                continue
            for kind in (DELETED, KEPT, PUSHED, LINKS):
                with suppress(OSError):
                    os.rmdir(self._directory(repository, kind))
            above = os.path.dirname(self._directory(repository, LINKS))
            with suppress(OSError):
                while above != self._paths.repositories:
                    os.rmdir(above)
                    above = os.path.dirname(above)

    def oddities(self) -> Iterator[str]:
        """The paths below ``repositories/`` that are none of lamina's, relative to the store. Raises OSError."""
        for above, directories, files in os.walk(self._paths.repositories):
            kind = os.path.basename(above)
            if kind in KINDS:
                odd = [*directories, *(name for name in files if _digest(name) is None)]
                directories.clear()
            else:
                own = _OWN if above == self._paths.repositories else ()
                odd = [name for name in files if name not in own]
                odd += [name for name in directories if name.startswith("_") and name not in KINDS]
                directories[:] = [name for name in directories if name not in odd and name != UPLOADS]
            yield from (os.path.relpath(os.path.join(above, name), self._paths.root) for name in odd)

    def _files(self, *kinds: str, dated: bool = True) -> Iterator[tuple[str, str, Digest, int]]:
        """Kind, path, digest and time of the files of all repositories; the time is 0 if not ``dated``."""
        for repository in self.repositories():
            for kind in kinds:
                directory = self._directory(repository, kind)
                with suppress(FileNotFoundError), os.scandir(directory) as found:
                    for one in found:
                        digest = _digest(one.name)
                        if digest is None or not one.is_file(follow_symlinks=False):
                            continue
                        with suppress(FileNotFoundError):
                            time = one.stat(follow_symlinks=False).st_mtime_ns if dated else 0
                            yield kind, one.path, digest, time

    def make(self, repository: str) -> None:
        """Create the directories of a repository, so that it exists. Durable when this returns. Raises OSError."""
        for kind in reversed(KINDS):  # a repository exists with _links: that one comes last
            self._make(self._directory(repository, kind))

    def _make(self, directory: str) -> None:
        if os.path.isdir(directory):
            return
        above = os.path.dirname(directory)
        self._make(above)
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        sync_directory(above)

    def _touch(self, path: str) -> None:
        """Create a file, or give it the time of now. Raises OSError."""
        try:
            os.utime(path)
        except FileNotFoundError:
            os.close(os.open(path, _FLAGS, 0o600))

    def _directory(self, repository: str, kind: str) -> str:
        return os.path.join(self._paths.repositories, *map(_quoted, repository.split("/")), kind)

    def _path(self, repository: str, kind: str, digest: Digest) -> str:
        return os.path.join(self._directory(repository, kind), _name(digest))


def _quoted(component: str) -> str:
    """A component of a repository's name as the name of a directory. Raises UsageError for one that no reference
    has."""
    if not component or component[0] in "._" or "\0" in component:
        raise UsageError(f"{component!r:.100} can't be a part of a repository's name", hint="check the name")
    return component.replace("%", "%25").replace(":", "%3A")


def _unquoted(path: str) -> str:
    return path.replace(os.sep, "/").replace("%3A", ":").replace("%25", "%")


def _name(digest: Digest) -> str:
    """The name of an object's files."""
    return f"{digest.algorithm}-{digest.encoded}"


def _digest(name: str) -> Digest | None:
    algorithm, _, encoded = name.partition("-")
    try:
        return Digest.parse(f"{algorithm}:{encoded}")
    except UsageError:
        return None
