"""Builds without a Dockerfile: each method adds an instruction, and returns a new recipe (pure, but for wheels, whose
lock file is read when the build begins).

Words are taken as they are: a dollar sign is a dollar sign. ``build.planning.plan`` makes the same steps of these
instructions as of a Dockerfile's.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lamina.build import instructions as i
from lamina.errors import UsageError
from lamina.host.files import reported

if TYPE_CHECKING:
    from typing import Self

    from lamina.source.stack import Stack
    from lamina.spec.platform import Platform

_SPECIAL = re.compile(r"([\\$\"'])")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./*?~^-]+")
_OTHER = "recipe "
"""How an instruction names another recipe, before the number in ``origins``."""

Words = str | Sequence[str]
"""A command: one text for the shell, or a list of words without a shell."""


@dataclass(frozen=True, slots=True)
class Wheels:
    """Stands for the wheels of a lock file. ``path``: of this host."""

    path: str
    index: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """``base``: the name of an image, "scratch", or another recipe, of which this is a further stage. ``platform``:
    like ``linux/arm64``, "" for the build's."""

    base: str | Recipe = "scratch"
    platform: str = ""
    items: tuple[i.Instruction | Wheels, ...] = field(default=(), repr=False)
    origins: tuple[Recipe, ...] = field(default=(), repr=False)
    """The other recipes that ``copy`` reads from."""

    def copy(
        self,
        *sources: str,
        to: str,
        from_: str | Recipe = "",
        owner: str = "",
        mode: str = "",
        link: bool = False,
        parents: bool = False,
        exclude: Sequence[str] = (),
    ) -> Self:
        """Copy files of the context, or of ``from_``: an image, another recipe, or a named context. ``sources`` may
        be globs. ``to``: the target; with an ending slash it is a directory. ``owner``: ``user[:group]``. ``mode``:
        octal or symbolic, "" keeps the files' own."""
        origins = self.origins
        if isinstance(from_, str):
            name = from_
        else:
            origins = origins if from_ in origins else (*origins, from_)
            name = f"{_OTHER}{origins.index(from_)}"
        made = i.Copy(
            tuple(map(_literal, sources)),
            _literal(to),
            from_=name,
            chown=_literal(owner),
            chmod=_literal(mode),
            link=link,
            parents=parents,
            exclude=tuple(exclude),
            text=_line("COPY", *sources, to),
        )
        return replace(self._with(made), origins=origins)

    def write(self, path: str, content: str | bytes, *, owner: str = "", mode: str = "") -> Self:
        """Write one file."""
        name = path.rpartition("/")[2]
        if not name:
            raise UsageError(f"{path!r:.200} is not a file", hint="give the path of the file")
        text = content if isinstance(content, str) else content.decode("utf-8", "surrogateescape")
        made = i.Copy(
            (),
            _literal(path),
            documents=(i.HereDocument(name, text, expand=False),),
            chown=_literal(owner),
            chmod=_literal(mode),
            text=_line("COPY", f"<<{name}", path),
        )
        return self._with(made)

    def add(
        self,
        *sources: str,
        to: str,
        owner: str = "",
        mode: str = "",
        link: bool = False,
        exclude: Sequence[str] = (),
        checksum: str = "",
        unpack: bool | None = None,
    ) -> Self:
        """Copy files of the context, of an http address or of a git repository. ``unpack``: whether archives are
        unpacked; None: those of the context. ``checksum``: ``sha256:HEX`` of an address."""
        made = i.Add(
            tuple(map(_literal, sources)),
            _literal(to),
            chown=_literal(owner),
            chmod=_literal(mode),
            link=link,
            exclude=tuple(exclude),
            checksum=_literal(checksum),
            unpack=unpack,
            text=_line("ADD", *sources, to),
        )
        return self._with(made)

    def run(self, command: Words, *, mounts: Sequence[str] = (), network: str = "") -> Self:
        """Run a program: a text for the shell, or a list of words. ``mounts``: as ``RUN --mount`` takes them, like
        ``type=cache,target=/root/.cache``. ``network``: default, none or host."""
        made = i.Run(
            _command(command),
            mounts=tuple(map(_literal, mounts)),
            network=network,
            text=_line("RUN", *_words(command)),
        )
        return self._with(made)

    def env(self, values: Mapping[str, str] | None = None, **more: str) -> Self:
        """Set environment variables."""
        items = {**(values or {}), **more}
        return self._with(i.Env(_pairs(items), text=_line("ENV", *map("=".join, items.items()))))

    def label(self, values: Mapping[str, str] | None = None, **more: str) -> Self:
        """Set labels."""
        items = {**(values or {}), **more}
        return self._with(i.Label(_pairs(items), text=_line("LABEL", *map("=".join, items.items()))))

    def workdir(self, path: str) -> Self:
        """Set the working directory; it is made if it is missing."""
        return self._with(i.Workdir(_literal(path), text=_line("WORKDIR", path)))

    def user(self, name: str) -> Self:
        """Set the user, ``user[:group]``, for the programs that follow and for the image."""
        return self._with(i.User(_literal(name), text=_line("USER", name)))

    def expose(self, *ports: str | int) -> Self:
        """State the ports on which programs listen, like 80 or "53/udp"."""
        words = tuple(map(str, ports))
        return self._with(i.Expose(tuple(map(_literal, words)), text=_line("EXPOSE", *words)))

    def volume(self, *paths: str) -> Self:
        """State the directories that are volumes of each container."""
        return self._with(i.Volume(tuple(map(_literal, paths)), text=_line("VOLUME", *paths)))

    def entrypoint(self, command: Words) -> Self:
        """Set the program that the image runs."""
        return self._with(i.Entrypoint(_command(command), text=_line("ENTRYPOINT", *_words(command))))

    def cmd(self, command: Words) -> Self:
        """Set the default command, or the default arguments of the entrypoint."""
        return self._with(i.Cmd(_command(command), text=_line("CMD", *_words(command))))

    def shell(self, *words: str) -> Self:
        """Set the shell that ``run`` gives its texts to."""
        return self._with(i.Shell(words, text=_line("SHELL", *words)))

    def stop_signal(self, signal: str) -> Self:
        """Set the signal that ends the container's program."""
        return self._with(i.StopSignal(_literal(signal), text=_line("STOPSIGNAL", signal)))

    def healthcheck(
        self,
        command: Words | None,
        *,
        interval: str = "",
        timeout: str = "",
        start_period: str = "",
        start_interval: str = "",
        retries: int | None = None,
    ) -> Self:
        """Set the health check; None: no check, not even the base's. Times like ``30s``."""
        made = i.Healthcheck(
            None if command is None else _command(command),
            interval,
            timeout,
            start_period,
            start_interval,
            "" if retries is None else str(retries),
            text=_line("HEALTHCHECK", *(("NONE",) if command is None else ("CMD", *_words(command)))),
        )
        return self._with(made)

    def wheels(self, lock: str | os.PathLike[str], *, index: str = "") -> Self:
        """Install the Python wheels of a lock file (uv.lock, pylock.toml or requirements.txt with exact versions), a
        layer for each. No program runs. The base must be an image with Python. ``index``: where requirements.txt
        looks for wheels (default: PIP_INDEX_URL, else PyPI)."""
        from lamina.build.wheels.pins import INDEX

        chosen = index or os.environ.get("PIP_INDEX_URL", "") or INDEX
        return self._with(Wheels(os.path.abspath(os.fspath(lock)), chosen if chosen.endswith("/") else f"{chosen}/"))

    def dockerfile(
        self, platform: Platform, stack: Callable[[str], Stack], page: Callable[[str], Mapping[str, object]]
    ) -> i.Dockerfile:
        """As ``options.Instructions``. Raises what reading a lock file raises."""
        stages: dict[Recipe, i.Stage] = {}
        _add_stage(self, stages, _Tools(platform, stack, page))
        return i.Dockerfile((), (), tuple(stages.values()))

    def _with(self, item: i.Instruction | Wheels) -> Self:
        return replace(self, items=(*self.items, item))


@dataclass(frozen=True, slots=True)
class _Tools:
    """What a recipe needs to become instructions; as the arguments of ``Recipe.dockerfile``."""

    platform: Platform
    stack: Callable[[str], Stack]
    page: Callable[[str], Mapping[str, object]]


def _add_stage(recipe: Recipe, stages: dict[Recipe, i.Stage], tools: _Tools) -> str:
    """Add the stage of a recipe after those that it needs; its name."""
    known = stages.get(recipe)
    if known is not None:
        return known.base.name
    base = recipe.base if isinstance(recipe.base, str) else _add_stage(recipe.base, stages, tools)
    origins = [_add_stage(origin, stages, tools) for origin in recipe.origins]
    found: list[i.Instruction] = []
    for number, item in enumerate(recipe.items, 1):
        at = i.At("Build", number, number)
        if isinstance(item, Wheels):
            if not isinstance(recipe.base, str):
                raise UsageError("wheels need a base image, not another recipe", hint="install the wheels first")
            found += _wheels(item, recipe.base, tools, at)
        elif isinstance(item, i.Copy) and item.from_.startswith(_OTHER):
            origin = origins[int(item.from_.removeprefix(_OTHER))]
            found.append(replace(item, from_=origin, at=at))
        else:
            found.append(replace(item, at=at))
    name = f"recipe-{len(stages) + 1}"
    start = i.From(_literal(base), _literal(recipe.platform), name, text=_line("FROM", base), at=i.At("Build", 0, 0))
    stages[recipe] = i.Stage(start, tuple(found))
    return name


def _wheels(wheels: Wheels, base: str, tools: _Tools, at: i.At) -> list[i.Instruction]:
    """An instruction for each wheel."""
    from lamina.build.wheels import require_extra

    require_extra()
    from lamina.build.wheels.pins import choose, read_lock
    from lamina.build.wheels.python_target import find_python

    def read(path: str) -> bytes:
        with reported(path), open(path, "rb") as file:
            return file.read()

    def page(url: str) -> Mapping[str, Any]:
        if url not in pages:
            pages[url] = tools.page(url)
        return pages[url]

    pages: dict[str, Mapping[str, Any]] = {}
    python = find_python(tools.stack(base), tools.platform)
    pins = read_lock(read(wheels.path), wheels.path, python, include=read, page=page, index=wheels.index)
    ranks = {tag: rank for rank, tag in enumerate(python.tags())}
    found: list[i.Instruction] = []
    for pin in pins:
        file = choose(pin, python, ranks)
        made = i.Wheel(
            pin.name,
            file.name,
            file.url if "://" in file.url else os.path.join(os.path.dirname(wheels.path), file.url),
            file.sha256,
            file.size,
            python.full_version,
            python.executable,
            python.site,
            python.scripts,
            python.data,
            text=f"WHEEL {pin.name}=={pin.version}",
            at=at,
        )
        found.append(made)
    return found


def _literal(text: str) -> str:
    """The text such that the expansion of variables gives it back."""
    return _SPECIAL.sub(r"\\\1", text)


def _pairs(items: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((_literal(key), _literal(value)) for key, value in items.items())


def _command(command: Words) -> i.Command:
    return i.Command((command,), True) if isinstance(command, str) else i.Command(tuple(command), False)


def _words(command: Words) -> Sequence[str]:
    return (command,) if isinstance(command, str) else command


def _line(name: str, *words: str) -> str:
    """The instruction as people would write it."""
    if name in ("RUN", "CMD", "ENTRYPOINT") and len(words) == 1:
        return f"{name} {words[0]}"
    return " ".join([name, *(word if _PLAIN_WORD.fullmatch(word) else shlex.quote(word) for word in words)])
