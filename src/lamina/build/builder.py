"""One call builds an image: read the Dockerfile, plan, solve, publish."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lamina.build.options import BuildOptions, Built
from lamina.errors import PathNotFound, UsageError
from lamina.events import Cancel, OnEvent, Warned, ignore

if TYPE_CHECKING:
    from lamina.build.instructions import Dockerfile
    from lamina.build.protocols import Context
    from lamina.build.solve import BuildInputs
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess

NAMES = ("Dockerfile", "Containerfile")
"""The Dockerfile's names in a context, the first that is there."""
MAX_DOCKERFILE = 16 << 20


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
    """Build an image into the store. ``context``: a directory, an address, a git repository, a tar, "-" for stdin, or ""
    for none.

    The block gets the image. It has its names already, and while the block runs it is protected even without one:
    what else is to be made of it (an archive, a push) is made from the store in the block. ``on_event`` gets
    ``build.events`` and the events of pulls.

    Raises ``build.errors.StepFailed`` (a step failed), UsageError (the Dockerfile, an option), NotFound, Cancelled,
    and what pulls raise.
    """
    from lamina.build import copy_files, run_program
    from lamina.build.bases import Bases
    from lamina.build.cache import Cache
    from lamina.build.contexts import open_context
    from lamina.build.plan import plan
    from lamina.build.progress import Progress
    from lamina.build.result import write_image, write_index
    from lamina.build.solve import BuildInputs, Executors, Solver
    from lamina.spec.platform import Platform

    options = _completed(options)
    progress = Progress(on_event)
    stop = Cancel(cancel)
    cache = Cache(store, lambda text: progress.tell(Warned(text)))

    def open_named(name: str, vertex: object) -> Context:
        place = options.contexts[name]
        return open_context(place, store=store, network=network, cancel=stop, stdin=options.stdin)

    with ExitStack() as stack:
        stack.callback(stop.close)
        session = stack.enter_context(store.session("build"))
        inputs = BuildInputs(store, network, options, stop, progress, open_named)
        stack.callback(inputs.close)
        dockerfile = _dockerfile(context, options, inputs, progress)
        bases = Bases(store, session, network, progress, stop, pull=options.pull)
        platforms = options.platforms or (None,)
        planned = [plan(dockerfile, options, bases.resolve, platform=one) for one in platforms]
        inputs.epoch = planned[0].epoch
        executors = Executors(copy_files, run_program.ran)
        place = f"{os.path.abspath(context) if os.path.isdir(context) else context}\n{options.file}"
        solver = Solver(session, inputs, executors, bases, cache, progress, options, place)
        try:
            solver.solve(planned)
            with progress.vertex("exporting to image") as vertex:
                images = tuple(write_image(session, one, inputs.results, options) for one in planned)
                several = len(options.platforms) > 1
                top = write_index(session, images, options) if several else images[0].descriptor
                for name in options.tags or ("",) * options.keep:
                    session.tag(name, top)
                    vertex.log(f"naming to {name}\n".encode() if name else b"")
        finally:
            cache.keep()
        notes = tuple(dict.fromkeys(note for one in planned for note in one.notes))
        yield Built(top, images, tuple(solver.ran.values()), notes)


def _completed(options: BuildOptions) -> BuildOptions:
    """The options with what the environment of this process says. Raises UsageError."""
    arguments = {}
    for name, value in options.arguments.items():
        value = os.environ.get(name) if value is None else value
        if value is not None:
            arguments[name] = value
    if options.network not in ("default", "none", "host"):
        raise UsageError(f"no network {options.network!r:.60} for a build", hint="use default, none or host")
    return replace(options, arguments=arguments)


def read_dockerfile(context: str, options: BuildOptions, store: Store, network: RegistryAccess) -> Dockerfile:
    """Read and parse the Dockerfile only, for `--check`. Raises UsageError, NotFound."""
    raise NotImplementedError


def _dockerfile(context: str, options: BuildOptions, inputs: BuildInputs, progress: object) -> Dockerfile:
    raise NotImplementedError
