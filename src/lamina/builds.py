"""The public class ``Build``: images from Dockerfiles, or step by step without one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.build.recipe import Recipe
from lamina.errors import UsageError
from lamina.events import Cancel, OnEvent, ignore
from lamina.image import Image, open_with
from lamina.places import open_store, settings_of
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.build.options import BuildOptions
    from lamina.settings import Settings


@dataclass(frozen=True, slots=True)
class Build(Recipe):
    """An image that is described step by step: each method returns a new ``Build``, and ``build`` makes the image.

    >>> app = lamina.Build("python:3.12").wheels("uv.lock").copy("src", to="/app/").cmd(["python3", "/app/main.py"])
    >>> image = app.build("my/app:1", context=".")

    The steps are those of a Dockerfile: they use the same cache and give the same layers. Words are taken as they
    are: there are no variables.
    """

    def build(
        self,
        *tags: str,
        context: str | os.PathLike[str] = "",
        root: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        platforms: Sequence[str] = (),
        secrets: Mapping[str, bytes] | None = None,
        no_cache: bool = False,
        pull: bool = False,
        epoch: int | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> Image:
        """Make the image in the store, and open it. ``tags``: its names; without one it is listed without a name.
        ``context``: where ``copy`` and ``add`` take files from. ``root`` and ``settings`` as for ``lamina.open``.
        ``platforms``: several make an index; the image of this host's platform, or of the first, is opened.
        ``secrets``: content by id. ``pull``: ask the registry even for a base that the store has. ``epoch``:
        SOURCE_DATE_EPOCH, in seconds. ``on_event`` gets ``lamina.build.events``. Raises
        ``lamina.build.errors.StepFailed``, UsageError, NotFound, Cancelled, and what pulls raise."""
        from lamina.build.options import BuildOptions, Secret

        options = BuildOptions(
            recipe=self,
            tags=tuple(tags),
            platforms=_platforms(platforms),
            secrets=tuple(Secret(name, value=value) for name, value in (secrets or {}).items()),
            no_cache=no_cache,
            pull=pull,
            epoch=epoch,
        )
        return _built(os.fspath(context), options, settings or settings_of(root), on_event, cancel)

    @staticmethod
    def dockerfile_in(
        context: str | os.PathLike[str],
        *tags: str,
        file: str = "",
        target: str = "",
        args: Mapping[str, str] | None = None,
        contexts: Mapping[str, str] | None = None,
        root: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        platforms: Sequence[str] = (),
        secrets: Mapping[str, bytes] | None = None,
        no_cache: bool = False,
        pull: bool = False,
        epoch: int | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> Image:
        """Build the Dockerfile of a context, as `lamina build` does, and open the image. ``file``: the Dockerfile, if
        it has another name. ``target``: the stage. ``args``: values of ARGs. ``contexts``: further contexts by name.
        The other arguments are those of ``build``."""
        from lamina.build.options import BuildOptions, Secret

        options = BuildOptions(
            file=file,
            target=target,
            tags=tuple(tags),
            arguments=dict(args or {}),
            contexts=dict(contexts or {}),
            platforms=_platforms(platforms),
            secrets=tuple(Secret(name, value=value) for name, value in (secrets or {}).items()),
            no_cache=no_cache,
            pull=pull,
            epoch=epoch,
        )
        return _built(os.fspath(context), options, settings or settings_of(root), on_event, cancel)


def _platforms(words: Iterable[str]) -> tuple[Platform, ...]:
    if isinstance(words, str):
        raise UsageError(f"platforms is {words!r:.60}, not a list", hint="give a list of names")
    return tuple(map(Platform.parse, words))


def _built(
    context: str, options: BuildOptions, settings: Settings, on_event: OnEvent, cancel: Cancel | None
) -> Image:
    from dataclasses import replace

    from lamina.build.builder import built
    from lamina.transfer.connect import RegistryAccess

    options = replace(options, runtime=settings.runtime, upper_dir=settings.upper_dir or "")
    network = RegistryAccess(settings, on_event=on_event, cancel=cancel)
    with built(context, options, open_store(settings), network, on_event=on_event, cancel=cancel) as made:
        wanted = settings.wanted_platform()
        image = next((one for one in made.images if wanted.accepts(one.platform)), made.images[0])
        return open_with(str(image.descriptor.digest), settings)
