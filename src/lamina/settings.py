"""Settings, from these sources (later ones win): defaults, /etc/lamina/config.toml, the file of the user, environment
variables, flags. Each value remembers its source; ``lamina info`` prints it."""

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
"""The default limit for the uncompressed size of a layer, in bytes."""
KEEPS = ("blob+tar", "blob", "tar")
"""What the store may keep of a layer: the blob and the tar; only the blob, read through checkpoints; only the tar, if
a registry is known to have the blob."""
KEEP = KEEPS[0]
VIEWS = ("erofs", "erofs-merged", "overlay", "fuse")
"""Ways to mount a union, best first: an EROFS image of the metadata of each layer over its tar; one such image for
all layers; unpacked trees; a FUSE process that reads the tars (read-only, without root rights)."""
LOG_DRIVERS = ("local", "json-file", "k8s-file", "journald", "none")
"""How the output of containers may be kept by default (``run.logs``); the first one is the default."""
_SIZE = pattern(r"(?i)(\d+)\s*([kmgt]?)(i?)b?")
_COMPRESSIONS = ("gzip", "zstd", "none")


class Setting(Value):
    """A value and its origin: "default", the path of a file, the name of a variable, or "flag"."""

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
    "log_driver": ("LAMINA_LOG_DRIVER",),
    "publish_address": ("LAMINA_PUBLISH_ADDRESS",),
}
_TRUTH = {"true": True, "t": True, "1": True, "yes": True, "false": False, "f": False, "0": False, "no": False}
_MEANING = {
    "root": "directory of the store",
    "platform": "platform of images to use; empty: that of this host",
    "max_layer": "maximum uncompressed size of a layer, in bytes",
    "compression": "compression of new layers: gzip, zstd or none",
    "tls_verify": "false: do not check certificates, allow plain http; empty: plain http only for loopback",
    "authfile": "file with credentials; empty: the files of podman and docker",
    "cert_dir": "directory with CAs (*.crt) and client certificates (*.cert, *.key); empty: docker's certs.d",
    "keep": "what the store keeps of new layers: blob+tar, blob or tar",
    "compression_level": "compression level of new layers; empty: the default of the library",
    "view": "how images are mounted: erofs, erofs-merged, overlay or fuse; empty: the first that works here",
    "runtime": "program that runs containers: crun, runc, bwrap, or a path; empty: the first installed",
    "log_driver": "how to keep the output of containers: local, json-file, k8s-file, journald or none",
    "login_hosts": "REGISTRY=HOST, ...: other hosts that may get the login of a registry",
    "publish_address": "address of this host for published ports that name none; empty: all addresses",
    "upper_dir": "directory for writable layers of containers; empty: in the store, else in memory",
}


class Settings(Value):
    """The values of all settings. ``values``: each ``Setting`` by name. Sizes are in bytes."""

    values: Mapping[str, Setting]

    @property
    def root(self) -> str:
        return str(self.values["root"].value)

    @property
    def platform(self) -> str:
        return str(self.values["platform"].value)

    def asked_platform(self) -> Platform | None:
        """Return the platform that is set, or None."""
        from lamina.spec.platform import Platform

        return Platform.parse(self.platform) if self.platform else None

    def wanted_platform(self) -> Platform:
        """Return the platform that is set, else that of this host."""
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
    def log_driver(self) -> str:
        return str(self.values["log_driver"].value)

    @property
    def publish_address(self) -> str:
        return str(self.values["publish_address"].value)

    @property
    def upper_dir(self) -> str | None:
        return self.values["upper_dir"].value or None

    @property
    def login_hosts(self) -> frozenset[tuple[str, str]]:
        """Pairs of (registry, host)."""
        return frozenset(_pairs(str(self.values["login_hosts"].value)))

    @classmethod
    def load(
        cls,
        *,
        flags: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        system_file: str = SYSTEM_FILE,
    ) -> Settings:
        """Read the settings. Raises UsageError, which names the file or variable and the key; SystemFailure if a file
        can't be read."""
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
    """Return the path of the user's file."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(_home(environ), ".config")
    return os.path.join(base, "lamina", "config.toml")


def settings() -> Mapping[str, tuple[str, ...]]:
    """Return each setting with its environment variables."""
    return _VARIABLES


def meaning(name: str) -> str:
    """Describe a setting in a few words."""
    return _MEANING[name]


def parse_size(text: str) -> int:
    """Parse a size like ``512``, ``64GiB`` or ``10MB`` (without the i: powers of ten) into bytes. Raises
    UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"not a size: {text!r:.60}", hint="write it like 64GiB or 500MB")
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
        "log_driver": LOG_DRIVERS[0],
        "publish_address": "",
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
        if not os.path.lexists(path):  # the home of another user (su, cron): treat it as not there
            return {}
        raise SystemFailure(
            f"can't read the settings in {path}: {error.strerror}", hint="check the permissions of the file"
        ) from None
    import tomllib

    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not valid TOML: {error}", hint="correct the file; see docs/settings.md"
        ) from None
    for name in values:
        if name not in _VARIABLES:
            raise UsageError(f"{path}: unknown setting {name!r:.100}", hint="use " + ", ".join(_VARIABLES))
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
            raise UsageError(f"{size} is not a valid limit", hint="write it like 64GiB")
        return size
    if name == "compression_level":
        text = str(raw) if type(raw) is int else _text(raw)
        if not text.lstrip("-").isdigit():
            raise UsageError(f"not a number: {text!r:.60}", hint="give a whole number")
        return int(text)
    if name == "tls_verify":
        truth = raw if isinstance(raw, bool) else _TRUTH.get(_text(raw).lower())
        if truth is None:
            raise UsageError(f"{raw!r:.60} is neither true nor false", hint="use true or false")
        return truth
    text = _text(raw)
    if name == "compression" and text not in _COMPRESSIONS:
        raise UsageError(f"unknown value {text!r:.60}", hint="use " + ", ".join(_COMPRESSIONS))
    if name == "login_hosts":
        _pairs(text)
    if name == "publish_address" and text:
        import ipaddress

        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            raise UsageError(f"{text!r:.60} is not an address", hint="write it like 127.0.0.1") from None
    if name == "keep" and text not in KEEPS:
        raise UsageError(f"unknown value {text!r:.60}", hint="use " + ", ".join(KEEPS))
    if name == "log_driver" and text not in LOG_DRIVERS:
        raise UsageError(f"unknown value {text!r:.60}", hint="use " + ", ".join(LOG_DRIVERS))
    if name == "view" and text not in ("", *VIEWS):
        raise UsageError(f"unknown value {text!r:.60}", hint="use " + ", ".join(VIEWS))
    if name == "platform" and text:
        from lamina.spec.platform import Platform

        Platform.parse(text)
    if name in ("root", "authfile", "cert_dir", "upper_dir"):
        if not text or "\0" in text:
            raise UsageError("the path is empty or has a NUL character", hint="give a path, or leave the setting out")
        return os.path.abspath(os.path.expanduser(text))
    return text


def _pairs(text: str) -> list[tuple[str, str]]:
    found = []
    for word in filter(None, text.replace(",", " ").split()):
        registry, _, host = word.partition("=")
        if not registry or not host or "/" in word or "=" in host:
            raise UsageError(
                f"{word!r:.100} is not REGISTRY=HOST", hint="write it like registry.example.com=auth.example.org"
            )
        found.append((registry.lower(), host.lower()))
    return found


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise UsageError(f"{raw!r:.60} is not a string", hint="put the value in quotes")
    return raw
