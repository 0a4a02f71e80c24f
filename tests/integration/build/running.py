"""A store with an image, and RUN steps on it, for the tests of this directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.archive.layout import LayoutReader
from lamina.build.options import Secret, SshAgent
from lamina.build.programs.run_program import ran
from lamina.build.steps import BaseStep, RunStep, Step
from lamina.events import Cancel
from lamina.layer.tar_write import Item
from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.view.overlay.lower import sweep
from support import busybox, write_layout

RUNTIMES = ("crun",) if os.environ.get("LAMINA_RUNTIME") == "crun" else ("runc", "bwrap")
"""crun where tests/with_crun.sh makes it work."""
APPLETS = (
    "sh cat echo ls touch rm mkdir id env pwd sleep mount test chmod chown ln hostname stat head true false grep "
    "kill wc mv cp sha256sum nc date ip seq"
)
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv/web:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:44:\nextra:x:55:other,web\n"


_IN_MEMORY = b"lamina: the store's file system takes no writable layer"
"""What a step says on an overlayfs (tests/on_overlay.sh)."""


def members(*more: Any) -> list[Any]:
    return [
        ("bin/", None),
        ("bin/busybox", busybox(), {"mode": 0o755}),
        *((f"bin/{name}", "-> busybox") for name in APPLETS.split()),
        ("etc/", None),
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("tmp/", None, {"mode": 0o1777}),
        *more,
    ]


def make_store(where: Path, layers: list[list[Any]] | None = None, name: str = "app") -> Store:
    layout = where / f"layout-{name}"
    write_layout(layout, name, layers or [members()])
    store = Store.open(str(where / "store"))
    copy(LayoutReader(str(layout)), store, [(name, name)])
    return store


@dataclass
class GivenInputs:
    """Inputs of steps, as a build has them."""

    store: Store
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    ssh: Mapping[str, SshAgent] = field(default_factory=dict)
    cancel: Cancel = field(default_factory=Cancel)
    runtime: str = ""
    upper_dir: str = os.environ.get("LAMINA_TEST_UPPER", "")
    epoch: int | None = None
    contexts: dict[str, Any] = field(default_factory=dict)
    stacks: dict[Step, Stack | None] = field(default_factory=dict)

    @property
    def network(self) -> Any:
        raise AssertionError("a program needs no registry")

    def context(self, name: str) -> Any:
        return self.contexts[name]

    def stack(self, step: Step | None) -> Stack | None:
        if step is None:
            return None
        if step not in self.stacks:
            assert isinstance(step, BaseStep)
            self.stacks[step] = self.store.stack(step.name, step.platform)
        return self.stacks[step]


def base(name: str = "app") -> BaseStep:
    return BaseStep(platform=Platform.host(), name=name, digest="")


def run_step(*words: str, **more: Any) -> RunStep:
    """A step that runs these words, or one script in a shell."""
    words = words if len(words) > 1 else ("sh", "-c", *words)
    return RunStep(**{"below": base(), "platform": Platform.host(), "words": words, "network": "none", **more})


@dataclass
class Ran:
    items: list[Item]
    output: bytes

    @property
    def paths(self) -> list[str]:
        """What changed, sorted: a whiteout ends with a !"""
        ends = {"WHITEOUT": "!", "OPAQUE": "/*"}
        return sorted(entry.path.decode() + ends.get(entry.kind.name, "") for entry, _ in self.items)

    def content(self, path: str) -> bytes:
        for entry, content in self.items:
            if entry.path == path.encode() and entry.kind.name == "FILE":
                assert callable(content)
                stream = content()
                try:
                    return stream.read(entry.size)
                finally:
                    stream.close()
        raise AssertionError(f"{path} is not in {self.paths}")


@contextmanager
def running_step(inputs: GivenInputs, step: RunStep) -> Iterator[Ran]:
    """Run a step to its end; what it changed can be read in the block."""
    output: list[bytes] = []
    with ran(step, inputs.stack(step.below), inputs, output.append) as items:  # type: ignore[arg-type]
        lines = b"".join(output).splitlines(keepends=True)
        yield Ran(list(items), b"".join(line for line in lines if not line.startswith(_IN_MEMORY)))


def said(inputs: GivenInputs, step: RunStep) -> str:
    """What the program of a step printed."""
    with running_step(inputs, step) as done:
        return done.output.decode()


def left_in(store: Store) -> list[str]:
    """What steps have left: mounts below the store, and directories of steps. A build unmounts the layers at its end,
    as this does first."""
    sweep(store)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    running = Path(store.paths.build, "running")
    left = os.listdir(running) if running.is_dir() else []
    return [one for one in mounts if one.startswith(store.paths.root)] + left


def sleeping(mark: str) -> list[str]:
    """The processes that sleep for so long."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", mark.encode()]:
            found.append(name)
    return found


def bytes_in(directory: Path) -> Iterator[tuple[Path, bytes]]:
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()
