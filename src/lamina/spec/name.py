"""Image names as people type them: transport, location, name, and a range of layers (pure)."""

from __future__ import annotations

from lamina.errors import Unsupported, UsageError
from lamina.light import Value, pattern, replace
from lamina.spec.reference import Reference
from lamina.spec.transport import BY_NAME, REGISTRY, UNSUPPORTED

_RANGE = pattern(r"~(\d{1,9})(?::(\d{1,9}))?$")


class ImageName(Value):
    """The parts of an image name. ``transport`` is "" for the store (then a registry), or a name of
    ``spec.transport``: ``REGISTRY``, or one with the path of a file or directory in ``location``. Layers ``low`` to
    ``high`` count from 1 at the bottom; None is the top."""

    transport: str
    location: str
    name: str
    low: int = 1
    high: int | None = None

    @property
    def reference(self) -> Reference:
        """``name`` as a reference with its tag. Raises UsageError."""
        return Reference.parse(self.name).with_default_tag()

    @property
    def whole(self) -> bool:
        """Whether the name covers all layers."""
        return self.low == 1 and self.high is None

    def __str__(self) -> str:
        text = self.name
        if self.transport == REGISTRY:
            text = f"docker://{self.name}"
        elif self.transport:
            text = f"{self.transport}:{self.location}" + (f":{self.name}" if self.name else "")
        if self.high is None:
            return text
        return f"{text}~{self.high}" if self.low == 1 else f"{text}~{self.low}:{self.high}"


def parse_stored(text: str) -> ImageName:
    """Parse the name of an image in the store: ``docker://REF`` means REF here, as in podman. Raises as
    ``parse_name``."""
    name = parse_name(text)
    return replace(name, transport="") if name.transport == REGISTRY else name


def parse_name(text: str) -> ImageName:
    """Parse an image name. Raises UsageError; Unsupported for a transport of other tools that lamina lacks."""
    if not text or "\0" in text:
        what = "the image name contains a zero byte" if text else "the image name is empty"
        raise UsageError(what, hint="name an image, like debian:12")
    low, high = 1, None
    found = _RANGE.search(text) if "~" in text else None
    if found:
        first, second = int(found[1]), found[2]
        low, high = (1, first) if second is None else (first, int(second))
        if low < 1 or high < low - 1 or (second is not None and high < low):
            raise UsageError(
                f"not a range of layers: {found[0]}",
                hint="use ~N for layers 1 to N, ~N:M for layers N to M (from the bottom)",
            )
        text = text[: found.start()]
    transport, colon, rest = text.partition(":")
    if colon and transport in UNSUPPORTED:
        raise Unsupported(f"the transport {transport}: is not supported", hint=UNSUPPORTED[transport])
    known = BY_NAME.get(transport) if colon else None
    if known is None:
        return ImageName("", "", text, low, high)
    if transport == REGISTRY:
        if rest.startswith("//"):
            return ImageName(REGISTRY, "", rest[2:], low, high)
        return ImageName("", "", text, low, high)  # a repository with the name docker, and a tag
    # `skopeo sync` puts the tag into the name of a directory with one image
    location, _, name = rest.partition(":") if known.holds_many else (rest, "", "")
    if not location:
        raise UsageError(f"{text!r:.200} has no path", hint=f"write it as {known.usage}")
    return ImageName(transport, location, name, low, high)
