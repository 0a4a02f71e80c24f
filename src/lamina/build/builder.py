"""One call builds an image: read the Dockerfile, plan, solve, publish."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lamina.build.errors import DockerfileError, StepFailed
from lamina.build.options import BuildOptions, Built, Instructions
from lamina.build.steps import BaseStep
from lamina.errors import LaminaError, NotFound, PathNotFound, UsageError
from lamina.events import Cancel, OnEvent, Warned, ignore
from lamina.host.files import reported
from lamina.spec.json import load
from lamina.spec.platform import Platform
from lamina.text import human_size

if TYPE_CHECKING:
    from lamina.build.errors import Finding
    from lamina.build.instructions import Dockerfile
    from lamina.build.options import BuiltImage
    from lamina.build.planning.checks import Checked
    from lamina.build.progress import Progress, Vertex
    from lamina.build.protocols import Context
    from lamina.build.solving.bases import Bases
    from lamina.build.solving.cache import Made
    from lamina.build.solving.shared_cache import SharedCache
    from lamina.build.solving.solve import BuildInputs, Solver
    from lamina.build.solving.step_result import Result
    from lamina.build.steps import Planned, Step
    from lamina.source.stack import Stack
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.image_config import ImageConfig
    from lamina.store.session import StoreSession
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess

NAMES = ("Dockerfile", "Containerfile")
"""The Dockerfile's names in a context, the first that is there."""
_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""A FIFO without a writer must not block."""
MAX_DOCKERFILE = 16 << 20
MAX_INDEX_PAGE = 64 << 20
_INDEX_PAGE = "application/vnd.pypi.simple.v1+json"


@contextmanager
def built(
    context: str,
    options: BuildOptions,
    store: Store,
    network: RegistryAccess,
    *,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> Iterator[Built]:
    """Build an image into the store. ``context``: a directory, an address, a git repository, a tar, "-" for stdin, or
    "" for none.

    The block gets the image. It has its names already, and while the block runs it is protected even without one:
    what else is to be made of it (an archive, a push) is made from the store in the block. ``on_event`` gets
    ``build.events`` and the events of pulls.

    Raises ``build.errors.StepFailed`` (a step failed), UsageError (the Dockerfile, an option), NotFound, Cancelled,
    and what pulls raise.
    """
    from lamina.build.planning.plan import plan
    from lamina.build.progress import Progress
    from lamina.build.solving.bases import Bases
    from lamina.build.solving.cache import Cache
    from lamina.build.solving.image_documents import write_image, write_index
    from lamina.build.solving.solve import BuildInputs, Executors, Solver
    from lamina.build.solving.workers import Workers
    from lamina.spec.reference import canonical
    from lamina.store.image_events import note_image

    options, began = _completed(options), time.time()
    progress = Progress(on_event)
    stop = Cancel(cancel)
    cache = Cache(store, lambda text: progress.tell(Warned(text)))
    with ExitStack() as stack:
        stack.callback(stop.close)
        session = stack.enter_context(store.session("build"))
        opener = _Opener(context, options, store, network, stop)
        inputs = BuildInputs(store, network, options, stop, progress, opener.open)
        stack.callback(inputs.close)
        workers = stack.enter_context(Workers(store, lambda text: progress.tell(Warned(text))))
        bases = Bases(store, session, network, progress, stop, pull=options.pull)
        platforms: tuple[Platform | None, ...] = options.platforms or (None,)
        with progress.vertex("[internal] load build definition") as vertex:
            if options.recipe is None:
                definition = _read_definition(opener, inputs, platforms, vertex)
            else:
                definition = _Definition(
                    "Build",
                    b"",
                    {one: _from_recipe(options.recipe, one, bases, network, vertex) for one in platforms},
                    (),
                )
        stack.enter_context(_explained(definition.text))
        planned = [plan(definition.written[one], options, bases.resolve, platform=one) for one in platforms]
        inputs.epoch = planned[0].epoch
        executors = Executors(workers, workers.run_program, workers.content)
        place = f"{os.path.abspath(context) if os.path.isdir(context) else context}\n{definition.name}"
        solver = Solver(
            session,
            inputs,
            executors,
            bases,
            cache,
            progress,
            options,
            place,
            shared=_shared_caches(options, planned, network, progress),
            every_stage=any(one.attributes.get("mode") == "max" for one in options.cache_to),
        )
        try:
            solver.solve(planned)
            with progress.vertex("exporting to image") as vertex:
                results: Mapping[Step, Result] = inputs.results
                written = []
                for one in planned:
                    if options.squash:
                        from lamina.build.solving.join_layers import joined

                        one, results = joined(one, inputs, session, cache, solver.packing)
                    inline = _own_records(solver, [one.step]) if _is_inline(options) else None
                    written.append(write_image(session, one, results, options, inline))
                images = tuple(written)
                entries = _attested(session, planned, images, options, store, definition, began)
                is_one = len(images) == 1 and not entries
                top = images[0].descriptor if is_one else write_index(session, images, options, entries)
                vertex.note(f"writing image {images[0].id if len(images) == 1 else top.digest} done")
                for tag in options.tags or ("",) * options.keep:
                    session.tag(tag, top)
                    if tag:
                        vertex.note(f"naming to {canonical(tag)} done")
            _share(options, planned, solver, session, network, progress)
        except BaseException:
            with suppress(LaminaError):  # the first error says more
                cache.settle()
            raise
        cache.settle()
        for tag in options.tags:
            note_image(store, "tag", top, tag)
        if options.tags or options.keep:
            note_image(store, "build", top)
        notes = tuple(dict.fromkeys(note for one in planned for note in one.notes))
        yield Built(top, images, tuple(solver.ran.values()), notes, definition.findings)


def _shared_caches(
    options: BuildOptions, planned: Sequence[Planned], network: RegistryAccess, progress: Progress
) -> list[SharedCache]:
    """The caches of ``--cache-from``. One that can't be read gives a warning."""
    found: list[SharedCache] = []
    if not options.cache_from:
        return found
    from lamina.build.solving import shared_cache

    for place in options.cache_from:
        may_fail = shared_cache.may_fail(place, lambda text: progress.tell(Warned(text)), always=True)
        with progress.vertex(f"importing cache manifest from {shared_cache.shown(place)}"), may_fail:
            found += shared_cache.read_cache(place, network, [one.platform for one in planned])
    return found


def _share(
    options: BuildOptions,
    planned: Sequence[Planned],
    solver: Solver,
    session: StoreSession,
    network: RegistryAccess,
    progress: Progress,
) -> None:
    """Write the caches of ``--cache-to``. Raises what a push raises."""
    if not options.cache_to:
        return
    from lamina.build.solving import shared_cache

    for place in options.cache_to:
        if place.kind == "inline":
            continue
        steps = solver.records if place.attributes.get("mode") == "max" else [one.step for one in planned]
        records = _own_records(solver, steps)
        may_fail = shared_cache.may_fail(place, lambda text: progress.tell(Warned(text)))
        with progress.vertex(f"exporting cache to {shared_cache.shown(place)}") as vertex, may_fail:
            cancel = solver.inputs.cancel
            shared_cache.write_cache(place, records, session, network, on_event=vertex.event, cancel=cancel)


def _own_records(solver: Solver, tops: Iterable[Step | None]) -> dict[str, Made | None]:
    """The records of the steps that made the layers of these."""
    found: dict[str, Made | None] = {}
    for top in tops:
        step = top
        while step is not None:
            found |= solver.records.get(step, {})
            step = step.below
    return found


def _is_inline(options: BuildOptions) -> bool:
    asked = options.arguments.get("BUILDKIT_INLINE_CACHE", "")
    return any(place.kind == "inline" for place in options.cache_to) or asked in ("1", "true")


@dataclass(frozen=True, slots=True)
class _Definition:
    """What is to be built. ``text``: of the Dockerfile, b"" without one. ``written``: the instructions for each
    platform. ``findings``: of the checks."""

    name: str
    text: bytes
    written: Mapping[Platform | None, Dockerfile]
    findings: tuple[Finding, ...]


def _read_definition(
    opener: _Opener, inputs: BuildInputs, platforms: Sequence[Platform | None], vertex: Vertex
) -> _Definition:
    """Read, parse and check the Dockerfile. Raises UsageError, NotFound."""
    from lamina.build.dockerfile.syntax import parse

    name, text = opener.dockerfile(inputs)
    vertex.note(f"transferring dockerfile: {human_size(len(text))} done")
    with _explained(text):
        dockerfile = parse(text, name)
        checked = opener.checked(dockerfile, inputs)
        if checked.fails:
            raise _refused(checked)
    return _Definition(name, text, dict.fromkeys(platforms, dockerfile), checked.findings)


@contextmanager
def _explained(text: bytes) -> Iterator[None]:
    """Put the text of the Dockerfile into the errors that are about it."""
    try:
        yield
    except (StepFailed, DockerfileError) as error:
        error.source = text.decode("utf-8", "replace")
        raise


def _refused(checked: Checked) -> DockerfileError:
    """The error for ``check=error=true``."""
    rules = ", ".join(dict.fromkeys(one.rule for one in checked.findings))
    first = checked.findings[0]
    return DockerfileError(
        f"the checks of the Dockerfile failed: {rules}",
        at=first.at,
        hint="see `lamina build --check`; # check=error=true makes findings errors",
    )


def _attested(
    session: StoreSession,
    planned: Sequence[Planned],
    images: Sequence[BuiltImage],
    options: BuildOptions,
    store: Store,
    definition: _Definition,
    began: float,
) -> list[Descriptor]:
    """The attestations that were asked for, as entries of the index. Raises Unsupported, SystemFailure."""
    if not options.attestations:
        return []
    from lamina.build.attest import Definition, write_attestation

    name = options.tags[0] if options.tags else "build"
    told = Definition(definition.name, definition.text, began)
    found = []
    for one, image in zip(planned, images, strict=True):
        union = store.stack_at(image.descriptor, image.platform, name)
        found.append(write_attestation(session, one, image, union, options, told))
    return found


def _from_recipe(
    recipe: Instructions, platform: Platform | None, bases: Bases, network: RegistryAccess, vertex: Vertex
) -> Dockerfile:
    """The instructions of a recipe. Raises what it raises, and what pulls and downloads raise."""
    wanted = platform or Platform.host()

    def stack(name: str) -> Stack:
        base = bases.resolve(name, wanted)
        return bases.stack(BaseStep(name=base.name, digest=base.digest, platform=wanted), vertex)

    def page(url: str) -> Mapping[str, object]:
        with network.download(url, accept=_INDEX_PAGE) as file:
            return load(file.read(MAX_INDEX_PAGE + 1), url, limit=MAX_INDEX_PAGE)

    return recipe.dockerfile(wanted, stack, page)


def load_dockerfile(
    context: str, options: BuildOptions, store: Store, network: RegistryAccess, *, cancel: Cancel | None = None
) -> tuple[Dockerfile, Checked]:
    """Read, parse and check the Dockerfile; nothing is built. Raises UsageError, NotFound."""
    from lamina.build.dockerfile.syntax import parse
    from lamina.build.progress import Progress
    from lamina.build.solving.solve import BuildInputs

    stop = Cancel(cancel)
    options = _completed(options)
    opener = _Opener(context, options, store, network, stop)
    inputs = BuildInputs(store, network, options, stop, Progress(ignore), opener.open)
    try:
        name, text = opener.dockerfile(inputs)
        with _explained(text):
            dockerfile = parse(text, name)
            return dockerfile, opener.checked(dockerfile, inputs)
    finally:
        inputs.close()
        stop.close()


def _completed(options: BuildOptions) -> BuildOptions:
    """The options with what the environment of this process says. Raises UsageError."""
    arguments = {}
    for name, value in options.arguments.items():
        value = os.environ.get(name) if value is None else value
        if value is not None:
            arguments[name] = value
    if options.attestations and options.oci is False:
        raise UsageError("docker's format has no attestations", hint="leave out --format docker, or the attestations")
    if options.network not in ("default", "none", "host"):
        raise UsageError(f"no network {options.network!r:.60} for a build", hint="use default, none or host")
    return replace(options, arguments=arguments)


class _Opener:
    """Opens the contexts of a build, and finds its Dockerfile.

    As in docker: a Dockerfile that is named for a directory of this host is a path of this host, which may be
    outside of the context; for any other context it is a path inside.
    """

    def __init__(
        self, place: str, options: BuildOptions, store: Store, network: RegistryAccess, cancel: Cancel
    ) -> None:
        self._place = place
        self._options = options
        self._store = store
        self._network = network
        self._cancel = cancel
        self._is_local = os.path.isdir(place)
        self._inside = "" if self._is_local and options.file else options.file
        """Where the Dockerfile is in the context."""
        self._ignore: bytes | None = None
        if options.ignore_file:
            self._ignore = _read(options.ignore_file)
            if self._ignore is None:
                raise NotFound(f"no such file: {options.ignore_file!r:.300}", hint="check the path of --ignorefile")

    def open(self, name: str) -> Context:
        """Open the context ``name``; "" is the build's own. Raises NotFound, and what ``open_context`` raises."""
        from lamina.build.files.contexts import open_context

        options = self._options
        return open_context(
            options.contexts[name] if name else self._place,
            store=self._store,
            network=self._network,
            cancel=self._cancel,
            stdin=None if name or options.file == "-" else options.stdin,
            dockerfile="" if name else self._inside,
            ignore=None if name else self._ignore,
        )

    def checked(self, dockerfile: Dockerfile, inputs: BuildInputs) -> Checked:
        """The findings of all checks. The ignore file is read if a check needs it. The variables of base images are
        known if the store has them. Raises UsageError."""
        from lamina.build.planning.checks import check
        from lamina.build.planning.plan import context_name
        from lamina.build.solving.bases import stored_config

        options = self._options
        contexts = {*map(context_name, options.contexts)}

        def config_of(name: str, platform: Platform) -> ImageConfig | None:
            replaced = context_name(name) in contexts
            return None if replaced else stored_config(self._store, self._network, name, platform)

        return check(
            dockerfile,
            arguments={name: value for name, value in options.arguments.items() if value is not None},
            target=options.target,
            platform=options.platforms[0] if options.platforms else None,
            config_of=config_of,
            is_ignored=(lambda path: inputs.context("").is_ignored(path)) if self._is_local else None,
        )

    def dockerfile(self, inputs: BuildInputs) -> tuple[str, bytes]:
        """The name and the text of the Dockerfile. Raises NotFound, UsageError."""
        options = self._options
        if options.dockerfile is not None:
            return options.file or NAMES[0], options.dockerfile
        if options.file == "-":
            if options.stdin is None:
                raise UsageError("there is no stdin to read a Dockerfile from", hint="name a file with --file")
            return NAMES[0], options.stdin.read(MAX_DOCKERFILE + 1)
        if self._is_local:
            return self._of_host(options.file)
        for name in (options.file,) if options.file else NAMES:
            try:
                return os.path.basename(name), inputs.context("").read(name)
            except PathNotFound:
                continue
        raise _missing(options.file)

    def _of_host(self, file: str) -> tuple[str, bytes]:
        names = (file,) if file else tuple(os.path.join(self._place, name) for name in NAMES)
        for path in names:
            text = _read(path, within="" if file else self._place)
            if text is None and file and not os.path.isabs(file):
                path = os.path.join(self._place, file)  # podman's rule, after docker's
                text = _read(path)
            if text is not None:
                if self._ignore is None:
                    self._ignore = _read(f"{path}.dockerignore", within=os.path.dirname(path) or os.curdir)
                return os.path.basename(path), text
        raise _missing(file)


def _read(path: str, *, within: str = "") -> bytes | None:
    """The content of a file of this host; None if there is none. ``within``: it was not named but found in this
    directory, so it must be a regular file that no symlink keeps elsewhere. Raises UsageError, SystemFailure."""
    with reported(path):
        try:
            descriptor = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            state = os.fstat(descriptor)
            if stat.S_ISDIR(state.st_mode):
                raise UsageError(f"{path!r:.300} is a directory", hint="name a file with --file")
            if within and not stat.S_ISREG(state.st_mode):
                raise UsageError(f"{path!r:.300} is not a regular file", hint="check who created it, or use --file")
            if within and not _is_within(path, within, state):
                raise UsageError(f"{path!r:.300} leads out of its directory", hint="use --file, if that is meant")
            os.set_blocking(descriptor, True)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_DOCKERFILE + 1)
        finally:
            os.close(descriptor)


def _is_within(path: str, directory: str, state: os.stat_result) -> bool:
    """Whether the open file with this state is in the directory, wherever symlinks lead."""
    real, top = os.path.realpath(path), os.path.realpath(directory)
    try:
        return os.path.commonpath((real, top)) == top and os.path.samestat(os.stat(real), state)
    except FileNotFoundError:
        return False


def _missing(file: str) -> NotFound:
    if file:
        return NotFound(f"no Dockerfile {file!r:.300}", hint="check the path of --file")
    return NotFound(f"no {' or '.join(NAMES)} in the context", hint="name it with --file")
