"""The Python of an image: where it looks for packages, and which wheels fit it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import NotFound, PathNotFound
from lamina.layer.entry import Kind

if TYPE_CHECKING:
    from lamina.source.stack import Stack
    from lamina.spec.platform import Platform

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PYTHON = re.compile(rb"python(3)\.([0-9]{1,3})")
_GLIBC = re.compile(rb"GNU C Library [^\n\0]{0,200}? version ([0-9]+)\.([0-9]+)")
_MUSL = re.compile(rb"\0Version ([0-9]+)\.([0-9]+)\.[0-9]+|\0([0-9]+)\.([0-9]+)\.[0-9]+\0")
_MAX_LIBRARY = 16 << 20  # bytes of a C library that are searched for its version
_MACHINES = {
    ("amd64", ""): "x86_64",
    ("386", ""): "i686",
    ("arm64", ""): "aarch64",
    ("arm", "v7"): "armv7l",
    ("arm", "v6"): "armv6l",
    ("ppc64le", ""): "ppc64le",
    ("s390x", ""): "s390x",
    ("riscv64", ""): "riscv64",
    ("loong64", ""): "loongarch64",
}
"""OCI's architecture and variant to the machine name of wheels. A variant that is missing here does not matter."""
_LEGACY = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}


@dataclass(frozen=True, slots=True)
class PythonTarget:
    """The Python that wheels are installed for. ``full_version`` like ``3.12.4`` (its last number may be unknown: 0).
    ``site``, ``scripts`` and ``data``: absolute directories. ``machine`` as in names of wheels. ``libc``: glibc or
    musl, with its version; None where none was found."""

    version: tuple[int, int]
    full_version: str
    executable: str
    site: str
    scripts: str
    data: str
    machine: str
    libc: tuple[str, int, int] | None

    def tags(self) -> list[str]:
        """The tags of the wheels that fit, best first (packaging.python.org, "Platform compatibility tags")."""
        from packaging.tags import compatible_tags, cpython_tags

        platforms = list(self._platforms())
        found = [*cpython_tags(self.version, platforms=platforms)]
        found += compatible_tags(self.version, f"cp{self.version[0]}{self.version[1]}", platforms)
        return [str(tag) for tag in found]

    def markers(self) -> dict[str, str]:
        """The environment in which markers are evaluated (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.full_version,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.full_version,
            "python_version": f"{self.version[0]}.{self.version[1]}",
            "sys_platform": "linux",
            "extra": "",
        }

    def _platforms(self) -> Iterator[str]:
        if self.libc is not None:
            name, major, minor = self.libc
            prefix, lowest = ("musllinux", 0) if name == "musl" else ("manylinux", 5)
            for number in range(minor, lowest - 1, -1):
                yield f"{prefix}_{major}_{number}_{self.machine}"
                if prefix == "manylinux" and (major, number) in _LEGACY:
                    yield f"{_LEGACY[major, number]}_{self.machine}"
        yield f"linux_{self.machine}"


def find_python(stack: Stack, platform: Platform) -> PythonTarget:
    """Find the Python of an image: the first ``python3`` on its PATH. Raises NotFound (there is none)."""
    for directory in _search_path(stack):
        for name in ("python3", "python"):
            found = _python_at(stack, f"{directory}/{name}", platform)
            if found is not None:
                return found
    raise NotFound(
        f"{stack.name} has no python3 on its PATH", hint="choose a base image with Python, like python:3.12"
    )


def _search_path(stack: Stack) -> list[str]:
    stated = [line.partition("=")[2] for line in stack.config.env if line.startswith("PATH=")]
    words = (stated[-1] if stated else _DEFAULT_PATH).split(":")
    return [word.rstrip("/") for word in words if word.startswith("/") and word.strip("/")]


def _python_at(stack: Stack, program: str, platform: Platform) -> PythonTarget | None:
    path = program.strip("/").encode()
    real = _real(stack, path)
    match = _PYTHON.fullmatch(real.rpartition(b"/")[2]) if real else None
    if real is None or match is None:
        return None
    version = int(match[1]), int(match[2])
    directory = path.rpartition(b"/")[0]
    prefix = directory.rpartition(b"/")[0]
    lib = f"lib/python{version[0]}.{version[1]}"
    site, root = f"{prefix.decode()}/{lib}/site-packages", prefix.decode()
    is_venv = _real(stack, prefix + b"/pyvenv.cfg") is not None
    if not is_venv:
        root = real.rpartition(b"/")[0].rpartition(b"/")[0].decode()
        site = f"{root}/{lib}/site-packages"
        if root == "usr" and _real(stack, b"usr/lib/python3/dist-packages") is not None:
            root = "usr/local"  # Debian keeps /usr for its own packages
            site = f"usr/local/{lib}/dist-packages"
    executable = program if is_venv else "/" + real.decode()
    machine = _machine(platform)
    return PythonTarget(
        version=version,
        full_version=_full_version(stack, version),
        executable=executable,
        site="/" + site,
        scripts=f"/{root}/bin",
        data="/" + root,
        machine=machine,
        libc=_libc(stack, machine),
    )


def _real(stack: Stack, path: bytes) -> bytes | None:
    """The literal path of a file or directory, symlinks followed; None if it does not exist."""
    try:
        union, node = stack.lookup(path, follow=True)
    except PathNotFound:
        return None
    return union.path(node)


def _full_version(stack: Stack, version: tuple[int, int]) -> str:
    """Official images state it in an environment variable; elsewhere only the first two numbers are known."""
    start = f"PYTHON_VERSION={version[0]}.{version[1]}."
    for line in stack.config.env:
        if line.startswith(start) and line.removeprefix(start).isdigit():
            return line.partition("=")[2]
    return f"{version[0]}.{version[1]}.0"


def _machine(platform: Platform) -> str:
    exact = _MACHINES.get((platform.architecture, platform.variant or ""))
    return exact or _MACHINES.get((platform.architecture, ""), platform.architecture)


def _libc(stack: Stack, machine: str) -> tuple[str, int, int] | None:
    loader = _read(stack, f"lib/ld-musl-{machine.replace('armv7l', 'armhf').replace('i686', 'i386')}.so.1")
    if loader is not None:
        match = _MUSL.search(loader)
        numbers = [part for part in match.groups() if part] if match else []
        return ("musl", int(numbers[0]), int(numbers[1])) if numbers else ("musl", 1, 1)
    for place in (f"lib/{machine}-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib", f"usr/lib/{machine}-linux-gnu"):
        library = _read(stack, f"{place}/libc.so.6")
        match = _GLIBC.search(library) if library is not None else None
        if match:
            return "glibc", int(match[1]), int(match[2])
    return None


def _read(stack: Stack, path: str) -> bytes | None:
    try:
        union, node = stack.lookup(path.encode(), follow=True)
    except PathNotFound:
        return None
    stored = union.stored(node)
    if union.entry(node).kind not in (Kind.FILE, Kind.HARDLINK):
        return None
    with stack.open_stored(stored) as stream:
        return stream.read(_MAX_LIBRARY)
