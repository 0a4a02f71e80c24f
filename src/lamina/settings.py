"""Settings: defaults, then /etc, then the user's file, then the environment, then flags. Each value
remembers where it came from; ``lamina info`` prints it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lamina.errors import SystemFailure, UsageError
from lamina.light import TYPE_CHECKING, Value, pattern

if TYPE_CHECKING:
    from typing import Any

    from lamina.spec.platform import Platform

SYSTEM_FILE = "/etc/lamina/config.toml"
MAX_LAYER = 64 << 30
"""The most bytes of tar that a layer may unpack to, unless told otherwise."""
KEEPS = ("blob+tar", "blob", "tar")
"""What may stay of a layer: the blob as it came and the tar in it; the blob, read through checkpoints; the tar, where
a registry is known that has the blob."""
KEEP = KEEPS[0]
VIEWS = ("erofs", "erofs-merged", "overlay", "fuse")
"""Ways to show a union, best first: EROFS images of the layers' metadata over their tars; one such image of them
all; unpacked trees; a process that answers from the tars (read-only, no rights needed)."""
_SIZE = pattern(r"(?i)(\d+)\s*([kmgt]?)(i?)b?")
_COMPRESSIONS = ("gzip", "zstd", "none")


class Setting(Value):
    """A value and its origin: "default", a file's path, a variable's name, or "flag"."""

    value: Any
    origin: str


_VARIABLES = {
    "root": ("LAMINA_ROOT",),
    "platform": ("LAMINA_PLATFORM", "DOCKER_DEFAULT_PLATFORM"),
    "max_layer": ("LAMINA_MAX_LAYER",),
    "compression": ("LAMINA_COMPRESSION",),
    "tls_verify": ("LAMINA_TLS_VERIFY",),
    "authfile": ("REGISTRY_AUTH_FILE",),
    "cert_dir": ("LAMINA_CERT_DIR",),
    "compression_level": ("LAMINA_COMPRESSION_LEVEL",),
    "keep": ("LAMINA_KEEP",),
    "upper_dir": ("LAMINA_UPPER_DIR",),
    "login_hosts": ("LAMINA_LOGIN_HOSTS",),
    "view": ("LAMINA_VIEW",),
    "runtime": ("LAMINA_RUNTIME",),
}
_TRUTH = {"true": True, "t": True, "1": True, "yes": True, "false": False, "f": False, "0": False, "no": False}
_MEANING = {
    "root": "the store's directory",
    "platform": "which platform of an image is taken; empty for this machine's",
    "max_layer": "the most bytes that a layer may unpack to",
    "compression": "of new layers: gzip, zstd or none",
    "tls_verify": "false: certificates of registries go unchecked, and plain http will do; empty: http on loopback",
    "authfile": "where credentials of registries are; empty: where podman and docker have them",
    "cert_dir": "own CAs (*.crt), client certificates (*.cert, *.key); empty: certs.d as docker and podman have it",
    "keep": "what stays of a layer that comes in: blob+tar, blob or tar",
    "compression_level": "of new layers; empty for the compression's own default",
    "view": "how unions are shown: erofs, erofs-merged, overlay or fuse; empty: the first that works here",
    "runtime": "what runs containers: crun, runc, bwrap, or a path; empty: the first that is here",
    "login_hosts": "REGISTRY=HOST, ...: hosts of another site that get the login of a registry all the same",
    "upper_dir": "where containers write; empty: in the store, in memory where its file system can't hold that",
}


class Settings(Value):
    """``values``: each setting by name. Sizes are in bytes."""

    values: Mapping[str, Setting]

    @property
    def root(self) -> str:
        return str(self.values["root"].value)

    @property
    def platform(self) -> str:
        return str(self.values["platform"].value)

    def asked_platform(self) -> Platform | None:
        """The platform that is set."""
        from lamina.spec.platform import Platform

        return Platform.parse(self.platform) if self.platform else None

    def wanted_platform(self) -> Platform:
        """The platform that is set, else this machine's."""
        from lamina.spec.platform import Platform

        return self.asked_platform() or Platform.host()

    @property
    def max_layer(self) -> int:
        size: int = self.values["max_layer"].value
        return size

    @property
    def compression(self) -> str:
        return str(self.values["compression"].value)

    @property
    def compression_level(self) -> int | None:
        level: int | None = self.values["compression_level"].value
        return level

    @property
    def keep(self) -> str:
        return str(self.values["keep"].value)

    @property
    def tls_verify(self) -> bool | None:
        verify: bool | None = self.values["tls_verify"].value
        return verify

    @property
    def authfile(self) -> str | None:
        return self.values["authfile"].value or None

    @property
    def cert_dir(self) -> str | None:
        return self.values["cert_dir"].value or None

    @property
    def view(self) -> str:
        return str(self.values["view"].value)

    @property
    def runtime(self) -> str:
        return str(self.values["runtime"].value)

    @property
    def upper_dir(self) -> str | None:
        return self.values["upper_dir"].value or None

    @property
    def login_hosts(self) -> frozenset[tuple[str, str]]:
        """As (registry, host)."""
        return frozenset(_pairs(str(self.values["login_hosts"].value)))

    @classmethod
    def load(
        cls,
        *,
        flags: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        system_file: str = SYSTEM_FILE,
    ) -> Settings:
        """Raises UsageError naming the file or variable and the key, SystemFailure where a file can't be read."""
        environ = os.environ if environ is None else environ
        found = {name: Setting(value, "default") for name, value in _defaults(environ).items()}
        for path in (system_file, user_file(environ)):
            for name, raw in _read_file(path).items():
                found[name] = Setting(_checked(name, raw, path), path)
        for name, variables in _VARIABLES.items():
            for variable in variables:
                if environ.get(variable):
                    found[name] = Setting(_checked(name, environ[variable], variable), variable)
                    break
        for name, text in (flags or {}).items():
            found[name] = Setting(_checked(name, text, "flag"), "flag")
        return cls(found)


def user_file(environ: Mapping[str, str]) -> str:
    """Where the user's settings are."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(_home(environ), ".config")
    return os.path.join(base, "lamina", "config.toml")


def settings() -> Mapping[str, tuple[str, ...]]:
    """Each setting, and the variables that set it."""
    return _VARIABLES


def meaning(name: str) -> str:
    """What a setting is for, in a few words."""
    return _MEANING[name]


def parse_size(text: str) -> int:
    """Bytes: ``512``, ``64GiB``, ``10MB`` (powers of ten without the i). Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"not a size: {text!r:.60}", hint="expected like 64GiB or 500MB")
    number, unit, binary = match.groups()
    base, power = 1024 if binary else 1000, " kmgt".index(unit.lower() or " ")
    size: int = int(number) * base**power
    return size


def _defaults(environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        "root": _default_root(environ),
        "platform": "",
        "max_layer": MAX_LAYER,
        "compression": "gzip",
        "compression_level": None,
        "tls_verify": None,
        "authfile": "",
        "cert_dir": "",
        "keep": KEEP,
        "upper_dir": "",
        "login_hosts": "",
        "view": "",
        "runtime": "",
    }


def _default_root(environ: Mapping[str, str]) -> str:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return "/var/lib/lamina"
    base = environ.get("XDG_DATA_HOME") or environ.get("LOCALAPPDATA")
    return os.path.join(base or os.path.join(_home(environ), ".local", "share"), "lamina")


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def _read_file(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            raw = file.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        if not os.path.lexists(path):  # in a home that is not this user's (su, cron): nothing is set there
            return {}
        raise SystemFailure(
            f"the settings in {path} can't be read: {error.strerror}", hint="check its rights"
        ) from None
    import tomllib

    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}", hint="see docs/settings.md") from None
    for name in values:
        if name not in _VARIABLES:
            raise UsageError(f"{path}: no setting is called {name!r:.100}", hint="known: " + ", ".join(_VARIABLES))
    return values


def _checked(name: str, raw: object, origin: str) -> Any:
    try:
        return _value(name, raw)
    except UsageError as error:
        raise UsageError(f"{origin}: {name}: {error.message}", hint=error.hint) from None


def _value(name: str, raw: object) -> Any:
    if name == "max_layer":
        size = raw if type(raw) is int else parse_size(_text(raw))
        if size <= 0:
            raise UsageError(f"{size} is no limit", hint="expected like 64GiB")
        return size
    if name == "compression_level":
        text = str(raw) if type(raw) is int else _text(raw)
        if not text.lstrip("-").isdigit():
            raise UsageError(f"not a number: {text!r:.60}")
        return int(text)
    if name == "tls_verify":
        truth = raw if isinstance(raw, bool) else _TRUTH.get(_text(raw).lower())
        if truth is None:
            raise UsageError(f"{raw!r:.60} is neither true nor false")
        return truth
    text = _text(raw)
    if name == "compression" and text not in _COMPRESSIONS:
        raise UsageError(f"{text!r:.60} is not known", hint="known: " + ", ".join(_COMPRESSIONS))
    if name == "login_hosts":
        _pairs(text)
    if name == "keep" and text not in KEEPS:
        raise UsageError(f"{text!r:.60} is not known", hint="known: " + ", ".join(KEEPS))
    if name == "view" and text not in ("", *VIEWS):
        raise UsageError(f"{text!r:.60} is not known", hint="known: " + ", ".join(VIEWS))
    if name == "platform" and text:
        from lamina.spec.platform import Platform

        Platform.parse(text)
    if name in ("root", "authfile", "cert_dir", "upper_dir"):
        if not text or "\0" in text:
            raise UsageError("an empty path")
        return os.path.abspath(os.path.expanduser(text))
    return text


def _pairs(text: str) -> list[tuple[str, str]]:
    found = []
    for word in filter(None, text.replace(",", " ").split()):
        registry, _, host = word.partition("=")
        if not registry or not host or "/" in word or "=" in host:
            raise UsageError(f"{word!r:.100} is not REGISTRY=HOST", hint="like registry.example.com=auth.example.org")
        found.append((registry.lower(), host.lower()))
    return found


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise UsageError(f"must be a text, not {raw!r:.60}")
    return raw
