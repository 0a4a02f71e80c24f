"""Addresses of git repositories and files, as ADD, contexts and COPY understand them (pure).

A git repository is ``https://host/path.git``, ``git://host/path``, ``ssh://[user@]host/path`` or ``user@host:path``.
What to check out stands after ``#`` (``#ref:directory``) or in the query (``?ref=v1&subdir=docs``).
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from lamina.build.steps import Repository
from lamina.errors import UsageError

_SCHEME = re.compile(r"([a-zA-Z0-9]+)://")
_SCP = re.compile(r"(?:([^\s/@:#?]+)@)([A-Za-z0-9._-]+):([^\s#?]+)(?:\?([^#]*))?(?:#(.*))?")
_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_HINT = "known: ref, tag, branch, subdir, checksum, commit, keep-git-dir, submodules"


def is_address(text: str) -> bool:
    """Whether the text is an http or https address."""
    return text.startswith(("http://", "https://"))


def git_repository(text: str, *, short: bool = False) -> Repository | None:
    """The repository that an address names; None if it names none. ``short``: ``github.com/owner/name`` is one too,
    as only the build's context may write it. Raises UsageError (a query that is not understood)."""
    if short and text.startswith("github.com/"):
        text = f"https://{text}"
    elif text.startswith(("./", "../")):
        return None
    scheme = _SCHEME.match(text)
    if scheme is None:
        found = _SCP.fullmatch(text)
        if found is None:
            return None
        user, host, path, query, fragment = found.groups()
        return _asked(Repository(f"{user}@{host}:{path}"), query or "", fragment or "")
    if scheme[1].lower() not in ("http", "https", "git", "ssh"):
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    if parts.scheme in ("http", "https") and not short and not unquote(parts.path).endswith(".git"):
        return None
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    return _asked(Repository(url), parts.query, unquote(parts.fragment))


def without_credentials(text: str) -> str:
    """The address without user and password; the user of ssh addresses stays, because it is not a secret there."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        return text
    rest = text[scheme.end() :]
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    user, at, host = rest[:end].rpartition("@")
    if not at:
        return text
    name = user.partition(":")[0]
    kept = f"{name}@" if scheme[1].lower() == "ssh" and name else ""
    return f"{scheme[0]}{kept}{host}{rest[end:]}"


def file_name(url: str) -> str:
    """The name of the file at an address, as ADD gives it: the last part of its path."""
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:
        path = ""
    name = posixpath.basename(posixpath.normpath(path)) if path else ""
    return name if name not in ("", ".", "..", "/") else "__unnamed__"


def _asked(repository: Repository, query: str, fragment: str) -> Repository:
    ref, _, directory = fragment.partition(":")
    repository = replace(repository, ref=ref, subdirectory=_directory(directory))
    asked: dict[str, str] = {}
    for key, values in parse_qs(query, keep_blank_values=True).items():
        if len(values) > 1:
            raise _bad(repository, f"the query {key!r:.60} is given twice")
        if not values[0] and key not in ("submodules", "keep-git-dir"):
            raise _bad(repository, f"the query {key!r:.60} has no value")
        asked[key] = values[0]
    for key, value in asked.items():
        if key in ("ref", "tag", "branch"):
            full = {"tag": "refs/tags/", "branch": "refs/heads/"}.get(key, "")
            value = value if value.startswith(full) else full + value
            if repository.ref not in ("", value):
                raise _bad(repository, f"it asks for {repository.ref!r:.100} and for {value!r:.100}")
            repository = replace(repository, ref=value)
        elif key == "subdir":
            if repository.subdirectory not in ("", _directory(value)):
                raise _bad(
                    repository, f"it asks for the directories {repository.subdirectory!r:.100} and {value!r:.100}"
                )
            repository = replace(repository, subdirectory=_directory(value))
        elif key in ("checksum", "commit"):
            repository = replace(repository, checksum=value)
        elif key == "keep-git-dir":
            repository = replace(repository, keep=_truth(repository, key, value))
        elif key == "submodules":
            repository = replace(repository, submodules=_truth(repository, key, value))
        else:
            raise _bad(repository, f"the query {key!r:.60} is not known")
    return repository


def _directory(text: str) -> str:
    return posixpath.normpath(f"/{text}").strip("/") if text else ""


def _truth(repository: Repository, key: str, value: str) -> bool:
    if value not in ("", *_TRUE, *_FALSE):
        raise _bad(repository, f"{key} is {value!r:.60}, which is neither true nor false")
    return value not in _FALSE


def _bad(repository: Repository, why: str) -> UsageError:
    return UsageError(f"the git repository {without_credentials(repository.url)!r:.300}: {why}", hint=_HINT)
