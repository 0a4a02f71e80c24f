"""References (``debian:12``, ``host:5000/a/b@sha256:...``) with docker's normalisation and limits
(distribution/reference). Pure. The canonical form is the one that the store writes."""

from __future__ import annotations

from lamina.errors import LaminaError, UsageError
from lamina.light import Value, pattern, replace
from lamina.spec.digest import Digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
MAX_REPOSITORY = 255  # characters of the path without the domain, as distribution/reference counts since 0.6
MAX_TAG = 128

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
"""The annotations of an index entry that hold its name (image-spec annotations.md; containerd)."""

_NUMBER = "0123456789"
_LOWER = "abcdefghijklmnopqrstuvwxyz" + _NUMBER
_ANY = _LOWER + _LOWER.upper()
_DIGEST = pattern(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")


class Reference(Value):
    """A name in a registry. ``str()`` gives the canonical form, which parses to an equal value."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference. Raises UsageError for what docker would refuse."""
        if not text:
            raise UsageError("the image name is empty", hint="write it like debian:12 or host:5000/path/name:tag")
        if _is_id(text):
            raise _bad(text, "64 hex digits can't be a repository name: they are taken for an ID")
        if "://" in text:
            raise _bad(text, "it has a URL scheme; leave out the part up to //")
        rest, at, digest_text = text.partition("@")
        digest = None
        if at:
            if not _DIGEST.fullmatch(digest_text):
                raise _bad(text, "the part after @ is not a digest")
            digest = Digest.parse(digest_text)
        head, slash, tail = rest.rpartition("/")
        tail, colon, tag = tail.partition(":")
        name = head + slash + tail
        if colon and not is_tag(tag):
            raise _bad(text, f"a tag has 1 to {MAX_TAG} characters of A-Z a-z 0-9 _ . - and starts with none of . -")
        domain, path = _split_domain(name)
        if not is_domain(domain):
            raise _bad(text, f"{domain!r:.100} is not a host name")
        if not is_path(path):
            why = "a repository name must be lower case" if path != path.lower() else "not a repository name"
            raise _bad(text, why)
        if len(path) > MAX_REPOSITORY:
            raise _bad(text, f"a repository name has at most {MAX_REPOSITORY} characters")
        return cls(domain, path, tag or None, digest)

    @property
    def repository(self) -> str:
        """``domain/path``."""
        return f"{self.domain}/{self.path}"

    def with_default_tag(self) -> Reference:
        """Return a copy with the tag ``latest`` if there is neither a tag nor a digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    @property
    def familiar(self) -> str:
        """The shortest form with the same meaning: what people type."""
        name = self.repository
        if self.domain == DEFAULT_DOMAIN:
            name = self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path
            if _is_id(name):
                name = self.repository
        return self._finish(name)

    def __str__(self) -> str:
        return self._finish(self.repository)

    def _finish(self, name: str) -> str:
        if self.tag:
            name += f":{self.tag}"
        return f"{name}@{self.digest}" if self.digest else name


def canonical(name: str) -> str:
    """Return docker's full form, with a tag; "" if ``name`` is not a reference."""
    try:
        return str(Reference.parse(name).with_default_tag())
    except UsageError:
        return ""


def familiar(name: str) -> str:
    """Return the shortest form of a name; a text that is not a reference stays as it is."""
    try:
        return Reference.parse(name).familiar
    except LaminaError:
        return name


def is_tag(text: str) -> bool:
    return _only(text, _ANY + "_.-") and text[0] not in ".-" and len(text) <= MAX_TAG


def is_domain(text: str) -> bool:
    """Whether it is a host name, or an address (in brackets if it has colons), with an optional port."""
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        right = bracket and _only(address, "0123456789abcdefABCDEF:") and port[:1] in ("", ":")
        port, colon = port[1:], port[:1]
    else:
        name, colon, port = text.partition(":")
        labels = name.split(".")
        right = all(_only(label, _ANY + "-") and label[0] != "-" != label[-1] for label in labels)
    return bool(right) and (not colon or _only(port, _NUMBER))


def is_path(text: str) -> bool:
    """Whether all components are lower-case letters and digits, separated by ``.``, ``_``, ``__`` or dashes."""
    return all(_is_component(part) for part in text.split("/"))


def _is_component(text: str) -> bool:
    between = text.translate(_AS_BLANKS).split(" ")  # the separators, and "" between two letters
    return (
        bool(text)
        and not between[0]
        and not between[-1]
        and all(one in _SEPARATORS or not one.strip("-") for one in between)
    )


_AS_BLANKS = str.maketrans(dict.fromkeys(_LOWER, " ") | {" ": "?"})
_SEPARATORS = ("", ".", "_", "__")


def _is_id(text: str) -> bool:
    return len(text) == 64 and _only(text, "0123456789abcdef")


def _only(text: str, letters: str) -> bool:
    return bool(text) and not text.strip(letters)


def _split_domain(name: str) -> tuple[str, str]:
    """Split off the host. The first component is a host if it has a dot, a port or an upper-case letter, or is
    localhost."""
    first, slash, rest = name.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    domain, path = (first, rest) if is_host else (DEFAULT_DOMAIN, name)
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return domain, path


def _bad(text: str, why: str) -> UsageError:
    return UsageError(f"not a reference: {text!r:.300}: {why}", hint="write it like debian:12 or host:5000/path:tag")
