"""COPY, ADD and WORKDIR on small images, for the tests of this directory: the union that a step leaves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lamina.build.files import contexts, copy_files
from lamina.build.steps import BaseStep, CopyStep, DirectoryStep, FromContext, FromStep, Step
from lamina.events import Cancel
from lamina.layer.build_layer import build_layer
from lamina.layer.entry import Entry, Kind
from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from lamina.store.store import Store
from support import index_of

PLATFORM = Platform("linux", "amd64")


class Layer:
    """A ``LayerHandle`` over a tar in memory."""

    def __init__(self, tar: bytes) -> None:
        self.tar = tar
        self._index = index_of(tar)

    def index(self) -> Any:
        return self._index

    def open(self, start: int = 0, end: int | None = None) -> BytesIO:
        return BytesIO(self.tar[start:end])


def stack_of(*tars: bytes) -> Stack:
    """A stack of layers, bottom first."""
    nothing: Any = SimpleNamespace(media_type="", annotations={})
    layers: Any = tuple(Layer(tar) for tar in tars)
    return Stack("base", nothing, nothing, layers)


@dataclass(eq=False)
class Given:
    """Inputs of steps."""

    contexts: Mapping[str, contexts.OpenedContext] = field(default_factory=dict)
    stacks: Mapping[Step, Stack | None] = field(default_factory=dict)
    store: Any = None
    network: Any = None
    epoch: int | None = None
    cancel: Cancel = field(default_factory=Cancel)
    secrets: Mapping[str, Any] = field(default_factory=dict)
    ssh: Mapping[str, Any] = field(default_factory=dict)
    runtime: str = ""
    upper_dir: str = ""
    said: list[bytes] = field(default_factory=list)

    def context(self, name: str) -> contexts.OpenedContext:
        return self.contexts[name]

    def stack(self, step: Step | None) -> Stack | None:
        return None if step is None else self.stacks[step]


@dataclass
class Build:
    """A base of layers, a context directory, and steps that are tried on them."""

    where: Path
    base: Stack | None = None

    def __post_init__(self) -> None:
        self.store = Store.open(str(self.where / "store"))
        self.context = self.where / "context"
        self.context.mkdir(exist_ok=True)
        self.said: list[bytes] = []

    def write(self, files: Mapping[str, Any]) -> None:
        """Files of the context: bytes or text; "-> target" in a tuple for symlinks; None for a directory; (content,
        mode)."""
        for name, content in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = None
            if isinstance(content, tuple):
                content, mode = content
            if content is None:
                path.mkdir(exist_ok=True)
            elif isinstance(content, str) and content.startswith("-> "):
                path.symlink_to(content[3:])
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            if mode is not None:
                path.chmod(mode)

    def opened(self, place: str = "", **options: Any) -> contexts.OpenedContext:
        options.setdefault("registries", None)
        network = options.pop("registries")
        return contexts.open_context(
            place or str(self.context), store=self.store, network=network, cancel=Cancel(), **options
        )

    def given(self, opened: ExitStack, **options: Any) -> Given:
        context = self.opened()
        opened.callback(context.close)
        return Given({"": context, **options.pop("contexts", {})}, store=self.store, said=self.said, **options)

    def items(self, step: CopyStep, **options: Any) -> list[tuple[Entry, bytes]]:
        """The entries of the layer, with contents."""
        with ExitStack() as opened:
            given = self.given(opened, **options)
            digests = copy_files.digests(step, given)
            assert all(digests.values())
            with copy_files.copied(step, self.base, given, given.said.append) as items:
                there = len(items)
                found = [(entry, read(content)) for entry, content in items]
        assert bool(found) == bool(there)
        return found

    def copy(self, *sources: str, to: str, **options: Any) -> dict[str, str]:
        """What the layer of ``COPY sources to`` states: path to a short description."""
        step = CopyStep(platform=PLATFORM, sources=(FromContext("", sources),), target=to, **_step_options(options))
        return described(self.items(step, **options))

    def union(self, step: CopyStep | DirectoryStep, **options: Any) -> Stack:
        """The base with the layer of the step on it."""
        tar = bytearray()
        if isinstance(step, DirectoryStep):
            build_layer(copy_files.made(step, self.base), _Sink(tar), compression="none", ordered=True)
        else:
            with ExitStack() as opened:
                given = self.given(opened, **options)
                with copy_files.copied(step, self.base, given, given.said.append) as items:
                    build_layer(items, _Sink(tar), compression="none", ordered=True)
        below = [layer.tar for layer in self.base.layers] if self.base else []  # type: ignore[attr-defined]
        return stack_of(*below, bytes(tar))


def from_stage(stack: Stack | None, *patterns: str) -> tuple[FromStep, dict[Step, Stack | None]]:
    """A source that is a stage, and the stacks for ``Given``."""
    step = BaseStep(platform=PLATFORM, name="stage", digest="", stage="build")
    return FromStep(step, patterns), {step: stack}


def described(items: list[tuple[Entry, bytes]]) -> dict[str, str]:
    """Each entry as ``kind mode owner content``; what is usual is left out."""
    found = {}
    for entry, content in items:
        words = [entry.kind.name.lower()]
        usual = {Kind.DIRECTORY: 0o755, Kind.FILE: 0o644, Kind.SYMLINK: 0o777}.get(entry.kind)
        if entry.mode != usual and entry.kind != Kind.HARDLINK:
            words.append(f"{entry.mode:o}")
        if (entry.uid, entry.gid) != (0, 0):
            words.append(f"{entry.uid}:{entry.gid}")
        if entry.link:
            words.append(f"-> {entry.link.decode()}")
        if content:
            words.append(repr(content.decode("utf-8", "replace"))[1:-1])
        found[entry.path.decode("utf-8", "surrogateescape")] = " ".join(words)
    return found


def read(content: Any) -> bytes:
    if not callable(content):
        return content or b""
    stream = content()
    try:
        pieces = []
        while data := stream.read(1 << 20):
            pieces.append(data)
        return b"".join(pieces)
    finally:
        stream.close()


def _step_options(options: dict[str, Any]) -> dict[str, Any]:
    names = ("owner", "mode", "link", "parents", "exclude", "unpack", "is_add")
    return {name: options.pop(name) for name in names if name in options}


class _Sink:
    def __init__(self, data: bytearray) -> None:
        self._data = data

    def write(self, data: bytes) -> None:
        self._data += data
