"""Descriptors (image-spec descriptor.md): the media type, size and digest of a blob."""

from __future__ import annotations

from collections.abc import Mapping

from lamina.errors import DigestMismatch, InvalidDocument, SizeMismatch, UsageError
from lamina.light import TYPE_CHECKING, Value, field, replace
from lamina.spec.digest import Digest
from lamina.spec.json import kind_of, refuse_case_variants
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from typing import Any

KNOWN_KEYS = frozenset({"mediaType", "digest", "size", "annotations", "platform", "urls", "data", "artifactType"})
MAX_SIZE = 2**63 - 1


class Descriptor(Value):
    """What a document says about a blob. ``size`` is in bytes. ``raw`` is the JSON object that it was read from; it
    is kept so that unknown fields survive an edit."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    data: bytes | None = None
    artifact_type: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, media_type: str, data: bytes, algorithm: str = "sha256") -> Descriptor:
        """Describe these bytes: media type, digest and size."""
        return cls(media_type, Digest.of(data, algorithm), len(data))

    @classmethod
    def from_json(cls, value: object, what: str, *, untyped: bool = False) -> Descriptor:
        """Read a descriptor from a decoded JSON value; null counts as absent.

        ``what`` names the document in errors. With ``untyped`` the media type may be missing; it is "" then. Inline
        ``data`` is checked against digest and size; it is ignored if the digest's algorithm is unknown here.

        Raises InvalidDocument, which names ``what`` and the field; DigestMismatch or SizeMismatch for wrong inline
        data.
        """
        if type(value) is not dict:
            raise _invalid(what, "descriptor", "an object", value)
        if not value.keys() <= KNOWN_KEYS:
            refuse_case_variants(value, KNOWN_KEYS, what)
        size = value.get("size")
        if type(size) is not int or not 0 <= size <= MAX_SIZE:
            shown = size if type(size) is int else kind_of(size)
            raise InvalidDocument(f"{what}: size must be 0 or more bytes, not {shown}", hint=_HINT)
        descriptor = cls(
            "" if untyped and not value.get("mediaType") else _media_type(value, "mediaType", what),
            _digest(value.get("digest"), what),
            size,
            string_map(value.get("annotations"), f"{what}: annotations"),
            _platform(value, what),
            _urls(value.get("urls"), what),
            None,
            None if value.get("artifactType") is None else _media_type(value, "artifactType", what),
            value,
        )
        encoded = value.get("data")
        if encoded is None or not descriptor.digest.supported:
            return descriptor
        return replace(descriptor, data=_inline(encoded, descriptor, what))

    def to_json(self) -> dict[str, Any]:
        """Write ``raw`` with this descriptor's fields over it. A field whose value did not change keeps its original
        form."""
        value = dict(self.raw)
        value["mediaType"] = self.media_type
        value["digest"] = str(self.digest)
        value["size"] = self.size
        _override(value, "annotations", dict(self.annotations))
        _override(value, "urls", list(self.urls))
        _override(value, "artifactType", self.artifact_type)
        if _platform(value, "descriptor") != self.platform:
            _override(value, "platform", self.platform and self.platform.to_json())
        if self.data is not None:
            import binascii

            value["data"] = binascii.b2a_base64(self.data, newline=False).decode("ascii")
        return value

    def with_annotations(self, annotations: Mapping[str, str | None]) -> Descriptor:
        """Return a copy with these annotations added or changed; a value of None removes the annotation."""
        merged: dict[str, str | None] = {**self.annotations, **annotations}
        return replace(self, annotations={key: text for key, text in merged.items() if text is not None})

    def check(self, data: bytes) -> None:
        """Raise SizeMismatch or DigestMismatch if ``data`` is not this blob; Unsupported if its digest algorithm
        can't be computed here. The size is checked first because that costs nothing."""
        if len(data) != self.size:
            raise SizeMismatch(
                f"{self.digest} has {len(data)} bytes instead of {self.size}", hint="fetch it again from its source"
            )
        actual = Digest.of(data, self.digest.algorithm)
        if actual != self.digest:
            raise DigestMismatch(
                f"content of {self.digest} has digest {actual}", hint="fetch it again from its source"
            )


_HINT = "the document breaks its specification; report it to the publisher of the image"


def string_map(value: object, what: str) -> dict[str, str]:
    """Return a JSON map of strings to strings ({} for null). Raises InvalidDocument."""
    if value is None:
        return {}
    if type(value) is not dict:
        raise InvalidDocument(f"{what} must be an object, not {kind_of(value)}", hint=_HINT)
    for key, text in value.items():
        if type(text) is not str:
            raise InvalidDocument(f"{what}: {key!r:.100} must be a string, not {kind_of(text)}", hint=_HINT)
    return value


def _media_type(value: Mapping[str, Any], key: str, what: str) -> str:
    text = value.get(key)
    if type(text) is not str:
        raise _invalid(what, key, "a string", text)
    # stricter than RFC 6838: refuse whatever could forge a header or a line on a terminal
    if not 0 < len(text) <= 255 or not (text.isascii() and text.isprintable()) or text != text.strip(" "):
        raise InvalidDocument(f"{what}: {key} {text!r:.100} is not a media type", hint=_HINT)
    return text


def _digest(text: object, what: str) -> Digest:
    if type(text) is not str:
        raise _invalid(what, "digest", "a string", text)
    try:
        return Digest.parse(text)
    except UsageError as error:
        raise InvalidDocument(f"{what}: {error.message}", hint=error.hint) from error


def _platform(value: Mapping[str, Any], what: str) -> Platform | None:
    """Read the platform, if there is one. The empty platform that Go writes for "none" counts as none."""
    stated = value.get("platform")
    if stated is None:
        return None
    platform = Platform.from_json(stated, what)
    return platform if platform.os or platform.architecture else None


def _urls(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if type(value) is not list or not all(type(url) is str for url in value):
        raise _invalid(what, "urls", "a list of strings", value)
    return tuple(value)


def _inline(encoded: object, descriptor: Descriptor, what: str) -> bytes:
    import binascii

    if type(encoded) is not str:
        raise _invalid(what, "data", "a string", encoded)
    try:
        data = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise InvalidDocument(f"{what}: data is not base64: {error}", hint=_HINT) from error
    descriptor.check(data)
    return data


def _override(value: dict[str, Any], key: str, new: Any) -> None:
    if new:
        value[key] = new
    elif value.get(key):
        del value[key]


def _invalid(what: str, name: str, wanted: str, found: object) -> InvalidDocument:
    return InvalidDocument(f"{what}: {name} must be {wanted}, not {kind_of(found)}", hint=_HINT)
