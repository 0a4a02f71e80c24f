"""The options of a container (pure): docker's syntax, parsed and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lamina.errors import NotFound, Unsupported, UsageError
from lamina.light import Value, field, pattern
from lamina.run.user import parse_id

_SIZE = pattern(r"(?i)([0-9]+(?:\.[0-9]+)?)([bkmgt]?)b?")
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_NAME = pattern(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_HOSTNAME = pattern(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9])?")
_MIN_CPUS, _MAX_CPUS = 0.01, 1e6
_MIN_MEMORY = 6 << 20  # bytes, as docker: with less the runtimes themselves are killed
_MAX_BYTES = 1 << 63  # the runtimes count in signed numbers of 64 bits
NETWORKS = ("pasta", "none", "host")
OWN_NETWORK = ("", "default", "bridge", "private", "podman")
"""Names of the default network: docker calls it bridge, podman private or podman."""


PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_BY_DEFAULT = (
    *("rw", "z", "Z", "cached", "delegated", "consistent", "copy", "rbind"),
    *("exec", "suid", "dev"),
)
"""Options of a volume that ask for the default, or have no meaning on this host."""
_OF_VOLUMES = ("ro", "nocopy", "U", "noexec", "nosuid", "nodev", "bind")
_EXCLUSIVE = (("ro", "rw"), ("copy", "nocopy"), ("exec", "noexec"), ("suid", "nosuid"), ("dev", "nodev"), ("z", "Z"))
_TMPFS_VALUES = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge")
_TMPFS_FLAGS = (
    *("ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "dirsync", "remount"),
    *("mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime"),
    *("nostrictatime", "defaults", "tmpcopyup", "notmpcopyup", *PROPAGATIONS),
)
NO_OVERLAY = "a volume with a temporary writable layer (O) is not supported"
NO_ID_MAP = "mapping the owners of a volume (idmap) is not supported"


class Mount(Value):
    """``kind``: bind, volume, tmpfs or image. ``source``: a path of this host, the name of a volume or an image, or
    "" for an anonymous volume. ``options``: of a tmpfs its mount options; else of "ro", "nocopy" (a new volume starts
    empty), "bind" (without the mounts below the source), "U" (the container's user gets all files), "create" (make a
    missing source), "noexec", "nosuid", "nodev" and PROPAGATIONS. ``subpath``: a path in the volume or
    image. ``labels``, ``driver_options``: of a new volume. ``mode``: the options as ``--volume`` or ``--tmpfs`` named
    them; None: it was asked for in another way. Of a container that exists (``run.volumes.points``), the source is
    absolute, each volume has a name, ``mode`` is docker's, ``anonymous`` says whether the name was made up, and
    ``image`` is the descriptor of the manifest (media type, digest, size)."""

    kind: str
    source: str
    target: str
    options: tuple[str, ...] = ()
    subpath: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    driver_options: tuple[tuple[str, str], ...] = ()
    mode: str | None = field(default_factory=lambda: None, compare=False)
    anonymous: bool = False
    image: tuple[str, str, int] | None = None

    @property
    def read_only(self) -> bool:
        return "ro" in self.options

    @property
    def makes_source(self) -> bool:
        """Whether a missing source of a bind is made: by docker's rule, if ``--volume`` asks for it."""
        return self.mode is not None or "create" in self.options

    @property
    def propagation(self) -> str:
        return next((option for option in self.options if option in PROPAGATIONS), "rprivate")


class Userns(Value):
    """``kind``: "" (no user namespace of its own), "auto" or "keep-id". ``uid``, ``gid``: the caller's ids inside, if
    keep-id maps them to other ids than outside."""

    kind: str = ""
    uid: int | None = None
    gid: int | None = None


class Ulimit(Value):
    """A resource limit (setrlimit(2)). ``name``: like nofile. UNLIMITED is no limit."""

    name: str
    soft: int
    hard: int


class Device(Value):
    """``source``: a device of this host, or a directory of devices. ``access``: of r, w and m (mknod)."""

    source: str
    target: str
    access: str = "rwm"


class Hook(Value):
    """A program that the runtime calls. ``name``: the runtime spec's name of the hook. ``timeout`` in seconds."""

    name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Node(Value):
    """A device as the container gets it. ``path``: in the container; ``source``: on this host. ``kind``: c, b or p
    (mknod(2)). ``mode``: the permission bits. ``mode``, ``uid``, ``gid``: None if they were not given."""

    path: str
    source: str
    kind: str
    major: int
    minor: int
    access: str = "rwm"
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class Edits(Value):
    """What a CDI device adds to a container (CDI SPEC.md, "containerEdits")."""

    env: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    groups: tuple[int, ...] = ()


class Port(Value):
    """A port of the container that is published on this host. ``address``: of this host, "" for all. ``host_port``: 0
    for any free one. ``protocol``: tcp, udp or sctp. ``host_last``: the first free port from ``host_port`` to this
    one is taken; 0: only ``host_port``."""

    port: int
    host_port: int = 0
    address: str = ""
    protocol: str = "tcp"
    host_last: int = 0


class NetworkEndpoint(Value):
    """A network that the container is connected to. ``name``: of the network. ``aliases``: further names of the
    container there. ``ip``, ``ip6``, ``mac``: "" for any."""

    name: str
    aliases: tuple[str, ...] = ()
    ip: str = ""
    ip6: str = ""
    mac: str = ""


class RestartPolicy(Value):
    """``name``: no, on-failure, always or unless-stopped. ``retries``: how often at most; 0: no limit."""

    name: str = "no"
    retries: int = 0


class HealthCheck(Value):
    """A health check (docker's HEALTHCHECK). ``test``: ("NONE",), ("CMD", word...) or ("CMD-SHELL", text); empty: the
    image's. Times in seconds; None: the image's, or docker's default. ``on_failure``: none, kill, restart or stop (""
    is none): what happens to an unhealthy container."""

    test: tuple[str, ...] = ()
    interval: float | None = None
    timeout: float | None = None
    start_period: float | None = None
    start_interval: float | None = None
    retries: int | None = None
    on_failure: str = ""


class ContainerOptions(Value):
    """All options of one container. None and empty mean: as the image says, or docker's default. ``memory``,
    ``memory_swap`` (memory and swap together, -1: no limit), ``memory_reservation`` and ``shm_size`` in bytes,
    ``cpus`` in processors, ``cpu_period`` and ``cpu_quota`` in microseconds, ``stop_timeout`` in seconds. ``ipc``,
    ``pid``, ``uts``, ``cgroupns``: "" for a namespace of its own, "host", or but for cgroupns container:ID or
    ns:PATH; with ``ipc`` "none" there is no /dev/shm, with "shareable" others may share it. ``edits``: from CDI
    devices. ``dns_search`` ".": no search domain. ``network``: a kind (NETWORKS, "" for the default), container:ID or
    ns:PATH; ``networks``: the networks with names, if any. ``publish_address``: the address of this host for ports
    without one, "" for all. ``log_driver`` "": the default. ``pod``: its pod, ``requires``: the containers that are
    started before it; a record holds their IDs. ``no_hosts``: without an /etc/hosts of its own. ``attach``: the
    streams that `start --attach` connects; empty: stdout and stderr. ``create_command``: the words that made it, if
    the command line did. ``detached``: made by a `run` in the background. ``cidfile``: the file that got its ID.
    ``kernel`` (a path, or an image), ``append`` (to the kernel's command line), ``machine`` (a kind of QEMU's): of a
    virtual machine. A new field needs a default: the records of containers hold these (``run.container.record``)."""

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
    groups: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    edits: Edits = Edits()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    sysctls: tuple[tuple[str, str], ...] = ()
    ipc: str = ""
    pid: str = ""
    uts: str = ""
    cgroupns: str = ""
    privileged: bool = False
    apparmor: str = ""
    masked: tuple[str, ...] = ()
    unmasked: tuple[str, ...] = ()
    oom_score: int | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_swap: int | None = None
    memory_reservation: int | None = None
    domainname: str = ""
    restart: RestartPolicy = RestartPolicy()
    health: HealthCheck = HealthCheck()
    log_driver: str = ""
    log_options: tuple[tuple[str, str], ...] = ()
    ports: tuple[Port, ...] = ()
    publish_all: bool = False
    publish_address: str = ""
    expose: tuple[str, ...] = ()
    networks: tuple[NetworkEndpoint, ...] = ()
    volumes_from: tuple[str, ...] = ()
    pidfile: str = ""
    detach_keys: str = ""
    attach: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    pod: str = ""
    annotations: tuple[tuple[str, str], ...] = ()
    create_command: tuple[str, ...] = ()
    no_hosts: bool = False
    detached: bool = False
    cidfile: str = ""
    kernel: str = ""
    append: str = ""
    machine: str = ""

    @property
    def limited(self) -> bool:
        """Whether these limits need a cgroup."""
        numbers = (self.memory, self.cpus, self.pids, self.cpu_shares, self.memory_swap, self.memory_reservation)
        times = (self.cpu_period, self.cpu_quota)
        return any(one is not None for one in (*numbers, *times)) or bool(self.cpuset_cpus or self.cpuset_mems)


def parse_env(words: Iterable[str], host: Mapping[str, str]) -> list[tuple[str, str]]:
    """``KEY=VALUE``, or ``KEY`` for the value in ``host`` (left out if there is none). Raises UsageError."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if not key or "\0" in word or any(character.isspace() for character in key):
            raise UsageError(f"{word!r:.80} is not a variable", hint="write KEY=VALUE, or KEY for this shell's value")
        if equals:
            found.append((key, value))
        elif key in host:
            found.append((key, host[key]))
    return found


def parse_env_file(text: str, host: Mapping[str, str]) -> list[tuple[str, str]]:
    """One variable a line; ``#`` begins a comment line; a byte order mark is skipped. Raises UsageError."""
    text = text.removeprefix("\ufeff")
    lines = (line.removesuffix("\r").lstrip() for line in text.split("\n"))
    return parse_env((line for line in lines if line and not line.startswith("#")), host)


def parse_volume(word: str) -> Mount:
    """``[SOURCE:]TARGET[:OPTIONS]``, with podman's options: ro, nocopy, U, noexec, nosuid, nodev, a propagation, and
    those without a meaning here. Raises UsageError, Unsupported."""
    parts = word.split(":")
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"{word!r:.200} is not a volume", hint="write SOURCE:TARGET[:ro], or TARGET for a new one")
    mode = parts.pop() if len(parts) == 3 else ""
    options = parse_volume_options(mode, word)
    source, target = parts if len(parts) == 2 else ("", parts[0])
    check_target(target)
    if source and not source.startswith(("/", ".")):
        return Mount("volume", parse_volume_name(source), target, options, mode=mode)
    if source:
        return Mount("bind", source, target, options, mode=mode)
    return Mount("volume", "", target, options, mode=mode)


def parse_volume_options(text: str, word: str) -> tuple[str, ...]:
    """The options of ``--volume``, separated by commas; ``word``: the whole value, for errors. Raises UsageError,
    Unsupported."""
    given = text.split(",") if text else []
    for option in given:
        name = option.partition("=")[0]
        if name in ("O", "idmap", "upperdir", "workdir"):
            raise Unsupported(f"{word!r:.200}: {NO_ID_MAP if name == 'idmap' else NO_OVERLAY}", hint="leave it out")
    unknown = set(given) - {*_OF_VOLUMES, *PROPAGATIONS, *_BY_DEFAULT}
    if unknown:
        raise UsageError(
            f"unknown volume option {min(unknown)!r:.60}", hint="use ro, rw, nocopy, U, noexec or a propagation"
        )
    for pair in _EXCLUSIVE:
        if set(pair) <= set(given):
            raise UsageError(f"{word!r:.200} has both {pair[0]} and {pair[1]}", hint="choose one of them")
    if len(set(given) & set(PROPAGATIONS)) > 1:
        raise UsageError(f"{word!r:.200} has several propagations", hint="choose one of them")
    return tuple(dict.fromkeys(one for one in given if one not in _BY_DEFAULT))


def parse_volume_name(word: str) -> str:
    """Raises UsageError."""
    if not _NAME.fullmatch(word):
        raise UsageError(f"{word!r:.100} is not a volume name", hint="begin a path with / or .")
    return word


def parse_tmpfs(word: str) -> Mount:
    """``TARGET[:OPTIONS]``. Raises UsageError."""
    target, _, options = word.partition(":")
    check_target(target)
    given = tuple(filter(None, options.split(",")))
    for option in given:
        name, equals, value = option.partition("=")
        if (name in _TMPFS_VALUES) != bool(equals) or not (name in _TMPFS_VALUES or name in _TMPFS_FLAGS):
            raise UsageError(
                f"--tmpfs {word!r:.100}: unknown option {option!r:.60}",
                hint="use mount options such as rw, exec, size=64m, mode=1777",
            )
        if name == "size" and not value.endswith("%"):
            parse_size(value)
    return Mount("tmpfs", "", target, tuple(one for one in given if one != "notmpcopyup"), mode=options)


def parse_size(word: str) -> int:
    """Bytes: ``512m``, ``1.5g``. Raises UsageError."""
    match = _SIZE.fullmatch(word)
    if not match:
        raise UsageError(f"{word!r:.60} is not a size", hint="write it like 512m or 2g")
    size = float(match[1]) * _UNITS[match[2].lower()]
    if size >= _MAX_BYTES:
        raise UsageError(f"{word!r:.60} is too large a size", hint="write it like 512m or 2g")
    return int(size)


def parse_memory(word: str) -> int | None:
    """A limit in bytes; 0 is no limit, as with docker. Raises UsageError."""
    size = parse_size(word)
    if 0 < size < _MIN_MEMORY:
        raise UsageError(
            f"{word!r:.60} is too little memory for any program", hint="give at least 6m, or 0 for no limit"
        )
    return size or None


def parse_name(word: str) -> str:
    word = word.removeprefix("/")  # as docker's inspect shows names
    if not _NAME.fullmatch(word) or len(word) > 200:
        raise UsageError(f"{word!r:.100} is not a container name", hint="use letters, digits, _ . and -")
    return word


def parse_host(word: str, network: str = "") -> tuple[str, str]:
    """``NAME:ADDRESS`` or ``NAME=ADDRESS``. The address HOST_GATEWAY means this host; which one that is depends on
    the network, when the container starts. Raises UsageError."""
    import ipaddress

    name, sign, address = word.partition("=")
    if not sign:
        name, _, address = word.partition(":")
    is_name = bool(name) and name.isprintable() and not set(name) & set(" #")
    if address == HOST_GATEWAY and is_name:
        if network == "none":
            raise UsageError(
                f"--add-host {word!r:.100}: a container without a network can't reach this host",
                hint="leave --network none out",
            )
        return name, "127.0.0.1" if network == "host" else HOST_GATEWAY
    try:
        if is_name and "%" not in address:  # behind it ipaddress takes everything, also lines
            return name, str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        pass
    raise UsageError(f"{word!r:.100} is not NAME:ADDRESS", hint="write it like db:10.0.0.5") from None


def parse_port(word: str) -> str:
    """``PORT[-PORT][/PROTOCOL]``. Raises UsageError."""
    numbers, _, protocol = word.partition("/")
    first, dash, last = numbers.partition("-")
    ends = [first, last] if dash else [first]
    fine = all(end.isascii() and end.isdigit() and len(end) < 6 and 0 < int(end) < 1 << 16 for end in ends)
    if not fine or protocol not in ("", "tcp", "udp", "sctp") or int(ends[0]) > int(ends[-1]):
        raise UsageError(f"{word!r:.60} is not a port", hint="write it like 80, 53/udp or 8000-8010/tcp")
    return word


def parse_labels(words: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` with the value "". Raises UsageError."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name or "\0" in word:
            raise UsageError(f"{word!r:.80} is not a label", hint="write NAME=VALUE")
        found[name] = value
    return found


def parse_label_file(text: str) -> dict[str, str]:
    """A label a line; ``#`` begins a comment line. Raises UsageError."""
    lines = (line.removesuffix("\r").lstrip() for line in text.removeprefix("\ufeff").split("\n"))
    return parse_labels(line for line in lines if line and not line.startswith("#"))


_NAMESPACES = {
    "pid": ("", "host"),
    "ipc": ("", "host", "none", "shareable"),
    "uts": ("", "host"),
    "cgroupns": ("", "host"),
}
HOST_GATEWAY = "host-gateway"
"""docker's word for the address by which a container reaches this host."""
CONTAINER, FILE = "container:", "ns:"
"""How the options of SHARED_KINDS name another container, or the file of a namespace."""
SHARED_KINDS = ("network", "pid", "ipc", "uts")


def parse_namespace(word: str, kind: str) -> str:
    """``kind``: pid, ipc, uts or cgroupns. Returns "" for a namespace of the container's own. Raises UsageError."""
    found = "" if word == "private" else word
    if kind in SHARED_KINDS and any(word.startswith(prefix) and word != prefix for prefix in (CONTAINER, FILE)):
        return word
    if found not in _NAMESPACES[kind]:
        raise UsageError(f"unknown value for --{kind}: {word!r:.60}", hint="choose private or host")
    return found


def memory_and_swap(wanted: ContainerOptions) -> int | None:
    """The limit of memory and swap together, in bytes; -1: none. If it was not given, it is twice the memory, as with
    docker and podman."""
    if wanted.memory_swap is None and wanted.memory and 2 * wanted.memory < _MAX_BYTES:
        return 2 * wanted.memory
    return wanted.memory_swap


def publishes(wanted: ContainerOptions) -> bool:
    """Whether ports are to be published."""
    return bool(wanted.ports) or wanted.publish_all


def other_container(wanted: ContainerOptions, kind: str) -> str:
    """The container whose namespace this one shares; "" for none. ``kind``: of SHARED_KINDS."""
    word: str = getattr(wanted, kind)
    return word.removeprefix(CONTAINER) if word.startswith(CONTAINER) else ""


def parse_workdir(word: str) -> str:
    """An absolute path, or "" for the image's. Raises UsageError."""
    if word and not word.startswith("/"):
        raise UsageError(f"{word!r:.200} is not a working directory", hint="give an absolute path")
    return word


def parse_hostname(word: str) -> str:
    """Raises UsageError."""
    if word and not _HOSTNAME.fullmatch(word):
        raise UsageError(
            f"{word!r:.100} is not a host name", hint="use letters, digits, - and ., at most 64 characters"
        )
    return word


def parse_cpus(number: float | None) -> float | None:
    """A number of processors; 0 is no limit, as with docker. Raises UsageError."""
    if number is not None and number != 0 and not _MIN_CPUS <= number <= _MAX_CPUS:
        raise UsageError(
            f"{number} is not a possible number of processors", hint=f"give at least {_MIN_CPUS}, or 0 for no limit"
        )
    return number or None


def parse_pids(number: int | None) -> int | None:
    """A number of processes; 0 and -1 are no limit, as with docker. Raises UsageError."""
    if number is not None and not -1 <= number < 1 << 31:
        raise UsageError(
            f"{number} is not a possible number of processes", hint="give at least 1, or -1 for no limit"
        )
    return None if number in (0, -1) else number


def parse_userns(word: str) -> Userns:
    """ "host" (no further user namespace; also for ""), "auto" (one with ids of its own), or "keep-id[:uid=N,gid=N]"
    (the caller has the same ids inside, or the given ones). Raises UsageError."""
    kind, colon, rest = word.partition(":")
    if kind not in ("", "host", "auto", "keep-id") or (colon and kind != "keep-id"):
        raise UsageError(
            f"unknown value for --userns: {word!r:.60}", hint="choose host (the default), auto or keep-id"
        )
    ids: dict[str, int] = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        number = parse_id(value, key) if key in ("uid", "gid") else None
        if number is None:
            raise UsageError(
                f"unknown option of keep-id: {item!r:.60}", hint="write it like keep-id:uid=1000,gid=1000"
            )
        ids[key] = number
    return Userns("" if kind == "host" else kind, **ids)


def argv(wanted: ContainerOptions, entrypoint: Iterable[str], command: Iterable[str]) -> tuple[str, ...]:
    """The command line by docker's rule: an entrypoint that was given, even an empty one, drops the image's command.
    Raises NotFound."""
    entrypoint = tuple(entrypoint)
    if entrypoint == ("",):  # how a Dockerfile removes the entrypoint of its base image
        entrypoint = ()
    if wanted.entrypoint is not None:
        words = (*((wanted.entrypoint,) if wanted.entrypoint else ()), *wanted.command)
    else:
        words = (*entrypoint, *(wanted.command or command))
    if not words:
        raise NotFound("the image names no command", hint="give one: lamina run IMAGE COMMAND")
    return words


def check_target(target: str) -> None:
    """Raises UsageError if nothing can be mounted at this path of a container."""
    if not target.startswith("/") or "/.." in target or target.strip("/") == "":
        raise UsageError(
            f"{target!r:.200} is not a path in the container", hint="give an absolute path, not the root"
        )
