"""Endpoints of a repository by registries.conf: mirrors, rewritten locations, blocked registries and short names.

containers-registries.conf(5), version 2. Without such a file, the host of the reference is asked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lamina.errors import SystemFailure, UsageError
from lamina.light import Value, field
from lamina.spec.reference import Reference

_PULL_FROM = ("all", "digest-only", "tag-only")
_MAX_FILE = 1 << 20


class Endpoint(Value):
    """A host (with port) and repository ``path`` to ask; ``insecure``: certificates are not checked, or http."""

    host: str
    path: str
    insecure: bool = False
    mirror: bool = False


class _Mirror(Value):
    location: str
    insecure: bool
    pull: str


class _Rule(Value):
    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[_Mirror, ...]
    file: str


class Registries(Value):
    """The content of the registries.conf files."""

    rules: tuple[_Rule, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    search: tuple[str, ...] = ()

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, files: Sequence[str] | None = None) -> Registries:
        """Read the files. Raises UsageError, which names the file and the key."""
        rules: dict[str, _Rule] = {}
        aliases: dict[str, str] = {}
        search: tuple[str, ...] = ()
        for file in registries_files(os.environ if environ is None else environ) if files is None else files:
            value = _read(file)
            if not value:
                continue
            if "registries" in value:
                raise UsageError(f"{file} has version 1, which is not supported", hint="use [[registry]] tables")
            for number, table in enumerate(_list(value, "registry", file)):
                rule = _rule(table, f"{file}: registry {number + 1}", file)
                rules[rule.prefix] = rule  # a table in a later file replaces one in an earlier file
            if "unqualified-search-registries" in value:
                search = tuple(_texts(value, "unqualified-search-registries", file))
            aliases.update(_aliases(value, file))
        # an empty alias removes that of an earlier file
        return cls(tuple(rules.values()), {short: full for short, full in aliases.items() if full}, search)

    @classmethod
    def only(cls, host: str, location: str = "", *, insecure: bool = False) -> Registries:
        """Return rules for one host without mirrors: it is asked at ``location`` (host, or host and path; "": at
        itself)."""
        return cls((_Rule(host, location, insecure, False, (), ""),))

    def endpoints(self, reference: Reference, *, push: bool = False) -> tuple[Endpoint, ...]:
        """Return the mirrors in their order, then the location itself; for ``push`` only the latter. Raises
        UsageError (blocked)."""
        name = reference.repository
        rule = self._rule_for(reference)
        if rule is None:
            return (Endpoint(reference.domain, reference.path),)
        if rule.blocked:
            raise UsageError(f"{name} is blocked by {rule.file}", hint="use another registry, or change that file")
        # a wildcard stands for the host; with a prefix that has a tag, the name is the whole repository
        wild = rule.prefix.startswith("*.")
        rest = f"/{reference.path}" if wild else name.removeprefix(_split_tag(rule.prefix)[0])
        own = rule.location + rest if rule.location else name
        found = []
        if not push:
            pinned = "digest-only" if reference.digest else "tag-only"
            for mirror in rule.mirrors:
                if mirror.pull in ("all", pinned):
                    found.append(_endpoint(mirror.location + rest, mirror.insecure, True))
        return (*found, _endpoint(own, rule.insecure, False))

    def alias(self, short: str) -> str | None:
        """Return the full name for a short one: "debian" -> "docker.io/library/debian"."""
        return self.aliases.get(short)

    def insecure(self, host: str) -> bool:
        """Whether a table for the whole host sets insecure."""
        fitting = [rule for rule in self.rules if rule.prefix == host or _wild_fits(rule.prefix, host)]
        return bool(fitting) and max(fitting, key=lambda rule: (rule.prefix == host, len(rule.prefix))).insecure

    def _rule_for(self, reference: Reference) -> _Rule | None:
        """Return the rule with the longest prefix that ends at the end of a component; then the longest wildcard of
        hosts."""
        full, best = str(reference), None
        for rule in self.rules:
            prefix = rule.prefix
            fits = _wild_fits(prefix, reference.domain) or (
                full.startswith(prefix) and full[len(prefix) : len(prefix) + 1] in ("", "/", ":", "@")
            )
            if fits and (best is None or len(prefix) > len(best.prefix)):
                best = rule
        return best


def registries_files(environ: Mapping[str, str]) -> list[str]:
    """List the main file, then the drop-in files of the system and of the user, each sorted by name."""
    home = environ.get("HOME") or os.path.expanduser("~")
    user = os.path.join(environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "containers")
    stated = environ.get("CONTAINERS_REGISTRIES_CONF")
    own = os.path.join(user, "registries.conf")
    main = stated or (own if os.path.exists(own) else "/etc/containers/registries.conf")
    files = [main]
    if not stated:
        # containers-registries.conf.d(5): with a main file of the user, the system's drop-in files are ignored too
        system = [] if main == own else ["/etc/containers/registries.conf.d"]
        for directory in (*system, os.path.join(user, "registries.conf.d")):
            try:
                names = sorted(os.listdir(directory))
            except OSError:
                continue
            files += [os.path.join(directory, name) for name in names if name.endswith(".conf")]
    return files


def api_host(domain: str) -> str:
    """Return the API host of a domain: docker.io's has another name."""
    return "registry-1.docker.io" if domain == "docker.io" else domain


def _wild_fits(prefix: str, domain: str) -> bool:
    return prefix.startswith("*.") and domain.partition(":")[0].endswith(prefix[1:])


def _split_tag(text: str) -> tuple[str, str]:
    """Split into ``host/name`` and ``:tag`` or ``@digest``; the port of a host is not a tag."""
    head, slash, tail = text.rpartition("/")
    ends = [at for at in (tail.find(":"), tail.find("@")) if at >= 0] if slash else []
    end = min(ends, default=len(tail))
    return head + slash + tail[:end], tail[end:]


def _place(table: Mapping[str, Any], key: str, tag: str, what: str) -> str:
    """Return host and path; a tag in them must be that of the prefix."""
    text = _text(table, key, what).rstrip("/")
    if "://" in text:
        raise UsageError(f"{what}: {key} {text!r:.200} has a scheme", hint="use host[:port][/path]")
    name, own_tag = _split_tag(text)
    if own_tag not in ("", tag):
        raise UsageError(f"{what}: {key} {text!r:.200} has another tag than the prefix", hint="leave out the tag")
    return name


def _endpoint(location: str, insecure: bool, mirror: bool) -> Endpoint:
    host, _, path = location.partition("/")
    return Endpoint(host, path, insecure, mirror)


def _rule(table: Mapping[str, Any], what: str, file: str) -> _Rule:
    prefix = (_text(table, "prefix", what) or _text(table, "location", what)).rstrip("/")
    tag = _split_tag(prefix)[1]
    _place(table, "prefix", tag, what)
    location = _place(table, "location", tag, what)
    if not prefix:
        raise UsageError(f"{what} has neither prefix nor location", hint="see containers-registries.conf(5)")
    only_digest = _flag(table, "mirror-by-digest-only", what)
    mirrors = []
    for number, entry in enumerate(_list(table, "mirror", what)):
        which = f"{what}: mirror {number + 1}"
        place = _place(entry, "location", tag, which)
        if not place:
            raise UsageError(f"{which} has no location", hint="see containers-registries.conf(5)")
        pull = _text(entry, "pull-from-mirror", which) or ("digest-only" if only_digest else "all")
        if pull not in _PULL_FROM:
            raise UsageError(
                f"{which}: unknown value of pull-from-mirror: {pull!r:.60}", hint="use " + ", ".join(_PULL_FROM)
            )
        mirrors.append(_Mirror(place, _flag(entry, "insecure", which), pull))
    return _Rule(
        prefix,
        location,
        _flag(table, "insecure", what),
        _flag(table, "blocked", what),
        tuple(mirrors),
        file,
    )


def _aliases(value: Mapping[str, Any], file: str) -> dict[str, str]:
    table = value.get("aliases") or {}
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise UsageError(f"{file}: aliases must be strings", hint="see containers-registries.conf(5)")
    return table


def _read(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            raw = stream.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise SystemFailure(f"{file} can't be read: {error.strerror}", hint="check owner and mode") from None
    if len(raw) > _MAX_FILE:
        raise UsageError(
            f"{file} is too large: more than {_MAX_FILE} bytes", hint="see containers-registries.conf(5)"
        )
    import tomllib

    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        raise UsageError(f"{file} is not TOML: {error}", hint="see containers-registries.conf(5)") from None


def _list(table: Mapping[str, Any], key: str, what: str) -> list[Mapping[str, Any]]:
    value = table.get(key) or []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise UsageError(f"{what}: {key} must be written [[{key}]]", hint="see containers-registries.conf(5)")
    return value


def _texts(table: Mapping[str, Any], key: str, what: str) -> list[str]:
    value = table.get(key) or []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise UsageError(f"{what}: {key} must be a list of strings", hint="see containers-registries.conf(5)")
    return value


def _text(table: Mapping[str, Any], key: str, what: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise UsageError(f"{what}: {key} must be a string", hint="see containers-registries.conf(5)")
    return value


def _flag(table: Mapping[str, Any], key: str, what: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise UsageError(f"{what}: {key} must be true or false", hint="see containers-registries.conf(5)")
    return value
