"""What a caller may ask of a container (pure): docker's words, parsed and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lamina.errors import NotFound, UsageError
from lamina.light import Value, field, pattern
from lamina.run.user import parse_id

_SIZE = pattern(r"(?i)([0-9]+(?:\.[0-9]+)?)([bkmgt]?)b?")
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_NAME = pattern(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_HOSTNAME = pattern(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9])?")
_FEWEST, _MOST = 0.01, 1e6
NETWORKS = ("pasta", "none", "host")


class Mount(Value):
    """``source`` is a path of this machine, a volume's name, or "" for an anonymous volume. ``kind``: bind, volume
    or tmpfs. ``options``: the mount's own."""

    kind: str
    source: str
    target: str
    options: tuple[str, ...] = ()

    @property
    def read_only(self) -> bool:
        return "ro" in self.options


class Userns(Value):
    """``kind``: "" (no user namespace of its own), "auto" or "keep-id". ``uid``, ``gid``: who the caller is inside,
    where keep-id is to be another id than outside."""

    kind: str = ""
    uid: int | None = None
    gid: int | None = None


class Wanted(Value):
    """All that was asked of one container. None and empty mean: as the image says, or docker's default. ``memory`` in
    bytes, ``cpus`` in processors."""

    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    workdir: str = ""
    user: str = ""
    read_only: bool = False
    network: str = ""
    hostname: str = ""
    name: str = ""
    interactive: bool = False
    tty: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp: str = ""
    unmask: bool = False
    init: bool = False
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    remove: bool = False
    view: str = ""
    add_hosts: tuple[tuple[str, str], ...] = ()
    userns: Userns = Userns()
    labels: Mapping[str, str] = field(default_factory=dict)


def parse_env(words: Iterable[str], host: Mapping[str, str]) -> list[tuple[str, str]]:
    """``KEY=VALUE``, or ``KEY`` for this process's own value (left out where it has none). Raises UsageError."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if not key or "\0" in word or any(character.isspace() for character in key):
            raise UsageError(f"{word!r:.80} is no variable", hint="KEY=VALUE, or KEY for this shell's value")
        if equals:
            found.append((key, value))
        elif key in host:
            found.append((key, host[key]))
    return found


def parse_env_file(text: str, host: Mapping[str, str]) -> list[tuple[str, str]]:
    """A line each, ``#`` begins a comment line. Raises UsageError."""
    lines = (line.removesuffix("\r").lstrip() for line in text.split("\n"))
    return parse_env((line for line in lines if line and not line.startswith("#")), host)


def parse_volume(word: str) -> Mount:
    """``[SOURCE:]TARGET[:OPTIONS]``, options of ro, rw, z, Z (the latter mean nothing here). Raises UsageError."""
    parts = word.split(":")
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"{word!r:.200} is no volume", hint="SOURCE:TARGET[:ro], or TARGET for a new one")
    options: tuple[str, ...] = ()
    if len(parts) == 3:
        given = parts.pop().split(",")
        unknown = set(given) - {"ro", "rw", "z", "Z"}
        if unknown:
            raise UsageError(f"no volume option {min(unknown)!r:.60}", hint="ro or rw")
        options = ("ro",) if "ro" in given else ()
    source, target = parts if len(parts) == 2 else ("", parts[0])
    _absolute(target)
    if source and not source.startswith(("/", ".")):
        if not _NAME.fullmatch(source):
            raise UsageError(f"{source!r:.100} is no name of a volume", hint="a path has a / or . at its start")
        return Mount("volume", source, target, options)
    return Mount("bind" if source else "volume", source, target, options)


def parse_tmpfs(word: str) -> Mount:
    """``TARGET[:OPTIONS]``. Raises UsageError."""
    target, _, options = word.partition(":")
    _absolute(target)
    return Mount("tmpfs", "", target, tuple(filter(None, options.split(","))))


def parse_size(word: str) -> int:
    """Bytes: ``512m``, ``1.5g``. Raises UsageError."""
    match = _SIZE.fullmatch(word)
    if not match:
        raise UsageError(f"{word!r:.60} is no size", hint="like 512m or 2g")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def parse_name(word: str) -> str:
    if not _NAME.fullmatch(word) or len(word) > 200:
        raise UsageError(f"{word!r:.100} is no name of a container", hint="letters, digits, _ . and -")
    return word


def parse_host(word: str) -> tuple[str, str]:
    """``NAME:ADDRESS``. Raises UsageError."""
    import ipaddress

    name, _, address = word.partition(":")
    try:
        return name, str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        raise UsageError(f"{word!r:.100} is no NAME:ADDRESS", hint="like db:10.0.0.5") from None


def parse_workdir(word: str) -> str:
    """An absolute path, or "" for the image's. Raises UsageError."""
    if word and not word.startswith("/"):
        raise UsageError(f"{word!r:.200} is no directory to work in", hint="an absolute path")
    return word


def parse_hostname(word: str) -> str:
    """Raises UsageError."""
    if word and not _HOSTNAME.fullmatch(word):
        raise UsageError(f"{word!r:.100} is no host name", hint="letters, digits, - and ., at most 64 of them")
    return word


def parse_cpus(number: float | None) -> float | None:
    """A number of processors; 0 is no limit, as with docker. Raises UsageError."""
    if number is not None and number != 0 and not _FEWEST <= number <= _MOST:
        raise UsageError(f"{number} is no number of processors", hint=f"at least {_FEWEST}, or 0 for no limit")
    return number or None


def parse_pids(number: int | None) -> int | None:
    """A number of processes; 0 and -1 are no limit, as with docker. Raises UsageError."""
    if number is not None and not -1 <= number < 1 << 31:
        raise UsageError(f"{number} is no number of processes", hint="at least 1, or -1 for no limit")
    return None if number in (0, -1) else number


def parse_userns(word: str) -> Userns:
    """ "host" (no further user namespace; also for ""), "auto" (one with ids of its own), or
    "keep-id[:uid=N,gid=N]" (the caller has the same id inside, or these). Raises UsageError."""
    kind, colon, rest = word.partition(":")
    if kind not in ("", "host", "auto", "keep-id") or (colon and kind != "keep-id"):
        raise UsageError(f"no user namespace {word!r:.60}", hint="host (the default), auto or keep-id")
    ids: dict[str, int] = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        number = parse_id(value, key) if key in ("uid", "gid") else None
        if number is None:
            raise UsageError(f"keep-id has no option {item!r:.60}", hint="like keep-id:uid=1000,gid=1000")
        ids[key] = number
    return Userns("" if kind == "host" else kind, **ids)


def argv(wanted: Wanted, entrypoint: Iterable[str], command: Iterable[str]) -> tuple[str, ...]:
    """What is run: docker's rule (an entrypoint that was given, even an empty one, drops the image's command). Raises
    NotFound."""
    if wanted.entrypoint is not None:
        words = (*((wanted.entrypoint,) if wanted.entrypoint else ()), *wanted.command)
    else:
        words = (*entrypoint, *(wanted.command or command))
    if not words:
        raise NotFound("the image names no command", hint="give one: lamina run IMAGE COMMAND")
    return words


def _absolute(target: str) -> None:
    if not target.startswith("/") or "/.." in target or target.strip("/") == "":
        raise UsageError(f"{target!r:.200} is no place in the container", hint="an absolute path, not the root")
