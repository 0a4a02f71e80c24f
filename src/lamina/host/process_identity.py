"""What tells processes apart for good: the boot of the host, and when a process started. A pid is used again."""

from __future__ import annotations

import os


def boot_id() -> str:
    """An identifier of this boot of the host; "" if the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def start_time(pid: int) -> str | None:
    """When a process started, as a text that can only be compared; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]  # it has ended; its parent has not waited for it
    except (OSError, IndexError):
        pass
    if os.path.exists("/proc/self/stat") or os.name == "nt":
        return "unknown" if os.name == "nt" else None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"
