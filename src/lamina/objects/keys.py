"""The names of objects in the bucket (pure).

Names sort as what they stand for, so that a page of a list starts with one request. A repository's marker ends with a
comma, which sorts before every character of a repository name.
"""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.spec.digest import Digest

FORMAT = "lamina/format"
"""The object that says which format the bucket has (``bucket_format``)."""
GC = "gc"
LEASE = f"{GC}/lease"
CLOCK = f"{GC}/clock-"
WRITABLE = f"{GC}/clock-writable"
"""The object by which servers find out whether they may write; gc takes it for one that tells the time."""
BLOBS = "blobs"
DATA = "data"
UPLOADS = "uploads"
CLIENT_KEY = "clients/key"
"""The object with the key for the marks of clients in the idents of uploads."""
NAMES = "names"
REPOSITORIES = "repositories"
_MANIFESTS, _TAGS, _LINKS, _REFERRERS = "_manifests", "_tags", "_blobs", "_referrers"
_MARK = ","


def record(digest: Digest) -> str:
    """The record of a blob: its size, and where its bytes are."""
    return f"{BLOBS}/{digest.algorithm}/{digest.encoded}"


def digest_of_record(key: str) -> Digest | None:
    return _digest("/".join(key.split("/")[1:]), "/")


def generation(ident: str) -> str:
    """The prefix of the bytes that one upload has brought."""
    return f"{DATA}/{ident}"


def part(ident: str, epoch: int, number: int) -> str:
    return f"{DATA}/{ident}/{epoch}.{number:08}"


def generation_of_part(key: str) -> str:
    return key.split("/")[1]


def uploads(repository: str) -> str:
    """The prefix of the states of uploads to a repository."""
    return f"{UPLOADS}/{mark(repository)}"


def upload(repository: str, ident: str) -> str:
    return f"{uploads(repository)}/{ident}"


def mark_of_upload(key: str) -> str:
    return key.split("/")[1]


def mark(repository: str) -> str:
    """What stands for a repository where its name would be too long."""
    return Digest.of(repository.encode()).encoded[:16]


def marker(repository: str) -> str:
    """The object that says that a repository exists."""
    return f"{NAMES}/{_safe(repository)}{_MARK}"


def repository_of_marker(key: str) -> str:
    return key[len(NAMES) + 1 : -len(_MARK)]


def tags(repository: str) -> str:
    return f"{REPOSITORIES}/{_safe(repository)}/{_TAGS}"


def tag(repository: str, name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise UsageError(f"not a tag: {name!r:.150}", hint="use letters, digits, underscores, periods and dashes")
    return f"{tags(repository)}/{name}"


def manifest(repository: str, digest: Digest) -> str:
    return f"{manifests(repository)}/{digest.algorithm}/{digest.encoded}"


def links(repository: str) -> str:
    return f"{REPOSITORIES}/{_safe(repository)}/{_LINKS}"


def link(repository: str, digest: Digest, ident: str, size: int) -> str:
    """The object that says that a blob is in a repository. It is of one generation of the blob: after gc has removed
    the blob, it means nothing, also if the blob is pushed again. The size is in it, so that a list gives the sum."""
    return f"{links(repository)}/{digest.algorithm}/{digest.encoded}.{ident}.{size}"


def manifests(repository: str) -> str:
    return f"{REPOSITORIES}/{_safe(repository)}/{_MANIFESTS}"


def referrers(repository: str, subject: Digest) -> str:
    return f"{REPOSITORIES}/{_safe(repository)}/{_REFERRERS}/{subject.algorithm}-{subject.encoded}"


def referrer(repository: str, subject: Digest, digest: Digest, period: int) -> str:
    """The object that says that a manifest refers to a subject. ``period``: the hour in which it was written; gc only
    removes old ones, so it never removes one that is being written."""
    return f"{referrers(repository, subject)}/{digest.algorithm}-{digest.encoded}.{period:x}"


def referrer_of(key: str) -> tuple[Digest, int] | None:
    """The digest and the period of a referrer's object."""
    name, _, period = key.rpartition("/")[2].rpartition(".")
    digest = _digest(name, "-")
    try:
        return None if digest is None else (digest, int(period, 16))
    except ValueError:
        return None


def split(key: str) -> tuple[str, str, str] | None:
    """Split the key of an object of a repository: the repository, the kind ("_tags", ...) and the rest."""
    parts = key.split("/")
    for at in range(2, len(parts) - 1):
        if parts[at].startswith("_"):
            return "/".join(parts[1:at]), parts[at], "/".join(parts[at + 1 :])
    return None


def digest_of_manifest(rest: str) -> Digest | None:
    return _digest(rest, "/")


def digest_of_link(rest: str) -> tuple[Digest, str, int] | None:
    """The digest, the generation and the size of a link."""
    name, _, more = rest.partition(".")
    ident, _, size = more.partition(".")
    digest = _digest(name, "/")
    return None if digest is None or not size.isdigit() else (digest, ident, int(size))


def _digest(text: str, separator: str) -> Digest | None:
    algorithm, _, encoded = text.partition(separator)
    try:
        return Digest.parse(f"{algorithm}:{encoded}")
    except UsageError:
        return None


def _safe(repository: str) -> str:
    if not repository or any(part in ("", ".", "..") or part[0] == "_" for part in repository.split("/")):
        raise UsageError(f"not a repository: {repository!r:.200}", hint="write it like docker.io/library/app")
    return repository
