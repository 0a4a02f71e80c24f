"""Execution of planned builds: each step that the targets need is solved once, independent ones at the same time.

A step is solved from the cache if there is a record of its key whose layer is whole in the store; else it is run, its
layer is written in the session of the build, and a record is made. A build that is interrupted leaves the records of
all steps that it finished.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from lamina.build.errors import ProgramFailed, StepFailed
from lamina.build.events import Ran
from lamina.build.planning.keys import Origins, Parts, differences, key_of, parts_of
from lamina.build.run_mounts import context_pattern
from lamina.build.solving.cache import Cache, Made, Record
from lamina.build.solving.step_result import EMPTY, Result
from lamina.build.steps import (
    BaseStep,
    CopyStep,
    DirectoryStep,
    FromStep,
    Planned,
    RunMount,
    RunStep,
    Step,
    WheelStep,
)
from lamina.errors import Cancelled, LaminaError
from lamina.events import Cancel, Warned, join
from lamina.source.stack import Stack
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_manifest

if TYPE_CHECKING:
    from lamina.build.options import BuildOptions, Secret, SshAgent
    from lamina.build.progress import Progress, Vertex
    from lamina.build.protocols import Context, CopyFiles, Items, RunProgram
    from lamina.build.solving.bases import Bases
    from lamina.build.solving.shared_cache import SharedCache
    from lamina.edit.publish import Packing
    from lamina.source.protocols import LayerHandle
    from lamina.spec.platform import Platform
    from lamina.store.session import StoreSession
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class _Found:
    """What one step made. ``made``: None if it changed nothing."""

    made: Made | None


@dataclass(frozen=True, slots=True)
class Executors:
    """The code that does the work of steps: ``copy_files`` and ``run_program``. ``content``: the digest of what a
    step reads from the union of another step (``stage_content``)."""

    copy_files: CopyFiles
    run_program: RunProgram
    content: Callable[[Step, FromStep | RunMount, Stack | None], str]


class BuildInputs:
    """``protocols.Inputs``."""

    def __init__(
        self,
        store: Store,
        network: RegistryAccess,
        options: BuildOptions,
        cancel: Cancel,
        progress: Progress,
        open_context: Callable[[str], Context],
    ) -> None:
        """``open_context`` opens a context by its name. Set ``epoch`` before a step runs."""
        self.store = store
        self.network = network
        self.cancel = cancel
        self.epoch: int | None = None
        self.runtime = options.runtime
        self.upper_dir = options.upper_dir
        self.secrets: Mapping[str, Secret] = {secret.id: secret for secret in options.secrets}
        self.ssh: Mapping[str, SshAgent] = {agent.id: agent for agent in options.ssh}
        self._progress = progress
        self._open = open_context
        self._contexts: dict[str, Context] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self.results: dict[Step, Result] = {}
        self._stacks: dict[str, Stack] = {}
        self._layers: dict[tuple[Digest, Digest], LayerHandle] = {}

    def context(self, name: str) -> Context:
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            found = self._contexts.get(name)
            if found is None:
                label = f"[context {name}] load" if name else "[internal] load build context"
                with self._progress.vertex(label):
                    found = self._contexts[name] = self._open(name)
            return found

    def add_context(self, name: str, context: Context) -> None:
        """A context that is open already; it is closed with the others."""
        self._contexts[name] = context

    def stack(self, step: Step | None) -> Stack | None:
        result = EMPTY if step is None else self.results[step]
        return self.stack_of(result, step.platform) if step is not None else None

    def stack_of(self, result: Result, platform: Platform) -> Stack | None:
        """The union of the layers; the same object for the same layers, so that it is merged once."""
        if not result.count:
            return None
        chain = result.chain
        with self._guard:
            found = self._stacks.get(chain)
            if found is None:
                found = self._stacks[chain] = self._made(result, platform)
        return found

    def _made(self, result: Result, platform: Platform) -> Stack:
        config = ImageConfig.build(platform, diff_ids=[layer.diff_id for layer in result.layers])
        manifest = build_manifest(config.descriptor, [layer.descriptor for layer in result.layers])
        layers = tuple(map(self._layer, result.layers))
        return Stack("the build", manifest, config, layers, config.steps())

    def _layer(self, made: Made) -> LayerHandle:
        """A layer; the same object in all unions, because it keeps a file open."""
        key = made.descriptor.digest, made.diff_id
        found = self._layers.get(key)
        if found is None:
            found = self._layers[key] = self.store.layers.get(made.descriptor, made.diff_id)
        return found

    def close(self) -> None:
        """Close all contexts."""
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()


@dataclass(frozen=True, slots=True)
class _Work:
    """A step, the layers below it, and the digests of what it reads from contexts."""

    step: Step
    below: Result
    digests: Mapping[str, str]
    epoch: int | None

    def parts(self, origins: Origins) -> Parts:
        return parts_of(self.step, self.below.identity, self.digests, origins, epoch=self.epoch)

    @property
    def origins(self) -> list[Step]:
        """The steps that it reads from."""
        return list(self.step.origins())


class Solver:
    """Solves the steps of one build, for all its platforms."""

    def __init__(
        self,
        session: StoreSession,
        inputs: BuildInputs,
        executors: Executors,
        bases: Bases,
        cache: Cache,
        progress: Progress,
        options: BuildOptions,
        place: str,
        *,
        shared: Sequence[SharedCache] = (),
        every_stage: bool = False,
    ) -> None:
        """``place``: what this build is of, for ``--why``: steps at the same place of it are compared. ``shared``:
        more caches to look into. ``every_stage``: also solve the stages that only steps of the cache read from."""
        self.session = session
        self.inputs = inputs
        self._executors = executors
        self._bases = bases
        self._cache = cache
        self._progress = progress
        self._options = options
        self._jobs = max(options.jobs or 0, 0) or max(4, os.cpu_count() or 1)
        self._place = place
        self._shared = shared
        self._every_stage = every_stage
        self.records: dict[Step, dict[str, Made | None]] = {}
        """What was made under which keys, for each step."""
        self._solved: dict[str, _Found] = {}
        self._positions: dict[Step, int] = {}
        self._steps: dict[Step, threading.Lock] = {}
        self._asking = threading.RLock()
        self._asked: dict[Step, Mapping[str, str]] = {}
        self._definitions: dict[Step, str | None] = {}
        self._keys: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self.ran: dict[Step, Ran] = {}
        """What was done for each step; after ``solve`` in the order of the steps."""

    @cached_property
    def packing(self) -> Packing:
        """How new layers are compressed."""
        from lamina.edit.publish import Packing

        return Packing(self._options.compression, self._options.level, self.inputs.epoch)

    def solve(self, targets: Sequence[Planned]) -> None:
        """Solve what the targets need; the results are in ``inputs.results``. Raises StepFailed, Cancelled, and what
        pulls raise."""
        tops = [planned.step for planned in targets if planned.step is not None]
        every = ordered(tops)
        self._positions = _positions(every)
        needed, hits = self._probed(tops)
        steps = [step for step in every if step in needed]

        def before(step: Step) -> Iterable[Step]:
            return step.inputs() if step not in hits else () if step.below is None else (step.below,)

        try:
            _Schedule(steps, before, self._jobs, self.inputs.cancel, self._step).run()
        finally:
            self.ran = {step: self.ran[step] for step in every if step in self.ran}

    def _probed(self, tops: Iterable[Step]) -> tuple[set[Step], dict[Step, Result]]:
        """What must be solved, and which of these steps are in the cache. What such a step reads from other stages
        need not be solved."""
        needed: set[Step] = set()
        hits: dict[Step, Result] = {}
        waiting = list(tops)
        while waiting:
            chain = _chain(waiting.pop())
            below: Result | None = EMPTY
            for step in chain:
                if step not in needed:
                    needed.add(step)
                    found = None if below is None else self._probe(step, below)
                    if found is not None:
                        hits[step] = found
                    if found is None or self._every_stage:
                        waiting += step.origins()
                below = hits.get(step)
        return needed, hits

    def _probe(self, step: Step, below: Result) -> Result | None:
        """The result of a step if the cache has it."""
        if isinstance(step, BaseStep):
            return Result.of(self._bases.layers(step)) if step.digest else EMPTY
        if step.no_cache:
            return None
        with _explained(step):
            work = self._work(step, below)
            parts = self._parts(work)
            found = None if parts is None else self._recorded(work, parts)
        return None if found is None or parts is None else Result(below, found.made, key=key_of(parts))

    def _step(self, step: Step) -> None:
        """Solve a step whose inputs have been solved. Several callers of one step wait for the first."""
        with self._guard:
            lock = self._steps.setdefault(step, threading.Lock())
        with lock:
            if step in self.inputs.results:
                return
            if isinstance(step, BaseStep):
                result = self._base(step)
            else:
                with _explained(step):
                    result = self._other(step)
            self.inputs.results[step] = result

    def _base(self, step: BaseStep) -> Result:
        if not step.digest:
            return EMPTY
        with self._progress.vertex(step.label or step.text, step.at) as vertex:
            self._bases.stack(step, vertex)
        return Result.of(self._bases.layers(step))

    def _other(self, step: Step) -> Result:
        below = EMPTY if step.below is None else self.inputs.results[step.below]
        work = self._work(step, below)
        parts = self._parts(work)
        if parts is None:
            parts = self._parts_by_content(work)
        key = key_of(parts)
        with self._guard:
            lock = self._keys.setdefault(key, threading.Lock())
        with self._progress.vertex(step.label, step.at) as vertex, lock:
            self.inputs.cancel.check()
            found = self._known(work, key, parts, vertex)
            vertex.cached = found is not None
            if found is None:
                found = self._missed(work, key, parts, vertex)
            else:
                self.ran[step] = Ran(step.label, step.at, key, True)
            with self._guard:
                self._solved[key] = found
                self.records.setdefault(step, {})[key] = found.made
        return Result(below, found.made, key=key)

    def _work(self, step: Step, below: Result) -> _Work:
        return _Work(step, below, self._digests(step), self.inputs.epoch)

    def _digests(self, step: Step) -> Mapping[str, str]:
        """What the step reads from contexts and other hosts, asked once."""
        with self._asking:
            found = self._asked.get(step)
            if found is None:
                found = self._asked[step] = self._read(step)
            return found

    def _parts(self, work: _Work) -> Parts | None:
        """The parts of the key, with the definitions of what the step reads from other steps: these need not be
        solved for it. None if one of them must not come from the cache."""
        names: dict[Step, str] = {}
        for one in work.origins:
            name = self._definition(one)
            if name is None:
                return None
            names[one] = name
        if work.step.below is not None:
            names[work.step.below] = work.below.chain  # it may read from there, too
        return work.parts(lambda source: names[_origin(source)])

    def _parts_by_content(self, work: _Work) -> Parts:
        """The parts of the key, with the content of the files that the step reads from other steps."""
        for step in ordered(work.origins):
            self._step(step)
        return work.parts(partial(self._content_of, work.step))

    def _definition(self, top: Step) -> str | None:
        """What identifies how a step and all that it needs are made; None if it must not come from the cache."""
        with self._asking:
            for step in ordered([top]) if top not in self._definitions else ():
                self._definitions[step] = self._defined(step)
            return self._definitions[top]

    def _defined(self, step: Step) -> str | None:
        if isinstance(step, BaseStep):
            return Result.of(self._bases.layers(step)).identity if step.digest else ""
        inputs = {one: self._definitions[one] for one in step.inputs()}
        if step.no_cache or None in inputs.values():
            return None
        below = "" if step.below is None else inputs[step.below] or ""
        parts = parts_of(
            step,
            below,
            self._digests(step),
            lambda source: inputs[_origin(source)] or "",
            epoch=self.inputs.epoch,
        )
        return key_of(parts)

    def _content_of(self, step: Step, source: FromStep | RunMount) -> str:
        return self._executors.content(step, source, self.inputs.stack(_origin(source)))

    def _known(self, work: _Work, key: str, parts: Parts, vertex: Vertex) -> _Found | None:
        """The layer of a step that was solved before: in this build, or by an earlier one."""
        with self._guard:
            found = self._solved.get(key)
        return found if found is not None or work.step.no_cache else self._recorded(work, parts, vertex)

    def _recorded(self, work: _Work, parts: Parts, vertex: Vertex | None = None) -> _Found | None:
        """What the cache has under a key. The layer of a shared cache is brought into the store; without a
        ``vertex`` only later."""
        key = key_of(parts)
        record = self._cache.find(key)
        if record is not None:
            made = record.made
            if made is None or self.session.has(made.descriptor, made.diff_id):
                return _Found(made)
        for shared in self._shared:
            if key not in shared.records:
                continue
            made = shared.records[key]
            if vertex is not None:
                if made is not None and not self._brought(shared, made, vertex):
                    continue
                self._cache.put(Record(key, parts, made, self._places(work.step), work.step.label))
            return _Found(made)
        return None

    def _brought(self, shared: SharedCache, made: Made, vertex: Vertex) -> bool:
        if self.session.has(made.descriptor, made.diff_id):
            return True
        try:
            shared.bring(made, self.session, on_event=vertex.event, cancel=self.inputs.cancel)
        except Cancelled:
            raise
        except LaminaError as error:
            vertex.event(Warned(f"the build cache has no usable layer {made.descriptor.digest}: {error.message}"))
            return False
        return True

    def _missed(self, work: _Work, key: str, parts: Parts, vertex: Vertex) -> _Found:
        """There is no record of the key: look for one of what the step reads, else run the step."""
        step = work.step
        with self._cache.locked(key, self.inputs.cancel):
            # another process may have solved it meanwhile
            found = None if step.no_cache else self._recorded(work, parts, vertex)
            content = self._parts_by_content(work) if found is None and work.origins else parts
            if content != parts:
                with self._cache.locked(key_of(content), self.inputs.cancel):
                    found = None if step.no_cache else self._recorded(work, content, vertex)
                    if found is None:
                        found = self._run(work, key, parts, vertex)
                        self._record(work, key_of(content), content, found, placed=False)
                        return found
                    self._record(work, key, parts, found)
            if found is None:
                return self._run(work, key, parts, vertex)
        vertex.cached = True
        self.ran[step] = Ran(step.label, step.at, key, True)
        return found

    def _run(self, work: _Work, key: str, parts: Parts, vertex: Vertex) -> _Found:
        """Run the step, and record it."""
        self.ran[work.step] = self._why(work.step, key, parts, self._places(work.step))
        found = _Found(self._layer(work.step, work.below, vertex))
        self._record(work, key, parts, found)
        return found

    def _record(self, work: _Work, key: str, parts: Parts, found: _Found, *, placed: bool = True) -> None:
        places = self._places(work.step) if placed else ()
        self._cache.put(Record(key, parts, found.made, places, work.step.label))
        with self._guard:
            self.records.setdefault(work.step, {})[key] = found.made

    def _places(self, step: Step) -> tuple[str, ...]:
        """Names of the places of a step: by its text, then by its number in the stage."""
        stage = f"{self._place}\n{step.stage}\n{step.platform}"
        what = (step.text, str(self._positions[step]))
        return tuple(Digest.of(f"{stage}\n{one}".encode()).encoded for one in what)

    def _why(self, step: Step, key: str, parts: Parts, places: Sequence[str]) -> Ran:
        ran = Ran(step.label, step.at, key, False)
        if step.no_cache:
            return replace(ran, reason="the cache was not asked")
        before = self._cache.earlier(places)
        if before is None:
            return replace(ran, reason="nothing is recorded of this step")
        found = differences(before.parts, parts)
        if not found:
            return replace(ran, reason="its layer is not in the store any more")
        return replace(ran, reason=f"{', '.join(name for name, _, _ in found)} changed", differs=found)

    def _read(self, step: Step) -> Mapping[str, str]:
        if isinstance(step, CopyStep):
            return self._executors.copy_files.digests(step, self.inputs)
        if isinstance(step, RunStep):
            found = {}
            for number, mount in enumerate(step.mounts):
                if mount.kind in ("bind", "cache") and not isinstance(mount.origin, Step):
                    name = mount.origin
                    if name is None and mount.kind == "cache":
                        continue
                    digest = self.inputs.context(name or "").digest((context_pattern(mount.source),))
                    found[f"context of mount {number + 1}: {mount.source or '/'}"] = digest
            return found
        return {}

    def _layer(self, step: Step, below: Result, vertex: Vertex) -> Made | None:
        """Do the work of a step, and write its layer."""
        union = self.inputs.stack_of(below, step.platform)
        if isinstance(step, DirectoryStep):
            return self._written(self._executors.copy_files.made(step, union))
        if isinstance(step, CopyStep):
            with self._executors.copy_files.copied(step, union, self.inputs, vertex.log) as items:
                return self._written(items, ordered=True)
        if isinstance(step, RunStep):
            from lamina.build.programs.run_program import ProgramChanges

            with self._executors.run_program(step, union, self.inputs, vertex.log) as items:
                made = self._written(items)
                if made is not None and isinstance(items, ProgramChanges) and items.source:
                    whole = self.inputs.stack_of(Result(below, made), step.platform)
                    if whole is not None:
                        items.become_tree(self.inputs.store, whole)
                return made
        if isinstance(step, WheelStep):
            from lamina.build.wheels.layer import opened, wheel_items

            with wheel_items(step, opened(step, self.inputs), limit=self.inputs.store.max_layer) as files:
                return self._written(files, clamp=False)
        raise TypeError(f"nobody can run a {type(step).__name__}")

    def _written(self, items: Items, *, ordered: bool = False, clamp: bool = True) -> Made | None:
        if not len(items):
            return None
        from lamina.edit.publish import new_layer, timestamp

        cancel = self.inputs.cancel
        built = new_layer(self.session, items, self.packing, clamp=clamp, ordered=ordered, cancel=cancel)
        return Made(built.descriptor, built.diff_id, timestamp(self.inputs.epoch))


def ordered(targets: Iterable[Step]) -> list[Step]:
    """All steps that the targets need, each after those that it needs."""
    found: dict[Step, None] = {}
    waiting: list[tuple[Step, bool]] = [(step, False) for step in targets]
    while waiting:
        step, is_ready = waiting.pop()
        if step in found:
            continue
        if is_ready:
            found[step] = None
            continue
        waiting.append((step, True))
        waiting += [(one, False) for one in step.inputs() if one not in found]
    return list(found)


class _Schedule:
    """Runs each step after those that it needs, several at the same time."""

    def __init__(
        self,
        steps: Sequence[Step],
        before: Callable[[Step], Iterable[Step]],
        jobs: int,
        cancel: Cancel,
        work: Callable[[Step], None],
    ) -> None:
        """``before``: the steps that a step waits for."""
        self._cancel = cancel
        self._work = work
        self._users: dict[Step, list[Step]] = {step: [] for step in steps}
        self._missing: dict[Step, int] = {}
        for step in steps:
            needed = set(before(step))
            self._missing[step] = len(needed)
            for one in needed:
                self._users[one].append(step)
        self._ready = [step for step in steps if not self._missing[step]]
        self._left = len(steps)
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._jobs = min(jobs, len(steps))

    def run(self) -> None:
        """Raises the first error, after all threads have ended."""
        threads = [
            threading.Thread(target=self._run, name=f"lamina-step-{n}", daemon=True) for n in range(self._jobs)
        ]
        try:
            with self._cancel.calling(self._wake):
                for thread in threads:
                    thread.start()
                join(threads)
        except BaseException:
            self._cancel.set()
            self._wake()  # `calling` has ended, so `set` wakes nobody
            join(thread for thread in threads if thread.ident is not None)
            if self._error is None or isinstance(self._error, Cancelled):
                raise
        if self._error is not None:
            raise self._error
        self._cancel.check()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """Keep the first error; those that only say that it was cancelled come last."""
        with self._changed:
            if self._error is None or isinstance(self._error, Cancelled):
                self._error = error
        self._cancel.set()
        self._wake()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ready and self._left and self._error is None and not self._cancel.is_set:
                    self._changed.wait()
                if not self._ready or self._error is not None or self._cancel.is_set:
                    return
                step = self._ready.pop(0)
            try:
                self._work(step)
            except BaseException as error:  # noqa: BLE001  (``run`` raises it)
                self._fail(error)
                return
            with self._changed:
                self._left -= 1
                for user in self._users[step]:
                    self._missing[user] -= 1
                    if not self._missing[user]:
                        self._ready.append(user)
                self._changed.notify_all()


def _positions(steps: Sequence[Step]) -> dict[Step, int]:
    """The number of each step in its stage."""
    found: dict[Step, int] = {}
    for step in steps:
        same = step.below is not None and step.below.stage == step.stage
        found[step] = found[step.below] + 1 if same and step.below is not None else 0
    return found


def _chain(top: Step) -> list[Step]:
    """A step and all below it, the lowest first."""
    chain: list[Step] = []
    step: Step | None = top
    while step is not None:
        chain.append(step)
        step = step.below
    return chain[::-1]


def _origin(source: FromStep | RunMount) -> Step:
    step = source.step if isinstance(source, FromStep) else source.origin
    assert isinstance(step, Step)
    return step


@contextmanager
def _explained(step: Step) -> Iterator[None]:
    """Say in an error which step it came from."""
    try:
        yield
    except (StepFailed, Cancelled):
        raise
    except LaminaError as error:
        code = error.code if isinstance(error, ProgramFailed) else None
        failed = StepFailed(
            f"{step.at.file}:{step.at.line}: {step.label}: {error.message}",
            at=step.at,
            label=step.label,
            code=code,
            hint=error.hint,
        )
        failed.exit_code = error.exit_code
        raise failed from error
