"""Resource limits and sysctls of a container, in docker's syntax (pure)."""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.light import pattern
from lamina.run.options import ContainerOptions, Ulimit, parse_size

UNLIMITED = (1 << 64) - 1
"""RLIM_INFINITY of setrlimit(2)."""
ULIMITS = (
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
)
_CPUS = pattern(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_SYSCTL = pattern(r"[a-z0-9_]+([./][A-Za-z0-9_-]+)+")
_IPC_SYSCTLS = ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem")
_MIN_SHARES, _MAX_SHARES = 2, 1 << 18  # cpu.shares of the kernel
_MAX_SECONDS = 1 << 31
_MIN_TURN = 1000  # microseconds, of the kernel


def parse_ulimit(word: str) -> Ulimit:
    """``NAME=SOFT[:HARD]``; -1 means unlimited. Raises UsageError."""
    name, _, rest = word.partition("=")
    name = name.lower().removeprefix("rlimit_")
    soft, colon, hard = rest.partition(":")
    if name not in ULIMITS:
        raise UsageError(f"unknown limit {name!r:.60}", hint=f"choose one of {', '.join(ULIMITS)}")
    low = _limit(soft, word)
    high = _limit(hard, word) if colon else low
    if low > high:
        raise UsageError(f"{word!r:.100}: the soft limit is above the hard one", hint="give SOFT:HARD")
    return Ulimit(name, low, high)


def _limit(text: str, word: str) -> int:
    if text in ("-1", "unlimited"):
        return UNLIMITED
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > UNLIMITED:
        raise UsageError(f"{word!r:.100} is not a limit", hint="write it like nofile=1024:2048; -1 means unlimited")
    return int(text)


def parse_memory_swap(word: str, memory: int | None) -> int | None:
    """Memory and swap together, in bytes; -1 means unlimited, 0 the kernel's default. Raises UsageError."""
    if word == "-1":
        return -1
    if parse_size(word) == 0:
        return None
    if memory is None:
        raise UsageError("--memory-swap needs --memory", hint="give both: it is memory and swap together")
    size = parse_size(word)
    if size < memory:
        raise UsageError(
            f"--memory-swap {word} is less than --memory",
            hint="give memory and swap together; the same number means no swap",
        )
    return size


def parse_whole(word: str, flag: str, least: int, most: int) -> int:
    """Raises UsageError."""
    digits = word.removeprefix("-")
    number = int(word) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    if number is None or not least <= number <= most:
        raise UsageError(f"{flag} {word!r:.60} is not a number from {least} to {most}", hint="give a whole number")
    return number


def parse_shares(word: str) -> int | None:
    """A relative weight; 0 is the kernel's default. Raises UsageError."""
    if word == "0":
        return None
    return parse_whole(word, "--cpu-shares", _MIN_SHARES, _MAX_SHARES)


def parse_period(word: str) -> int | None:
    """The length of a turn on the processors, in microseconds; 0 is the kernel's default. Raises UsageError."""
    if word == "0":
        return None
    return parse_whole(word, "--cpu-period", _MIN_TURN, 1_000_000)


def parse_quota(word: str) -> int | None:
    """The processor time in each turn, in microseconds; 0 and -1 are no limit. Raises UsageError."""
    if word in ("0", "-1"):
        return None
    return parse_whole(word, "--cpu-quota", _MIN_TURN, _MAX_SECONDS * 1_000_000)


def parse_oom_score(word: str) -> int:
    """Raises UsageError."""
    return parse_whole(word, "--oom-score-adj", -1000, 1000)


def parse_stop_timeout(word: str) -> int:
    """Seconds; -1 means forever. Raises UsageError."""
    return parse_whole(word, "--stop-timeout", -1, _MAX_SECONDS)


def parse_cpus_set(word: str, flag: str) -> str:
    """A list of processors or memory nodes: ``0-3,7``. Raises UsageError."""
    if word and not _CPUS.fullmatch(word):
        raise UsageError(f"{flag} {word!r:.60} is not a list of numbers", hint="write it like 0-3 or 0,2")
    return word


def parse_sysctl(word: str) -> tuple[str, str]:
    """``NAME=VALUE``, dots or slashes between the parts. Raises UsageError."""
    name, equals, value = word.partition("=")
    if not equals or not _SYSCTL.fullmatch(name) or ".." in name:
        raise UsageError(f"{word!r:.100} is not a kernel setting", hint="write it like net.core.somaxconn=1024")
    return name, value


def check_sysctls(wanted: ContainerOptions, network: str) -> None:
    """Refuse sysctls that no namespace of the container's own has: setting them would change the host. ``network`` as
    ``network.choose`` returns it. Raises UsageError."""
    for name, _ in wanted.sysctls:
        dotted = name.replace("/", ".")
        if dotted.startswith("net."):
            shared = _shared("network", network)
        elif dotted in _IPC_SYSCTLS or dotted.startswith(("kernel.shm", "fs.mqueue.")):
            shared = _shared("ipc", wanted.ipc)
        elif dotted in ("kernel.domainname", "kernel.hostname"):
            shared = _shared("uts", wanted.uts)
            if dotted == "kernel.hostname":
                raise UsageError("kernel.hostname is set by --hostname", hint="use --hostname")
        else:
            raise UsageError(
                f"{name} can't be set for one container: it belongs to the host",
                hint="choose one of net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*",
            )
        if shared:
            raise UsageError(
                f"{name} can't be set with {shared}: the namespace is not the container's own", hint="leave one out"
            )


def _shared(kind: str, word: str) -> str:
    """The flag by which the container shares a namespace; "" if it has its own."""
    return f"--{kind} {word:.40}" if word == "host" or word.startswith(("container:", "ns:")) else ""
