"""Why a machine has ended, from what QEMU and its kernel have said (pure)."""

from __future__ import annotations

_CAUSES = ("Kernel panic - not syncing: ", "Out of memory: Killed process")
_ORDERLY = ("reboot: Power down", "reboot: Restarting system", "reboot: System halted", "sysrq: Resetting")
_MOST = 300
GREETING = "lamina: the kernel runs"
"""What init.sh says first: KVM has run something."""
_FAILED = "lamina: "
"""How init.sh begins what it says before it switches the machine off."""
_CHATTER = ("virtio_", "fv_")  # virtiofsd says this at each end of QEMU
OUT_OF_MEMORY = "Out of memory"
_DISK = "panic forced after error"  # ext4 with errors=panic (init.sh)
_DISK_FAILED = "its disk can't be written: is the file system of the store full?"


def reason_for(status: int, console: str, log: str) -> str:
    """ "" if it was switched off from inside. ``status``: of QEMU, negative for a signal. ``console``: the last of
    what the kernel has said. ``log``: what QEMU has said."""
    lines = [
        line.strip() for line in console.replace("\r", "\n").split("\n") if line.strip() and GREETING not in line
    ]
    if any(_DISK in line for line in lines):
        return _DISK_FAILED
    for line in reversed(lines):
        for cause in _CAUSES:
            if cause in line:
                said = line[line.index(cause) :][:_MOST].removesuffix(" ---")
                return said.partition(") ")[0] + ")" if cause.startswith(OUT_OF_MEMORY) else said
    if status < 0:
        return f"QEMU was killed by signal {-status}"
    words = [line.strip() for line in log.split("\n") if line.strip()]
    words = [line for line in words if not line.startswith(_CHATTER)] or words
    if status and words:
        return words[-1][:_MOST]
    if not status and any(sign in line for line in lines for sign in _ORDERLY):
        return next((line.partition(_FAILED)[2] for line in reversed(lines) if line.startswith(_FAILED)), "")[:_MOST]
    return (lines or words or ["it was reset"])[-1][:_MOST]
