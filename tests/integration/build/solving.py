"""Builds of made-up steps in a real store. The work of the steps is here, so that tests can count and stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lamina.build.events import Ran
from lamina.build.options import BuildOptions
from lamina.build.progress import Progress
from lamina.build.protocols import Context, Inputs, Log
from lamina.build.solving.bases import Bases
from lamina.build.solving.cache import Cache
from lamina.build.solving.join_layers import joined
from lamina.build.solving.solve import BuildInputs, Executors, Solver
from lamina.build.solving.step_result import Result
from lamina.build.steps import CopyStep, DirectoryStep, FromContext, FromStep, Inline, Planned, RunStep, Step
from lamina.events import Cancel, Event
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item
from lamina.places import load_settings
from lamina.source.stack import Stack
from lamina.spec.image_config import ImageConfig
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.connect import RegistryAccess
from lamina.union.tree import Tree

AMD64 = Platform("linux", "amd64")
Work = Callable[[str], None]


class Files:
    """A context of files in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def digest(self, patterns: Sequence[str], *, exclude: Sequence[str] = (), parents: bool = False) -> str:
        return "|".join(f"{name}={self.files.get(name)!r}" for name in patterns)

    def read(self, path: str) -> bytes:
        return self.files[path]

    def close(self) -> None:
        pass


class Workers:
    """``copy_files`` and ``run_program``: each step makes one file with its text. ``done``: the texts of the steps
    that ran. ``work`` is called with each text, in the thread of the step."""

    def __init__(self, work: Work = lambda text: None) -> None:
        self.done: list[str] = []
        self.seen: dict[str, list[bytes]] = {}
        self._work = work
        self._lock = threading.Lock()

    def executors(self, content: Any) -> Executors:
        return Executors(self, self.run_program, content)

    def digests(self, step: CopyStep, inputs: Inputs) -> dict[str, str]:
        sources = [source for source in step.sources if isinstance(source, FromContext)]
        return {
            f"context {source.patterns}": inputs.context(source.name).digest(source.patterns) for source in sources
        }

    @contextmanager
    def copied(self, step: CopyStep, below: Stack | None, inputs: Inputs, log: Log) -> Iterator[list[Item]]:
        yield self._ran(step, below, log)

    def made(self, step: DirectoryStep, below: Stack | None) -> list[Item]:
        return self._ran(step, below, lambda data: None)

    @contextmanager
    def run_program(self, step: RunStep, below: Stack | None, inputs: Inputs, log: Log) -> Iterator[list[Item]]:
        yield self._ran(step, below, log)

    def _ran(self, step: Step, below: Stack | None, log: Log) -> list[Item]:
        self._work(step.text)
        log(step.text.encode())
        with self._lock:
            self.done.append(step.text)
            tree = below.tree() if below is not None else None
            self.seen[step.text] = sorted(tree.children(0)) if tree is not None else []
        return [] if step.text.startswith("nothing") else [file(step.text.split()[-1], step.text.encode())]


def file(name: str, content: bytes) -> Item:
    return Entry(name.encode(), Kind.FILE, size=len(content), mtime=1_000_000_000_000_000_000), content


def run(text: str, below: Step | None = None, **words: Any) -> RunStep:
    words = {"stage": "s", "platform": AMD64, "label": text, **words}
    return RunStep(below=below, text=text, words=("/bin/sh", "-c", text), **words)


def copy(
    text: str, below: Step | None = None, *, of: Step | None = None, paths: Sequence[str] = ("a",), **words: Any
) -> CopyStep:
    words = {"stage": "s", "platform": AMD64, "label": text, "target": "/t/", **words}
    source = FromContext("", tuple(paths)) if of is None else FromStep(of, tuple(paths))
    return CopyStep(below=below, text=text, sources=(source,), **words)


def inline(text: str, below: Step | None = None) -> CopyStep:
    source = Inline("f", text.encode())
    return CopyStep(below=below, text=text, label=text, sources=(source,), target="/f", stage="s", platform=AMD64)


def target(step: Step | None, history: Sequence[Any] = ()) -> Planned:
    return Planned("s", step, ImageConfig.build(AMD64), tuple(history), AMD64)


class Build:
    """One build of a store, step by step. ``events``: what it told. ``ran``: as ``Built.steps``."""

    def __init__(self, store: Store, workers: Workers, **options: Any) -> None:
        self.store = store
        self.workers = workers
        self.cancel = Cancel()
        self.files: dict[str, bytes] = {"a": b"1"}
        self.events: list[Event] = []
        self.on_event: Callable[[Event], object] = lambda event: None
        self.warnings: list[str] = []
        self.ran: list[Ran] = []
        self.options = BuildOptions(**{"epoch": 1_700_000_000, **options})
        self.content: Any = lambda step, source, stack: "content"

    def solve(self, *steps: Step, keep: bool = True) -> list[Result]:
        """Solve the steps; their results."""
        with self._solved([target(step) for step in steps], keep=keep) as (solver, _):
            return [solver.inputs.results[step] for step in steps]

    def squashed(self, step: Step, history: Sequence[Any]) -> tuple[Planned, Mapping[Step, Result], Tree]:
        """Solve a step and join its layers: the plan, the results, and the union of the joined layers."""
        planned = target(step, history)
        with self._solved([planned]) as (solver, cache):
            session = solver.session
            planned, results = joined(planned, solver.inputs, session, cache, solver.packing)
            assert planned.step is not None
            stack = solver.inputs.stack_of(results[planned.step], AMD64)
            assert stack is not None
            return planned, results, stack.tree()

    @contextmanager
    def _solved(self, targets: Sequence[Planned], *, keep: bool = True) -> Iterator[tuple[Solver, Cache]]:
        def tell(event: Event) -> None:
            self.events.append(event)
            self.on_event(event)

        progress = Progress(tell)
        access = RegistryAccess(load_settings({"root": self.store.paths.root}))
        cache = Cache(self.store, self.warnings.append)

        def opened(name: str) -> Context:
            return Files(self.files)

        inputs = BuildInputs(self.store, access, self.options, self.cancel, progress, opened)
        inputs.epoch = self.options.epoch
        with self.store.session("build") as session:
            bases = Bases(self.store, session, access, progress, self.cancel, pull=False)
            executors = self.workers.executors(self.content)
            solver = Solver(session, inputs, executors, bases, cache, progress, self.options, "place")
            try:
                solver.solve(targets)
                yield solver, cache
            finally:
                if keep:
                    cache.settle()
                self.ran = list(solver.ran.values())
