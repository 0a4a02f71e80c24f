"""Platforms (image-spec image-index.md, "platform"): parsing, normalisation, and fallback to compatible ones.

Variants follow containerd/platforms: arm64 ``v8`` is "", arm "" is ``v7``, amd64 ``v1`` is "".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from lamina.errors import InvalidDocument, UsageError
from lamina.light import TYPE_CHECKING, Value, pattern, replace
from lamina.spec.json import kind_of, refuse_case_variants

if TYPE_CHECKING:
    from typing import Any

KNOWN_KEYS = frozenset({"architecture", "os", "os.version", "os.features", "variant", "features"})

_PART = pattern(r"[A-Za-z0-9_.-]{1,64}")
_OS_PART = pattern(r"([A-Za-z0-9_.-]{1,64})(?:\(([A-Za-z0-9_.-]{1,64})\))?")
_OSES = frozenset(
    {
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "illumos",
        "ios",
        "js",
        "linux",
        "macos",
        "netbsd",
        "openbsd",
    }
    | {"plan9", "solaris", "wasip1", "windows"}
)
# names that uname, Debian, Windows or people use -> (GOARCH, variant)
_ARCHITECTURES = {
    "386": ("386", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
    "amd64": ("amd64", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "arm64": ("arm64", ""),
    "aarch64": ("arm64", ""),
    "arm": ("arm", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loong64": ("loong64", ""),
    "loongarch64": ("loong64", ""),
    "mips": ("mips", ""),
    "mipsle": ("mipsle", ""),
    "mipsel": ("mipsle", ""),
    "mips64": ("mips64", ""),
    "mips64le": ("mips64le", ""),
    "mips64el": ("mips64le", ""),
    "ppc64": ("ppc64", ""),
    "ppc64le": ("ppc64le", ""),
    "powerpc64le": ("ppc64le", ""),
    "ppc64el": ("ppc64le", ""),
    "riscv64": ("riscv64", ""),
    "s390x": ("s390x", ""),
    "wasm": ("wasm", ""),
}
_MAX_VARIANT = 64


class Platform(Value):
    """The operating system and CPU that an image is for. Compare ``normalized()`` values; documents keep the form in
    which they were written."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse ``os/architecture[/variant]``, or an OS or an architecture alone; the result is normalised. Raises
        UsageError."""
        parts = text.split("/")
        match = _OS_PART.fullmatch(parts[0])
        if match is None or len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts[1:]):
            raise UsageError(f"not a platform: {text!r:.100}", hint="write it like linux/amd64 or linux/arm/v7")
        name, version = match[1], match[2] or ""
        if len(parts) > 1:
            variant = parts[2] if len(parts) == 3 else ""
            return cls(name, parts[1], variant, version).normalized()
        if name.lower() in _OSES:
            host = cls.host()
            return cls(name, host.architecture, host.variant, version).normalized()
        if name.lower() in _ARCHITECTURES and not version:
            return cls("linux", name).normalized()
        raise UsageError(f"unknown operating system or architecture: {text!r:.100}", hint="write it like linux/amd64")

    @classmethod
    def host(cls) -> Platform:
        """Return the host's platform. The operating system is always ``linux``: images are made for it."""
        if hasattr(os, "uname"):
            machine = os.uname().machine
        else:
            machine = os.environ.get("PROCESSOR_ARCHITECTURE", "amd64")
        if machine in ("mips", "mips64") and sys.byteorder == "little":
            machine += "le"
        return cls("linux", machine).normalized()

    @classmethod
    def from_json(cls, value: object, what: str) -> Platform:
        """Read a platform from a decoded JSON value; absent and null fields are empty. Raises InvalidDocument."""
        if type(value) is not dict:
            raise _invalid(what, "platform", "an object", value)
        if not value.keys() <= KNOWN_KEYS:
            refuse_case_variants(value, KNOWN_KEYS, f"{what}: platform")
        features = value.get("os.features")
        if features is None:
            features = []
        if type(features) is not list or not all(type(item) is str for item in features):
            raise _invalid(what, "platform.os.features", "a list of strings", features)
        return cls(
            _text(value, "os", what),
            _text(value, "architecture", what),
            _text(value, "variant", what),
            _text(value, "os.version", what),
            tuple(features),
        )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            value["os.version"] = self.os_version
        if self.os_features:
            value["os.features"] = list(self.os_features)
        if self.variant:
            value["variant"] = self.variant
        return value

    def normalized(self) -> Platform:
        """Return a copy with aliases resolved, in lower case, with one spelling for each variant."""
        system = self.os.lower()
        name = self.architecture.lower()
        variant = self.variant.lower()
        architecture, implied = _ARCHITECTURES.get(name, (name, ""))
        variant = variant or implied
        if architecture in ("arm", "arm64", "amd64") and variant[:1].isdigit():
            variant = "v" + variant
        if architecture == "386":
            variant = ""
        elif architecture == "arm" and not variant:
            variant = "v7"
        elif (architecture, variant) in (("arm64", "v8"), ("arm64", "v8.0"), ("amd64", "v1")):
            variant = ""
        return replace(self, os="darwin" if system == "macos" else system, architecture=architecture, variant=variant)

    def candidates(self) -> tuple[Platform, ...]:
        """List this platform (normalised), then the platforms whose images it can run as well, best first: arm64
        vN..v8, then arm v8..v5; amd64 vN..v1, then 386; arm vN..v5."""
        first = self.normalized()
        found = [first]
        for architecture, variant in _fallbacks(first.architecture, first.variant):
            platform = replace(first, architecture=architecture, variant=variant).normalized()
            if platform not in found:
                found.append(platform)
        return tuple(found)

    def accepts(self, offered: Platform) -> bool:
        """Whether ``offered`` is the same platform. If an ``os_version`` was asked for, the offered one must begin
        with it, component by component (10.0.17763 accepts 10.0.17763.1). If features were asked for, the offered
        ones must be among them."""
        mine, other = self.normalized(), offered.normalized()
        return (
            (mine.os, mine.architecture, mine.variant) == (other.os, other.architecture, other.variant)
            and (not mine.os_version or (other.os_version + ".").startswith(mine.os_version + "."))
            and (not mine.os_features or set(other.os_features) <= set(mine.os_features))
        )

    def runs(self, offered: Platform) -> bool:
        """Whether this platform can run images made for ``offered``. A config that leaves out the variant or the
        architecture fits any."""
        other = offered.normalized()
        return not offered.architecture or any(
            (one.os, one.architecture) == (other.os, other.architecture)
            and (not offered.variant or one.variant == other.variant)
            for one in self.candidates()
        )

    def __str__(self) -> str:
        system = f"{self.os}({self.os_version})" if self.os_version else self.os
        return "/".join(part for part in (system, self.architecture, self.variant) if part)


def _fallbacks(architecture: str, variant: str) -> list[tuple[str, str]]:
    level = _level(variant)
    if architecture == "arm64":
        newest = level if level is not None and level > 8 else 8
        below = [("arm64", f"v{n}") for n in range(newest, 7, -1)]
        return below + [("arm", f"v{n}") for n in range(8, 4, -1)]
    if architecture == "amd64":
        return [("amd64", f"v{n}") for n in range((level or 1) - 1, 0, -1)] + [("386", "")]
    if architecture == "arm" and level is not None:
        return [("arm", f"v{n}") for n in range(level - 1, 4, -1)]
    return []


def _level(variant: str) -> int | None:
    """Return the number in a variant (``v9.3`` -> 9); None if there is none, or an absurdly large one."""
    major = variant.removeprefix("v").partition(".")[0]
    if variant.startswith("v") and major.isascii() and major.isdigit() and len(major) <= 2:
        return min(int(major), _MAX_VARIANT)
    return None


def _text(value: Mapping[str, Any], key: str, what: str) -> str:
    text = value.get(key)
    if text is None:
        return ""
    if type(text) is not str:
        raise _invalid(what, f"platform.{key}", "a string", text)
    return text


def _invalid(what: str, field: str, wanted: str, found: object) -> InvalidDocument:
    return InvalidDocument(
        f"{what}: {field} must be {wanted}, not {kind_of(found)}",
        hint="the document breaks its specification; report it to the publisher of the image",
    )
