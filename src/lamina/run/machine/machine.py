"""A machine as values: what it is made of, as every virtual machine monitor needs it (pure)."""

from __future__ import annotations

from lamina.light import Value

STDIN, STDOUT, STDERR, CONTROL = "stdin", "stdout", "stderr", "control"
TERMINAL, CONSOLE = "terminal", "console"
"""The streams of a machine: names of its virtio-serial ports, with the prefix ``lamina.``; the terminal is a virtio
console. What the kernel says comes by a serial port."""
SHARED, SHARED_SOCKET = "shared", "virtiofsd"
"""The tag of the file system with this host's files, and the socket of its virtiofsd in the bundle."""
LACK = "oom"
"""A file in the bundle: the program was killed for want of memory."""
ORDERS = "qmp"
"""The socket in the bundle where QEMU takes orders."""
MIB = 1 << 20


class Disk(Value):
    """A virtio disk. ``path``: of a file of this host. ``format``: raw, or vmdk for a list of files. ``serial``: at
    most 20 characters, which the machine sees."""

    path: str
    read_only: bool = True
    format: str = "raw"
    serial: str = ""


class UserNetwork(Value):
    """A network between QEMU and the machine only: QEMU opens what the machine opens, in the network namespace in
    which it runs. ``net``: with the length. ``ports``: number and protocol (tcp, udp); QEMU listens there for the
    machine."""

    net: str
    gateway: str
    address: str
    ports: tuple[tuple[int, str], ...] = ()

    @property
    def guest(self) -> str:
        """The machine's address, with the length."""
        return f"{self.address}/{self.net.rpartition('/')[2]}"


class Machine(Value):
    """``architecture``: as in platforms. ``kind``: of QEMU's machines, "" for the usual one. ``memory``: bytes.
    ``append``: the kernel's command line. ``shared``: it has files of this host
    (``shares``). ``console``: what the kernel says goes to the stream of that name, else to standard output.
    ``acpi``: the kernel of a microvm finds its devices by ACPI; else it needs CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES."""

    architecture: str
    kernel: str
    initramfs: str
    disks: tuple[Disk, ...]
    append: str = ""
    memory: int = 512 * MIB
    processors: int = 1
    kind: str = ""
    accelerator: str = "tcg"
    network: UserNetwork | None = None
    shared: bool = False
    console: bool = False
    acpi: bool = True
