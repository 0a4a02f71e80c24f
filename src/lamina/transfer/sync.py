"""Selection of many references, by a list or a pattern, for copying from one place to another."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lamina.errors import UsageError
from lamina.host.files import reported
from lamina.spec.descriptor import Descriptor
from lamina.spec.reference import Reference
from lamina.transfer.connect import RegistryAccess

MAX_FILE = 1 << 20
_SERVER_KEYS = frozenset({"images", "images-by-tag-regex", "credentials", "tls-verify", "cert-dir"})
_HINT = "see docs/sync.md"


@dataclass(frozen=True, slots=True)
class SyncRule:
    """Images of a repository to copy: these ``tags`` and digests, those that match ``pattern``, or all if neither is
    given. The path in ``repository`` may contain * and ?; then it means all matches in the registry's catalog."""

    repository: str
    tags: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    access: Mapping[str, str] = field(default_factory=dict)
    """Settings for this registry: "tls_verify", "cert_dir", "creds"."""


def parse_list(raw: bytes, what: str) -> list[SyncRule]:
    """Parse a YAML list of references, or skopeo's form: hosts with ``images`` (repository -> list of tags and
    digests) and ``images-by-tag-regex``. Raises UsageError, which names the place."""
    import yaml

    if len(raw) > MAX_FILE:
        raise UsageError(f"{what} is too large: more than {MAX_FILE} bytes", hint=_HINT)
    try:
        value = yaml.safe_load(raw)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{what} is not YAML: {' '.join(str(error).split())[:200]}", hint=_HINT) from None
    if isinstance(value, list):
        return [one for text in value for one in parse_pattern(_text(text, what))]
    if not isinstance(value, dict):
        raise UsageError(f"{what} is neither a list of references nor a map of hosts", hint=_HINT)
    return [one for host, server in value.items() for one in _server(_text(host, what), server, what)]


def parse_pattern(text: str) -> list[SyncRule]:
    """Parse ``host/repository:tag`` with ``*`` and ``?`` in the tag; without a tag it means all tags. Raises
    UsageError."""
    text = text.removeprefix("docker://")
    if "@" not in text:
        head, slash, tail = text.rpartition("/")
        name, colon, tag = tail.partition(":")
        if colon and any(letter in tag for letter in "*?["):
            return [SyncRule(_repository(head + slash + name), pattern=re.compile(fnmatch.translate(tag)))]
        if any(letter in head + name for letter in "*?["):
            return [SyncRule(_repository(head + slash + name), (tag,) if tag else ())]
    reference = Reference.parse(text)
    names = (str(reference.digest),) if reference.digest else (reference.tag,) if reference.tag else ()
    return [SyncRule(reference.repository, names)]


def expand(wanted: SyncRule, network: RegistryAccess) -> Iterator[Reference]:
    """Yield the references. For a pattern or a whole repository the registry is asked for its tags. Raises NotFound,
    AccessDenied, RemoteFailure."""
    host, _, path = wanted.repository.partition("/")
    if any(letter in path for letter in "*?["):
        from lamina.remote.list import catalog

        for name in sorted(catalog(network.client(host))):
            if fnmatch.fnmatchcase(name, path) and not any(letter in name for letter in "*?["):
                repository = Reference.parse(f"{host}/{name}").repository
                yield from expand(replace(wanted, repository=repository), network)
        return
    if wanted.tags:
        for tag in wanted.tags:
            separator = "@" if ":" in tag else ":"
            yield Reference.parse(f"{wanted.repository}{separator}{tag}")
        return
    for tag in sorted(network.repository(wanted.repository).tags()):
        if wanted.pattern is None or wanted.pattern.search(tag):
            yield Reference.parse(f"{wanted.repository}:{tag}")


@dataclass(frozen=True, slots=True)
class Named:
    """An image to copy. ``inside`` is its name at its place, ``full`` the full name. ``short``, ``path`` and
    ``scoped`` are the names below a target's prefix; they begin with a colon if only a tag is known."""

    inside: str
    full: str
    short: str
    path: str
    scoped: str

    @classmethod
    def of(cls, reference: Reference, inside: str = "", *, path: str = "") -> Named:
        """Make the names from a reference: ``short`` from the last part of its name, ``path`` from its name without
        the host, ``scoped`` from its whole name, with the colon of a port replaced by a dash. ``path``: the name of a
        repository at a place without a host."""
        end = f"@{reference.digest}" if reference.digest else f":{reference.tag or 'latest'}"
        scoped = path or f"{reference.domain}/{reference.path}".replace(":", "-")
        short = reference.path.rpartition("/")[2]
        whole = path or reference.path
        return cls(inside or str(reference), str(reference), short + end, whole + end, scoped + end)

    def below(self, prefix: str, *, scoped: bool = False, keep_path: bool = False, suffix: str = "") -> str:
        """Return its name below ``prefix`` (host, host and path, or a directory): ``scoped``, ``path`` or ``short``;
        ``suffix`` is appended to the tag."""
        name = self.scoped if scoped else self.path if keep_path else self.short
        if suffix and "@" not in name:
            name += suffix
        return prefix.rstrip("/") + ("" if name.startswith(":") else "/") + name


def named_in(names: Iterable[tuple[str, Descriptor]], where: str) -> Iterator[Named]:
    """Yield the images of a layout or an archive. Raises UsageError for an image without a name, or whose name is not
    a reference."""
    for name, descriptor in names:
        if not name:
            raise UsageError(
                f"{where} holds {descriptor.digest} without a name",
                hint="give it a name with `lamina copy`, or copy it alone",
            )
        if "/" not in name and ":" not in name and "@" not in name:  # image-spec: a tag without a repository
            Reference.parse(f"x:{name}")
            yield Named(name, name, *[f":{name}"] * 3)
        else:
            yield Named.of(Reference.parse(name), name)


def named_below(names: Iterable[str]) -> Iterator[Named]:
    """Yield the images of a place whose repositories have no host: REPOSITORY:TAG or REPOSITORY@DIGEST. Raises
    UsageError."""
    for name in names:
        reference = Reference.parse(name)
        path = name.partition("@")[0]
        yield Named.of(reference, name, path=path.removesuffix(f":{reference.tag}") if reference.tag else path)


def image_directories(top: str) -> Iterator[tuple[str, Named]]:
    """Yield the image directories (dir:) below a directory, as `skopeo sync` writes them: ``app:1/manifest.json``.
    Raises UsageError, SystemFailure."""
    base = os.path.basename(os.path.abspath(top))
    with reported(top):
        if os.path.isfile(os.path.join(top, "manifest.json")):
            yield top, Named("", base, *[base] * 3)
            return
        for directory, below, files in os.walk(top, onerror=_raise):
            below.sort()
            if "manifest.json" in files:
                below.clear()
                name = os.path.relpath(directory, top)
                yield directory, Named("", name, os.path.basename(name), name, name)


def _raise(error: OSError) -> None:
    raise error


def _repository(text: str) -> str:
    """Return the full name of a repository whose path may be a pattern, which needs an explicit host. Raises
    UsageError."""
    host, _, path = text.partition("/")
    if not any(letter in text for letter in "*?["):
        return Reference.parse(text).repository
    Reference.parse(f"{host}/x")
    if not path or not ("." in host or ":" in host or host == "localhost"):
        raise UsageError(f"{text!r:.200}: a pattern of repositories must begin with a host", hint=_HINT)
    return text


def _server(host: str, server: object, what: str) -> Iterator[SyncRule]:
    where = f"{what}: {host}"
    if not isinstance(server, dict):
        raise UsageError(f"{where} must be a map", hint=_HINT)
    unknown = set(map(str, server)) - _SERVER_KEYS
    if unknown:
        raise UsageError(
            f"{where}: unknown {sorted(unknown)[0]!r:.100}", hint="use one of: " + ", ".join(sorted(_SERVER_KEYS))
        )
    access = _access(server, where)
    for repository, tags in _map(server, "images", where).items():
        listed = tags or []
        if not isinstance(listed, list):
            raise UsageError(f"{where}: {repository}: tags must be a list", hint=_HINT)
        name = Reference.parse(f"{host}/{repository}").repository
        yield SyncRule(name, tuple(str(tag) for tag in listed), access=access)
    for repository, text in _map(server, "images-by-tag-regex", where).items():
        try:
            pattern = re.compile(_text(text, where))
        except re.error as error:
            raise UsageError(
                f"{where}: {repository}: {text!r:.100} is not a regular expression: {error}", hint=_HINT
            ) from None
        yield SyncRule(Reference.parse(f"{host}/{repository}").repository, pattern=pattern, access=access)


def _access(server: Mapping[str, Any], where: str) -> dict[str, str]:
    access: dict[str, str] = {}
    if "tls-verify" in server:
        access["tls_verify"] = str(server["tls-verify"]).lower()
    if server.get("cert-dir"):
        access["cert_dir"] = _text(server["cert-dir"], where)
    credentials = server.get("credentials")
    if credentials is not None:
        if not isinstance(credentials, dict) or set(credentials) != {"username", "password"}:
            raise UsageError(f"{where}: credentials must be a map of username and password", hint=_HINT)
        access["creds"] = f"{credentials['username']}:{credentials['password']}"
    return access


def _map(server: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = server.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"{where}: {key} must be a map of repositories", hint=_HINT)
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where}: {value!r:.100} is not a string", hint=_HINT)
    return value
