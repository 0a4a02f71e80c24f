"""The work of the steps. Its modules are loaded when a step needs them: a build that comes from the cache needs
none of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.build.programs.run_program import Shared
    from lamina.build.protocols import Inputs, Items, Log
    from lamina.build.steps import CopyStep, DirectoryStep, FromStep, RunMount, RunStep, Step
    from lamina.layer.tar_write import Item
    from lamina.scan.directory import OnWarning
    from lamina.source.stack import Stack
    from lamina.store.store import Store


class Workers:
    """``protocols.CopyFiles`` and ``RunProgram``. When the block ends, the mounts of the programs are gone."""

    def __init__(self, store: Store, on_warning: OnWarning) -> None:
        self._store = store
        self._warn = on_warning
        self._programs = ExitStack()
        self._has_programs = False
        self._has_caretaker = False
        self._shared: Shared | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Workers:
        with suppress(FileNotFoundError):
            # a killed build has left a program and its secrets: they end also if this build runs no program
            if os.listdir(os.path.join(self._store.paths.build, "running")):
                self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._programs.close()

    def digests(self, step: CopyStep, inputs: Inputs) -> dict[str, str]:
        from lamina.build.files.copy_files import digests

        return digests(step, inputs)

    def copied(self, step: CopyStep, below: Stack | None, inputs: Inputs, log: Log) -> AbstractContextManager[Items]:
        from lamina.build.files.copy_files import copied

        return copied(step, below, inputs, log)

    def made(self, step: DirectoryStep, below: Stack | None) -> list[Item]:
        from lamina.build.files.copy_files import made

        return made(step, below)

    def content(self, step: Step, source: FromStep | RunMount, stack: Stack | None) -> str:
        """As ``stage_content.content_digest``."""
        from lamina.build.files.stage_content import content_digest

        return content_digest(step, source, stack)

    @contextmanager
    def run_program(self, step: RunStep, below: Stack | None, inputs: Inputs, log: Log) -> Iterator[Items]:
        from lamina.build.programs.caretaker import Caretaker
        from lamina.build.programs.run_program import ran

        self._begin()
        with self._lock:
            if not self._has_caretaker:
                self._programs.enter_context(Caretaker(self._store.paths.root, self._warn))
                self._has_caretaker = True
        with ran(step, below, inputs, log, self._shared) as items:
            yield items

    def _begin(self) -> None:
        from lamina.build.programs.run_program import run_programs

        with self._lock:
            if not self._has_programs:
                self._shared = self._programs.enter_context(run_programs(self._store, self._warn))
                self._has_programs = True
