"""The flags of RUN as values (pure): ``--mount``, ``--network`` and ``--security``, by BuildKit's rules.

A ``--mount`` is one line of CSV with ``key=value`` in each field. Variables are expanded in the values, after the
line is split: a value with a comma stays one value.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lamina.build.steps import RunMount
from lamina.errors import UsageError
from lamina.run.options import parse_size
from lamina.text import nearest

BIND, CACHE, TMPFS, SECRET, SSH = KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARED, PRIVATE, LOCKED = SHARINGS = ("shared", "private", "locked")
NETWORKS = ("default", "none", "host")
SECURITIES = ("sandbox", "insecure")
SECRETS = "/run/secrets"
_AGENT = "/run/buildkit/ssh_agent"
_DEFAULT_AGENT = "default"
_NAMES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_KEYS = (
    *("type", "from", "source", "target", "readonly", "readwrite", "id", "sharing", "required", "size"),
    *("mode", "uid", "gid", "env", *_NAMES),
)
_WITH_ATTRIBUTES = (CACHE, SECRET, SSH)
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_MOST = 1 << 32
Expand = Callable[[str], str]


def run_mounts(values: Iterable[str], expand: Expand, workdir: str = "/") -> tuple[RunMount, ...]:
    """The mounts of one RUN. ``expand`` expands the variables of one value. A relative target begins at ``workdir``.

    ``origin`` of a result is the text of ``from``: the caller replaces it by a step. Raises UsageError.
    """
    found: list[RunMount] = []
    for value in values:
        agents = sum(mount.kind == SSH for mount in found)
        found.append(_Parsed(value, expand).mount(workdir, agents))
    return tuple(found)


def origin_of(value: str) -> str:
    """The text of ``from`` in one ``--mount``, "" if it has none: the planner needs it before it can expand anything.
    Raises UsageError (a variable in it, a malformed line)."""
    found = ""
    for one in _fields(value):
        key, equals, text = one.partition("=")
        if key.lower() == "from" and equals:
            _check_from(text)
            found = text
    return found


def context_pattern(source: str) -> str:
    """The pattern (``FromContext.patterns``) of the source of a bind in a context: exactly this path."""
    path = source.strip("/") or "."
    if not set(path) & set("*?["):
        return path
    return "".join({"*": "[*]", "?": "[?]", "[": "[[]", "\\": "\\\\"}.get(one, one) for one in path)


def network(word: str) -> str:
    """``RunStep.network`` for the value of ``--network``. Raises UsageError."""
    if word not in ("", *NETWORKS):
        raise _unknown("network", word, NETWORKS)
    return "" if word == "default" else word


def is_insecure(word: str) -> bool:
    """Whether ``--security`` asks for all rights. Raises UsageError."""
    if word not in ("", *SECURITIES):
        raise _unknown("security mode", word, SECURITIES)
    return word == "insecure"


@dataclass
class _Parsed:
    """One ``--mount``. Keys count in their order, as in BuildKit: ``required`` comes after ``type=secret``."""

    value: str
    expand: Expand
    kind: str = BIND
    words: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    read_only: bool | None = None
    required: bool = False
    size: int | None = None

    def __post_init__(self) -> None:
        for one in _fields(self.value):
            key, equals, text = one.partition("=")
            name = _NAMES.get(key.lower(), key.lower())
            if equals:
                self._take(name, key, text)
            else:
                self._take_alone(name, one)
        self._check()

    def _take_alone(self, name: str, word: str) -> None:
        if name in ("readonly", "readwrite"):
            self.read_only = name == "readonly"
        elif name == "required":
            self._of_kinds(name, SECRET, SSH)
            self.required = True
        elif name in _KEYS:
            raise UsageError(f"--mount: {word!r:.60} has no value", hint=f"write {name}=VALUE")
        else:
            raise self._unknown_key(word)

    def _take(self, name: str, key: str, raw: str) -> None:
        if name == "from":
            _check_from(raw)
        text = self.expand(raw)
        if name == "type":
            self.kind = text.lower()
            if self.kind not in KINDS:
                raise _unknown("type of mount", text, KINDS)
        elif name in ("readonly", "readwrite"):
            self.read_only = _boolean(name, text) == (name == "readonly")
        elif name == "required":
            self._of_kinds(name, SECRET, SSH)
            self.required = _boolean(name, text)
        elif name == "size":
            self._of_kinds(name, TMPFS)
            self.size = _size(text)
        elif name == "sharing":
            if text.lower() not in SHARINGS:
                raise _unknown("sharing", text, SHARINGS)
            self.words[name] = text.lower()
        elif name in ("mode", "uid", "gid"):
            self.numbers[name] = _number(name, text)
        elif name in _KEYS:
            self.words[name] = text
        else:
            raise self._unknown_key(key)

    def _of_kinds(self, name: str, *kinds: str) -> None:
        if self.kind not in kinds:
            raise UsageError(
                f"--mount: {name} is not an option of type={self.kind}",
                hint=f"it belongs to {' and '.join(f'type={kind}' for kind in kinds)}, and comes after it",
            )

    def _unknown_key(self, key: str) -> UsageError:
        return _unknown("option of --mount", key, _KEYS)

    def _check(self) -> None:
        if self.kind not in _WITH_ATTRIBUTES:
            for name in self.numbers:
                self._of_kinds(name, *_WITH_ATTRIBUTES)
        if "sharing" in self.words:
            self._of_kinds("sharing", CACHE)
        source, target, identity = (self.words.get(name, "") for name in ("source", "target", "id"))
        if self.kind == SECRET:
            if self.words.get("from"):
                raise UsageError("--mount: a secret has no from", hint="name the secret with id")
            if not (source or target or identity):
                raise UsageError("--mount: the secret has no name", hint="write id=NAME, or target=PATH")
            if source and identity:
                raise UsageError("--mount: a secret has both source and id", hint="leave source out")
        if self.kind == SSH and source:
            raise UsageError("--mount: type=ssh has no source", hint="name the agent with id")

    def mount(self, workdir: str, agents: int) -> RunMount:
        """``agents``: the number of ssh mounts before this one."""
        source, target = self.words.get("source", ""), self.words.get("target", "")
        identity, variable = self.words.get("id", ""), ""
        read_only = self.kind not in (CACHE, TMPFS) if self.read_only is None else self.read_only
        if self.kind == SECRET:
            identity = source or identity or posixpath.basename(target.rstrip("/"))
            variable = self.words.get("env", "")
            if "env" in self.words and not variable:
                raise UsageError("--mount: the secret's env is empty", hint="write env=NAME")
            target = target or ("" if variable else f"{SECRETS}/{posixpath.basename(identity)}")
            source = ""
        elif self.kind == SSH:
            identity = identity or _DEFAULT_AGENT
            target = target or f"{_AGENT}.{agents}"
        elif self.kind == CACHE:
            identity = identity or posixpath.normpath(target or ".")
        if self.kind in (BIND, CACHE):
            source = _absolute(source, "/")
        else:
            source = ""
        place = "" if variable and not target else _absolute(target, workdir)
        if place == "/":
            raise UsageError(f"--mount: nothing can be mounted at {target or '/'!r:.200}", hint="give target=PATH")
        return RunMount(
            self.kind,
            place,
            source,
            (self.words.get("from") or None) if self.kind in (BIND, CACHE) else None,
            identity if self.kind in (CACHE, SECRET, SSH) else "",
            self.words.get("sharing", SHARED),
            read_only,
            self.required,
            self.numbers.get("mode"),
            self.numbers.get("uid", 0),
            self.numbers.get("gid", 0),
            self.size or None,
            variable,
        )


def _absolute(path: str, above: str) -> str:
    if "\0" in path:
        raise UsageError(f"--mount: a NUL in {path!r:.100}", hint="remove it")
    joined = posixpath.normpath(posixpath.join("/", above, path))
    return "/" + joined.lstrip("/")


def _check_from(text: str) -> None:
    if "$" in text[:-1]:
        raise UsageError(
            f"--mount: from={text!r:.100} holds a variable, and from is not expanded",
            hint="define a stage with FROM $NAME AS ..., and name that stage",
        )


def _boolean(name: str, text: str) -> bool:
    if text not in (*_TRUE, *_FALSE):
        raise UsageError(f"--mount: {name}={text!r:.60} is neither true nor false", hint=f"write {name}=true")
    return text in _TRUE


def _number(name: str, text: str) -> int:
    base = 8 if name == "mode" else 10
    try:
        if not (text.isascii() and text.isdigit()):
            raise ValueError
        number = int(text, base)
    except ValueError:
        number = _MOST
    if number >= _MOST:
        like = "an octal number, like 0755" if name == "mode" else "a number, like 1000"
        raise UsageError(f"--mount: {name}={text!r:.60} is not a {name}", hint=f"give {like}")
    return number


def _size(text: str) -> int:
    plain = text.replace(" ", "")
    if plain[-2:].lower() == "ib":
        plain = plain[:-2]
    return parse_size(plain)


def _unknown(what: str, word: str, known: tuple[str, ...]) -> UsageError:
    found = nearest(word.lower(), known)
    hint = f"did you mean {found[0]}?" if found else f"use one of {', '.join(known)}"
    return UsageError(f"no {what} {word!r:.60}", hint=hint)


def _fields(line: str) -> list[str]:
    """The fields of one line of CSV (RFC 4180). Raises UsageError."""
    found: list[str] = []
    at = 0
    while True:
        if line[at : at + 1] == '"':
            text, at = _quoted(line, at + 1)
        else:
            end = line.find(",", at)
            text, at = (line[at:], len(line)) if end < 0 else (line[at:end], end)
            if '"' in text:
                raise UsageError(
                    f"--mount: a quote within {text!r:.100}", hint='quote the whole field, like "source=a,b"'
                )
        found.append(text)
        if at == len(line):
            break
        at += 1  # the comma
    if found == [""]:
        raise UsageError("--mount has no value", hint="write it like --mount=type=cache,target=/root/.cache")
    return found


def _quoted(line: str, at: int) -> tuple[str, int]:
    text = ""
    while True:
        end = line.find('"', at)
        if end < 0:
            raise UsageError(f"--mount: a quote in {line!r:.100} is not closed", hint="close it")
        text += line[at:end]
        at = end + 1
        if line[at : at + 1] == '"':
            text, at = text + '"', at + 1
        elif at == len(line) or line[at] == ",":
            return text, at
        else:
            raise UsageError(f"--mount: text after a quoted field in {line!r:.100}", hint="quote the whole field")
