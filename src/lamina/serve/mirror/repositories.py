"""Repositories of mirrored registries beside those of a place: what clients ask for is fetched once, kept, and served
from here. What a registry can't be asked for now is served as it was last known, with a warning."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lamina.errors import (
    AccessDenied,
    BlobNotFound,
    InvalidContent,
    LaminaError,
    LimitExceeded,
    NotFound,
    RateLimited,
    RemoteFailure,
)
from lamina.serve.busy import Busy
from lamina.serve.mirror.kept import KeptRepositories
from lamina.serve.mirror.once import Once
from lamina.source.walk import manifest_blobs
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, parse
from lamina.spec.reference import is_tag

if TYPE_CHECKING:
    from typing import TypeVar

    from lamina.remote.repository import Repository
    from lamina.serve.mirror.cache import Cache
    from lamina.serve.mirror.fetch import Fetches, GrowingStream
    from lamina.serve.mirror.upstream import Upstreams
    from lamina.source.protocols import Blob, Stream
    from lamina.source.served import Repositories

    T = TypeVar("T")

ANY_TYPE = "application/octet-stream"
PATIENCE, SHORT_PATIENCE = 90.0, 10.0
"""Seconds that a client waits for a registry: if nothing is known, and if something is."""
PAUSE, MAX_PAUSE = 10.0, 300.0
"""Seconds in which a registry that could not be reached, or that limits the rate, is not asked again for what is
known."""
MAX_NOTED = 10_000
"""Warnings and sizes that are kept in memory."""
MAX_LISTED = 200_000
"""Tags and referrers that are kept in memory."""
MAX_TAGS = 1_000_000
"""Tags of one repository."""
_log = logging.getLogger("lamina.serve.mirror")


class MirroredRepositories:
    """``Repositories`` over those of a place. Repositories of mirrored registries are read-only. What the place has
    of them itself (images that were pulled into it) is used too."""

    def __init__(self, base: Repositories, upstreams: Upstreams, cache: Cache, fetches: Fetches, ttl: float) -> None:
        """``ttl``: seconds in which a tag, or a list, is not asked for again."""
        self.location = base.location
        self._base = base
        self._upstreams = upstreams
        self._cache = cache
        self._fetches = fetches
        self._ttl = ttl
        self._once: dict[str, Once[Any]] = {host: Once() for host in upstreams.hosts}
        self._guard = threading.Lock()
        self._warnings: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._sizes: OrderedDict[tuple[str, Digest], Descriptor] = OrderedDict()
        self._lists: OrderedDict[tuple[str, str], tuple[float, list[Any]]] = OrderedDict()
        self._paused: dict[str, float] = {}

    def is_mirrored(self, repository: str) -> bool:
        """Whether a repository belongs to a mirrored registry."""
        return repository in self._upstreams

    def warning(self, repository: str, name: str | Digest) -> str:
        """Why the last answer of ``find`` for this tag may be old; "" if it is not."""
        return self._warnings.get((repository, str(name)), "")

    # reading

    def names(self, after: str = "", limit: int | None = None) -> list[str]:
        mirrored = {name for name in self._cache.repositories() if self.is_mirrored(name)}
        return _page(sorted({*self._base.names(after, limit), *mirrored}), after, limit)

    def tags(self, repository: str, after: str = "", limit: int | None = None) -> list[str]:
        if not self.is_mirrored(repository):
            return self._base.tags(repository, after, limit)
        own = self._own_tags(repository)

        def known() -> list[Any] | None:
            return self._cache.known_list(repository, "tags") or self._cache.tags(repository) or None

        try:
            found = self._listed(repository, "tags", lambda remote: _tags_of(remote, repository), known)
        except (NotFound, AccessDenied, RemoteFailure):
            if own is None:
                raise
            found = []
        listed = (tag for tag in found if isinstance(tag, str) and is_tag(tag))
        return _page(sorted({*listed, *(own or ())}), after, limit)

    def find(self, repository: str, name: str | Digest) -> Descriptor:
        if not self.is_mirrored(repository):
            return self._base.find(repository, name)
        return self._revision(repository, name) if isinstance(name, Digest) else self._tag(repository, name)

    def manifest(self, descriptor: Descriptor) -> bytes:
        raw = self._cache.document(descriptor)
        return raw if raw is not None else self._base.manifest(descriptor)

    def blob(self, repository: str, digest: Digest) -> Blob:
        if not self.is_mirrored(repository):
            return self._base.blob(repository, digest)
        known = self._cache.linked(repository, digest)
        size = self._cache.size(digest)
        if known is not None and known.proven and size is not None:
            return MirroredBlob(self, repository, Descriptor(ANY_TYPE, digest, size))
        try:
            return self._base.blob(repository, digest)
        except NotFound:
            pass
        if known is not None and size is None:
            return MirroredBlob(self, repository, known.descriptor)
        # what another repository has brought in must not be served from this one on the word of a manifest alone
        return MirroredBlob(self, repository, self._proven(repository, digest))

    def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        if not self.is_mirrored(repository):
            return self._base.referrers(repository, subject)
        name = _referrers_of(subject)

        def asked(remote: Repository) -> list[Any]:
            try:
                return [one.to_json() for one in remote.referrers(subject)]
            finally:
                remote.forget()

        try:
            listed = self._listed(
                repository,
                name,
                asked,
                lambda: self._cache.known_list(repository, name),
                keeps=self._cache.linked(repository, subject) is not None,  # else anybody fills the disk with nothing
            )
        except NotFound:
            listed = []
        return self._with_own(repository, subject, listed)

    def known_referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """As ``referrers``, without asking the registry."""
        return self._with_own(repository, subject, self._cache.known_list(repository, _referrers_of(subject)) or [])

    def kept(self) -> KeptRepositories:
        """What is here now, without asking any registry."""
        return KeptRepositories(self, self._base, self._cache)

    def _with_own(self, repository: str, subject: Digest, listed: list[Any]) -> list[Descriptor]:
        found = {one.digest: one for one in self._base.referrers(repository, subject)}
        for value in listed:
            one = Descriptor.from_json(value, f"referrers of {subject}")
            found.setdefault(one.digest, one)
        return [found[digest] for digest in sorted(found)]

    def usage(self, repository: str) -> int:
        """As ``Repositories.usage``; 0 for a mirrored repository, which nobody can push to."""
        return 0 if self.is_mirrored(repository) else self._base.usage(repository)

    def opened(self, repository: str, descriptor: Descriptor, start: int, end: int) -> Stream:
        """Open a range of a blob: from the cache, or while it is fetched. Raises NotFound, AccessDenied,
        RemoteFailure, SystemFailure."""
        if self._cache.size(descriptor.digest) is not None:
            known = self._cache.linked(repository, descriptor.digest)
            if known is None or not known.proven:  # it came in just now, perhaps from another repository
                self._proven(repository, descriptor.digest)
        kept = self._cache.open(descriptor.digest, start, end)
        if kept is not None:
            return kept
        blob = self._upstreams.repository(repository).blob(Descriptor(ANY_TYPE, descriptor.digest, descriptor.size))
        stream: GrowingStream = self._fetches.open(
            blob, start, end, lambda verified: self._cache.link(repository, verified, proven=True)
        )
        try:
            if stream.origin != repository:  # another repository has asked for it first
                self._proven(repository, descriptor.digest)
            stream.wait_for_first()
        except BaseException:
            stream.close()
            raise
        return stream

    # tags and documents

    def _tag(self, repository: str, tag: str) -> Descriptor:
        known = self._cache.tag(repository, tag)
        if known is not None and self._cache.document(known.descriptor) is None:
            known = None  # it was removed
        if known is not None and (known.is_fresh(self._ttl) or self._is_paused(repository)):
            if not known.is_fresh(self._ttl):
                self._warn(repository, tag, f"{repository}:{tag} may be old: its registry could not be reached")
            return known.descriptor
        try:
            found: Descriptor = self._asked(
                repository,
                ("tag", tag),
                lambda remote: self._ask_tag(remote, repository, tag, None if known is None else known.descriptor),
                SHORT_PATIENCE if known is not None else PATIENCE,
            )
        except NotFound:
            self._cache.drop_tag(repository, tag)
            return self._base.find(repository, tag)
        except RemoteFailure as error:
            if known is None:
                return self._of_base(repository, tag, error)
            self._warn(repository, tag, f"{repository}:{tag} may be old: {error.message}")
            return known.descriptor
        self._warn(repository, tag, "")
        return found

    def _ask_tag(self, remote: Repository, repository: str, tag: str, known: Descriptor | None) -> Descriptor:
        name = f"{repository}:{tag}"
        try:
            found = remote.resolve(name) if known is None else remote.head(name)  # HEAD is free of rate limits
            if known is None or found.digest != known.digest:
                found = self._keep_document(remote, repository, found)
            else:
                found = known
        finally:
            remote.forget()
        self._cache.set_tag(repository, tag, found)
        return found

    def _of_base(self, repository: str, tag: str, error: RemoteFailure) -> Descriptor:
        """What the place itself has under this name, if it has it. Raises ``error``."""
        try:
            found = self._base.find(repository, tag)
        except NotFound:
            raise error from None
        self._warn(repository, tag, f"{repository}:{tag} may be old: {error.message}")
        return found

    def _revision(self, repository: str, digest: Digest) -> Descriptor:
        known = self._cache.linked(repository, digest)
        if known is not None and known.proven and known.descriptor.media_type != ANY_TYPE:
            here = self._cache.document(known.descriptor) is not None
            if here:
                return known.descriptor
        try:
            return self._base.find(repository, digest)
        except NotFound:
            pass
        if not digest.supported:
            raise NotFound(f"no manifest {str(digest)[:150]} in {repository}", hint="use sha256 or sha512")

        def asked(remote: Repository) -> Descriptor:
            try:
                return self._keep_document(remote, repository, remote.resolve(f"{repository}@{digest}"))
            finally:
                remote.forget()

        found: Descriptor = self._asked(repository, ("manifest", digest), asked)
        return found

    def _keep_document(self, remote: Repository, repository: str, found: Descriptor) -> Descriptor:
        """Fetch a document unless it is here, keep it, and note that the repository has what it names."""
        descriptor = Descriptor(found.media_type, found.digest, found.size)
        raw = self._cache.document(descriptor)
        if raw is None:
            raw = remote.manifest(descriptor)
            self._cache.put_document(descriptor, raw)
        try:
            document = parse(raw, descriptor.media_type, str(found.digest))
        except LaminaError as error:
            _log.info("%s is kept as it is: %s", found.digest, error)  # a type that lamina does not know
        else:
            for blob in () if isinstance(document, Index) else manifest_blobs(document):
                if self._cache.linked(repository, blob.digest) is None:
                    self._cache.link(repository, Descriptor(ANY_TYPE, blob.digest, blob.size), proven=False)
        self._cache.link(repository, descriptor, proven=True)
        return descriptor

    def _proven(self, repository: str, digest: Digest) -> Descriptor:
        """Ask the registry whether the repository has a blob. Returns it with its size. Raises NotFound,
        RemoteFailure."""
        found = self._sizes.get((repository, digest))
        if found is None:
            found = self._asked(repository, ("blob", digest), lambda remote: remote.stat_blob(digest))
            with self._guard:
                _bounded(self._sizes, (repository, digest), found)
        size = self._cache.size(digest)
        if size is not None:
            found = Descriptor(ANY_TYPE, digest, size)
            self._cache.link(repository, found, proven=True)
        return found

    # asking

    def _asked(
        self, repository: str, what: tuple[object, ...], ask: Callable[[Repository], T], seconds: float = PATIENCE
    ) -> T:
        """Ask the registry; many who ask the same at once cause one request. Raises NotFound (also where access is
        denied: clients must not learn what exists), RemoteFailure."""
        remote = self._upstreams.repository(repository)
        host = repository.partition("/")[0]
        try:
            found: T = self._once[host].run((repository, *what), lambda: ask(remote), seconds, host)
        except AccessDenied as error:
            _log.warning("%s", error)
            raise NotFound(f"{repository}: {host} denies access to this mirror", hint="check the name") from None
        except InvalidContent as error:
            _log.warning("%s", error)
            raise RemoteFailure(f"{host} sends what can't be right: {error.message}", hint=error.hint) from None
        except Busy:  # the registry is not asked, so it is not to blame
            raise
        except RemoteFailure as error:
            _log.warning("%s", error)
            pause = error.retry_after if isinstance(error, RateLimited) else None
            self._paused[host] = time.monotonic() + (PAUSE if pause is None else min(pause, MAX_PAUSE))
            raise
        self._paused.pop(host, None)
        return found

    def _is_paused(self, repository: str) -> bool:
        """Whether the registry could not be reached a moment ago."""
        return self._paused.get(repository.partition("/")[0], 0.0) > time.monotonic()

    def _listed(
        self,
        repository: str,
        name: str,
        ask: Callable[[Repository], list[Any]],
        known: Callable[[], list[Any] | None],
        *,
        keeps: bool = True,
    ) -> list[Any]:
        """A list of the registry, not older than the ttl; if it can't be asked, the last one. ``keeps``: an empty one
        is worth a file."""
        kept = self._lists.get((repository, name))
        if kept is not None and 0 <= time.monotonic() - kept[0] < self._ttl:
            return kept[1]
        last = known()
        if last is not None and self._is_paused(repository):
            return last
        try:
            found = self._asked(repository, ("list", name), ask, PATIENCE if last is None else SHORT_PATIENCE)
        except RemoteFailure:
            if last is None:
                raise
            return last
        with self._guard:
            _bounded(self._lists, (repository, name), (time.monotonic(), found))
            while len(self._lists) > 1 and sum(len(one[1]) + 1 for one in self._lists.values()) > MAX_LISTED:
                self._lists.popitem(last=False)
        if found or keeps or last is not None:
            self._cache.set_list(repository, name, found)
        return found

    def _own_tags(self, repository: str) -> list[str] | None:
        try:
            return self._base.tags(repository)
        except NotFound:
            return None

    def _warn(self, repository: str, tag: str, text: str) -> None:
        with self._guard:
            if text:
                _bounded(self._warnings, (repository, tag), text)
            else:
                self._warnings.pop((repository, tag), None)


class MirroredBlob:
    """A ``Blob`` of a mirrored repository, here or not yet."""

    origin = ""

    def __init__(self, place: MirroredRepositories, repository: str, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self._place = place
        self._repository = repository

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        """As ``Blob.open``; returns when the first bytes are here. Raises AccessDenied, RemoteFailure too."""
        try:
            return self._place.opened(
                self._repository, self.descriptor, start, self.descriptor.size if end is None else end
            )
        except (NotFound, AccessDenied) as error:
            raise BlobNotFound(f"no blob {self.descriptor.digest} in {self._repository}", hint=error.hint) from None


def _tags_of(remote: Repository, repository: str) -> list[Any]:
    """The tags that a registry lists. Raises LimitExceeded: a registry may say what it likes, for as long as it
    likes."""
    found: dict[str, None] = {}
    for tag in remote.tags():
        if is_tag(tag):
            found[tag] = None
            if len(found) > MAX_TAGS:
                raise LimitExceeded(
                    f"{repository} has more than {MAX_TAGS} tags", hint="pull by digest, or by a tag that you know"
                )
    return list(found)


def _referrers_of(subject: Digest) -> str:
    return f"referrers-{subject.algorithm}-{subject.encoded}"


def _bounded(memory: OrderedDict[Any, Any], key: object, value: object) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MAX_NOTED:
        memory.popitem(last=False)


def _page(names: list[str], after: str, limit: int | None) -> list[str]:
    start = bisect_right(names, after) if after else 0
    return names[start:] if limit is None else names[start : start + limit]
