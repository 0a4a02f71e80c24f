"""Whole builds of Dockerfiles that need no program: contexts, stages and caches in real stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.build.builder import built
from lamina.build.events import VertexStarted
from lamina.build.options import BuildOptions, Built
from lamina.events import Event, Warned
from lamina.layer.entry import Kind
from lamina.places import load_settings
from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.connect import RegistryAccess


@dataclass
class Done:
    """A finished build. ``ran``: the steps that did not come from the cache."""

    result: Built
    stack: Stack
    events: list[Event] = field(default_factory=list)

    @property
    def ran(self) -> list[str]:
        return [step.label for step in self.result.steps if not step.cached]

    @property
    def id(self) -> str:
        return self.result.images[0].id

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Warned)]

    @property
    def labels(self) -> list[str]:
        """What progress showed."""
        return [event.label for event in self.events if isinstance(event, VertexStarted)]

    def files(self) -> dict[str, bytes]:
        """The regular files of the image."""
        tree = self.stack.tree()
        found = {}
        for node in tree.walk():
            if tree.kind(node) == Kind.FILE:
                with self.stack.open_file(node) as file:
                    found[tree.path(node).decode()] = file.read()
        return found


def write_files(top: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return top


def build(store: Store, context: Path | str, text: str, **options: Any) -> Done:
    """Build ``text`` with SOURCE_DATE_EPOCH, so that equal builds have equal digests."""
    asked = BuildOptions(**{"dockerfile": text.encode(), "epoch": 1_700_000_000, "tags": ("built",), **options})
    access = RegistryAccess(load_settings({"root": store.paths.root}))
    events: list[Event] = []
    with built(str(context), asked, store, access, on_event=events.append) as result:
        stack = store.stack_at(result.descriptor, result.images[0].platform, "built")
        return Done(result, stack, events)


AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
