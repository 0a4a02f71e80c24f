"""Why a machine has ended, from what it has said."""

from __future__ import annotations

import pytest

from lamina.run.machine.ends import reason_for

SWITCHED_OFF = "[    2.1] reboot: Power down\n"
FULL = "Kernel panic - not syncing: EXT4-fs (device vdc): panic forced after error"
PANIC = "[    1.5] Kernel panic - not syncing: VFS: no root ---[ end Kernel panic ]---\n"


@pytest.mark.parametrize(
    ("status", "console", "log", "reason"),
    [
        (0, SWITCHED_OFF, "", ""),
        (0, f"lamina: the kernel runs\r\n{SWITCHED_OFF}", "", ""),
        (0, f"lamina: the kernel runs\r\nlamina: the disk /dev/vda is not there\r\n{SWITCHED_OFF}", "",
         "the disk /dev/vda is not there"),
        (0, PANIC, "", "Kernel panic - not syncing: VFS: no root"),
        (0, f"[ 8.8] {FULL}\r\n[ 8.9] Call Trace:\r\n{PANIC}", "", "its disk can't be written: is the file system"),
        (1, "", "qemu: no memory\n", "qemu: no memory"),
        (1, "", "virtio_session_mount: Waiting\nqemu: no memory\nfv_queue_thread: quit\nvirtio_loop: Exit\n",
         "qemu: no memory"),
        (1, "", "virtio_loop: Exit\n", "virtio_loop: Exit"),
        (-9, SWITCHED_OFF, "", "QEMU was killed by signal 9"),
        (0, "", "", "it was reset"),
    ],
)  # fmt: skip
def test_the_reason(status: int, console: str, log: str, reason: str) -> None:
    assert reason_for(status, console, log).startswith(reason)
    assert bool(reason_for(status, console, log)) is bool(reason)
