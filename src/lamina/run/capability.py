"""The capabilities of a container: docker's default set, with additions and removals (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from lamina.errors import UsageError

DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
    "CAP_AUDIT_WRITE",
)
ALL = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
"""In the order of their numbers (linux/capability.h)."""
EVERY = (1 << len(ALL)) - 1


def capabilities(add: Iterable[str] = (), drop: Iterable[str] = (), here: int = EVERY) -> tuple[str, ...]:
    """The set, sorted. Names with or without ``CAP_``, in any case; ``ALL`` means all. ``here``: the bits of the
    capabilities that this process can give away; others are left out unless they are named. Raises UsageError."""
    added, dropped = [_full(name) for name in add], [_full(name) for name in drop]
    held = set(ALL if "ALL" in added else DEFAULT)
    if "ALL" in dropped:
        held = set(ALL if "ALL" in added else ())
    held = {name for number, name in enumerate(ALL) if here >> number & 1 and name in held}
    held |= {name for name in added if name != "ALL"}
    return tuple(sorted(held - set(dropped)))


def _full(name: str) -> str:
    upper = name.upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in ALL:
        raise UsageError(
            f"unknown capability {name!r:.60}", hint="write it like NET_ADMIN, or ALL; see capabilities(7)"
        )
    return full
