"""The plan of a build (pure): instructions to a graph of steps, the config and the history.

It follows BuildKit's Dockerfile frontend. Only the stages that the target needs are planned. Base images are looked
up by ``resolve``, so nothing here touches a disk or a network.
"""

from __future__ import annotations

import datetime
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, NoReturn, TypedDict

from lamina.build import instructions as i
from lamina.build.addresses import git_repository, is_address, without_credentials
from lamina.build.dockerfile.arguments import PROXIES, declare, platform_arguments, unused_arguments
from lamina.build.dockerfile.syntax import MAX_INSTRUCTIONS, parse_instruction
from lamina.build.dockerfile.words import Total, expand, expand_document, expand_known, expand_words
from lamina.build.errors import DockerfileError
from lamina.build.options import BuildOptions
from lamina.build.planning.image_settings import ImageSettings
from lamina.build.run_mounts import is_insecure, network, origin_of, run_mounts
from lamina.build.steps import (
    BaseStep,
    CopyStep,
    DirectoryStep,
    FromContext,
    FromStep,
    Inline,
    Planned,
    Remote,
    RunMount,
    RunStep,
    Source,
    Step,
    WheelStep,
)
from lamina.errors import LaminaError, UsageError
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.text import nearest

SCRATCH = "scratch"
"""Arguments that RUN gets without an ARG; they are in no key and in no history."""
_NOT_IN_ENV = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_INDEX = re.compile(r"[+-]?[0-9]+")
_IMAGES = ("docker-image://", "oci-layout://")


@dataclass(frozen=True, slots=True)
class Base:
    """An image that exists: ``name`` in full, with its tag; ``digest`` of its manifest."""

    name: str
    digest: str
    config: ImageConfig


Resolve = Callable[[str, Platform], Base]
"""Look up an image: a reference, or a place that begins with ``docker-image://`` or ``oci-layout://``. Raises
LaminaError."""


def plan(
    dockerfile: i.Dockerfile,
    options: BuildOptions,
    resolve: Resolve,
    *,
    platform: Platform | None = None,
    build_platform: Platform | None = None,
) -> Planned:
    """Plan the target for one platform (None: the host's, and whatever the base is for). ``build_platform``: where
    programs run by nature. ``options.arguments`` have their values already.

    Raises DockerfileError (an instruction can't be planned), UsageError (no such target), and what ``resolve``
    raises.
    """
    try:
        return _Planner(dockerfile, options, resolve, platform, build_platform or Platform.host()).planned()
    except DockerfileError as error:
        lines = dockerfile.source.split("\n")
        if error.at.line <= len(lines):
            error.add_line(without_any_credentials(lines[error.at.line - 1].rstrip("\r")))
        raise


class _Stage:
    """One stage while it is planned. ``env``: what the next instruction sees: the image's environment and ARGs."""

    def __init__(self, number: int, name: str, stage: i.Stage) -> None:
        self.number = number
        self.name = name
        self.at = stage.base.at
        self.platform: Platform
        self.image: ImageSettings
        self.step: Step | None = None
        self.env: dict[str, str] = {}
        self.arguments: dict[str, str] = {}
        self.has_cmd = False
        self.no_cache = False
        self.triggers: list[str] = []
        self.is_trigger = False
        self.counted = 0
        self.total = 0

    def set_env(self, items: Iterable[tuple[str, str]]) -> None:
        """Programs see variables in the order of their last assignment, as with BuildKit."""
        for name, value in items:
            self.env.pop(name, None)
            self.env[name] = value


class _Planner:
    def __init__(
        self,
        dockerfile: i.Dockerfile,
        options: BuildOptions,
        resolve: Resolve,
        platform: Platform | None,
        build_platform: Platform,
    ) -> None:
        self._dockerfile = dockerfile
        self._options = options
        self._resolve = resolve
        self._asked = platform
        self._target = platform or build_platform
        self._escape = dockerfile.escape
        self._total = Total()
        self._arguments = {key: value for key, value in options.arguments.items() if value is not None}
        if options.epoch is not None:
            self._arguments.setdefault("SOURCE_DATE_EPOCH", str(options.epoch))
        self._contexts = {context_name(name): _Named(name, place) for name, place in options.contexts.items()}
        self._stages: list[_Stage | None] = [None] * len(dockerfile.stages)
        self._names = {stage.base.name: number for number, stage in enumerate(dockerfile.stages) if stage.base.name}
        self._bases: dict[tuple[str, Platform], Base] = {}
        self._steps: dict[tuple[str, Platform], BaseStep] = {}
        self._notes: dict[str, None] = dict.fromkeys(dockerfile.notes)
        self._declared: set[str] = set()  # also by ONBUILD of a base
        self.epoch: int | None = None
        self._number = self._target_number()
        self._globals = self._global_arguments(build_platform)
        self._epoch = self._epoch_text()

    def planned(self) -> Planned:
        for number in sorted(self._needed()):
            self._stage(number)
        stage = self._stage(self._number)
        for directive in self._dockerfile.directives:
            if directive.name == "syntax":
                self._notes[f"syntax={directive.value} is not fetched: lamina reads the Dockerfile itself"] = None
        for name in unused_arguments(
            self._dockerfile, self._options.arguments, self._declared | self._globals.keys()
        ):
            self._notes[f"--build-arg {name} is not used: no ARG declares it"] = None
        platform = stage.image.platform
        if self._asked is not None:
            variant = self._asked.variant
            same = (self._asked.os, self._asked.architecture) == (platform.os, platform.architecture)
            platform = replace(self._asked, variant=variant or (platform.variant if same else ""))
        config = stage.image.config(platform.normalized(), self._options.labels)
        return Planned(
            stage.name, stage.step, config, tuple(stage.image.history), platform, tuple(self._notes), self.epoch
        )

    # --- stages

    def _target_number(self) -> int:
        stages = self._dockerfile.stages
        target = self._options.target
        if not stages:
            raise UsageError("the Dockerfile has no stage", hint="begin it with FROM")
        if not target:
            return len(stages) - 1
        found = self._names.get(target.lower())
        if found is None and _INDEX.fullmatch(target) and 0 <= int(target) < len(stages):
            found = int(target)
        if found is None:
            near = nearest(target.lower(), self._names)
            known = f"did you mean {near[0]!r}?" if near else "name a stage (FROM ... AS name) or its number from 0"
            raise UsageError(f"no stage {target!r:.100} in the Dockerfile", hint=known)
        return found

    def _needed(self) -> set[int]:
        """The numbers of the stages that the target needs, as far as the Dockerfile says it."""
        needed: set[int] = set()
        waiting = [self._number]
        while waiting:
            number = waiting.pop()
            if number in needed:
                continue
            needed.add(number)
            stage = self._dockerfile.stages[number]
            if self._context_of(stage.base.name) is not None:
                continue
            base = self._base_stage(number, self._expanded_base(stage.base))
            waiting += [] if base is None else [base]
            for instruction in stage.instructions:
                for name in self._origins(instruction):
                    found = self._earlier(number, name, instruction.at)
                    waiting += [] if found is None else [found]
        return needed

    def _origins(self, instruction: i.Instruction) -> list[str]:
        if isinstance(instruction, i.Copy):
            return [instruction.from_] if instruction.from_ else []
        if isinstance(instruction, i.Run):
            with _located(instruction.at):
                return [name for name in map(origin_of, instruction.mounts) if name and name != SCRATCH]
        return []

    def _earlier(self, number: int, name: str, at: i.At, *, by_number: bool = True) -> int | None:
        """The stage that ``--from=name`` means; None: it is an image or a context."""
        if by_number and _INDEX.fullmatch(name):
            found = int(name)
            if not 0 <= found < len(self._stages):
                _fail(at, f"no stage has the number {name}", "stages are counted from 0")
        else:
            known = self._names.get(name.lower())
            if known is None:
                return None
            found = known
        if found >= number:
            where = "itself" if found == number else "a later stage"
            _fail(at, f"the stage copies from {where} ({name})", "define the stage above the one that uses it")
        return found

    def _base_stage(self, number: int, name: str) -> int | None:
        """The stage that FROM names: the last one of that name above."""
        for above in range(number - 1, -1, -1):
            if self._dockerfile.stages[above].base.name == name.lower():
                return above
        return None

    def _expanded_base(self, base: i.From) -> str:
        with _located(base.at):
            name = self._expanded(base.image, self._globals)
        if not name:
            _fail(
                base.at, f"the name of the base is empty: {base.image}", "give the ARG a default, or use --build-arg"
            )
        return name

    def _stage(self, number: int) -> _Stage:
        known = self._stages[number]
        if known is not None:
            return known
        written = self._dockerfile.stages[number]
        name = written.base.name or (f"stage-{number}" if len(self._stages) > 1 else "")
        stage = _Stage(number, name, written)
        filters = {one.lower() for one in self._options.no_cache_filter}
        stage.no_cache = self._options.no_cache or bool(filters & {written.base.name, str(number)} - {""})
        with _located(stage.at):
            stage.platform = self._platform(written.base)
        context = self._context_of(written.base.name)
        base_name = "" if context else self._expanded_base(written.base)
        base = None if context else self._base_stage(number, base_name)
        if context:
            self._from_image(stage, "", context)
            commands: tuple[i.Instruction, ...] = ()
        else:
            if base is not None:
                self._from_stage(stage, self._stage(base))
            else:
                self._from_image(stage, base_name, self._context_of(base_name))
            commands = written.instructions
        triggers = self._parsed_triggers(stage)
        stage.total = stage.counted + sum(
            isinstance(one, (i.Add, i.Copy, i.Run, i.Workdir, i.Wheel)) for one in (*triggers, *commands)
        )
        self._name_base(stage)
        for one in triggers:
            stage.is_trigger = True
            self._dispatch(stage, one)
        stage.is_trigger = False
        for one in commands:
            self._dispatch(stage, one)
        self._stages[number] = stage
        return stage

    def _platform(self, base: i.From) -> Platform:
        if not base.platform:
            return self._target
        text = self._expanded(base.platform, self._globals)
        if not text:
            raise UsageError(f"the platform is empty: {base.platform}", hint="give the ARG a value, like linux/amd64")
        return Platform.parse(text)

    def _from_stage(self, stage: _Stage, base: _Stage) -> None:
        stage.platform = base.platform
        stage.image = base.image.inherited()
        stage.step = base.step
        stage.env = dict(base.env)
        stage.set_env(stage.image.env)
        stage.arguments = dict(base.arguments)
        written = self._dockerfile.stages[base.number].instructions
        stage.triggers = [one.trigger for one in written if isinstance(one, i.OnBuild)]

    def _from_image(self, stage: _Stage, name: str, context: _Named | None) -> None:
        """Begin a stage on an image, on the files of a context, or on nothing."""
        if context is not None and not context.is_image:
            stage.image = ImageSettings(None, stage.platform, epoch=self._epoch)
            stage.step = self._whole_context(context.name, stage.platform, stage.at)
            stage.image.note(f"FROM {context.name}", layer=True)
        elif (context.image if context else name) == SCRATCH:
            stage.image = ImageSettings(None, stage.platform, epoch=self._epoch)
        else:
            with _located(stage.at):
                base = self._base(context.place if context else _written(name), stage.platform)
                stage.image = ImageSettings(base.config, base.config.stated_platform, epoch=self._epoch)
            stage.triggers = stage.image.take_triggers()
            stage.counted = 1
            stage.step = self._base_step(base, stage.platform, stage.at, stage)
        stage.env = dict(stage.image.env)

    def _base(self, place: str, platform: Platform) -> Base:
        """Look up an image once. Raises what ``resolve`` raises."""
        found = self._bases.get((place, platform))
        if found is None:
            found = self._bases[place, platform] = self._resolve(place, platform)
        return found

    def _base_step(self, base: Base, platform: Platform, at: i.At, stage: _Stage | None = None) -> BaseStep | None:
        """The step of an image; None if it has no layers."""
        if not base.config.diff_ids:
            return None
        found = self._steps.get((base.name, platform))
        if found is None:
            text = f"FROM {base.name}@{base.digest}"
            found = self._steps[base.name, platform] = BaseStep(
                name=base.name,
                digest=base.digest,
                at=at,
                text=text,
                label=text,
                stage=stage.name if stage else "",
                platform=platform,
            )
        return found

    def _whole_context(self, name: str, platform: Platform, at: i.At) -> CopyStep:
        label = f"[context {name}] load from client"
        source = FromContext(name, ("/",))
        return CopyStep(at=at, text=f"FROM {name}", label=label, platform=platform, sources=(source,), target="/")

    def _context_of(self, name: str) -> _Named | None:
        if not name or name.lower() in (SCRATCH, "context"):
            return None
        return self._contexts.get(context_name(name))

    def _origin(self, stage: _Stage, name: str, at: i.At, *, by_number: bool = True) -> Step | str:
        """What ``--from=name`` means: the last step of a stage, an image, or the name of a context of files. A union
        without layers is ``BaseStep`` "scratch"."""
        number = self._earlier(stage.number, name, at, by_number=by_number)
        if number is not None:
            step: Step | None = self._stage(number).step
        else:
            context = self._context_of(name)
            if context is not None and not context.is_image:
                return context.name
            if (context.image if context else name) == SCRATCH:
                step = None
            else:
                with _located(at):
                    base = self._base(context.place if context else _written(name), self._target)
                step = self._base_step(base, self._target, at)
        return step or BaseStep(name=SCRATCH, digest="", at=at, text="FROM scratch", platform=stage.platform)

    def _parsed_triggers(self, stage: _Stage) -> list[i.Instruction]:
        if len(stage.triggers) > MAX_INSTRUCTIONS:
            text = f"the base has more than {MAX_INSTRUCTIONS:,} triggers (ONBUILD)"
            raise DockerfileError(text, at=stage.at, hint="choose another base")
        found = []
        for trigger in stage.triggers:
            with _located(stage.at):
                found.append(parse_instruction(trigger, stage.at))
        return found

    # --- names of progress

    def _name_base(self, stage: _Stage) -> None:
        """Name the step that the base of the stage is, if this stage is the first that uses it."""
        if stage.counted and isinstance(stage.step, BaseStep) and stage.step.label == stage.step.text:
            key = (stage.step.name, stage.platform)
            stage.counted = 0
            step = replace(stage.step, label=self._label(stage, stage.step.text))
            stage.step = self._steps[key] = step

    def _label(self, stage: _Stage, text: str) -> str:
        """``[build 2/5] RUN make``."""
        stage.counted += 1
        words = [str(stage.platform)] if len(self._options.platforms) > 1 else []
        words += [stage.name] if stage.name else []
        words.append(f"{stage.counted:{len(str(stage.total))}}/{stage.total}")
        return f"[{' '.join(words)}] {'ONBUILD ' if stage.is_trigger else ''}{text}"

    def _shown(self, stage: _Stage, instruction: i.Instruction) -> str:
        """The instruction for people: variables replaced, no credentials."""
        text = without_any_credentials(instruction.text)
        try:
            text = expand_known(text, stage.env.get, self._escape)
        except UsageError:
            pass  # it is only shown
        name, space, rest = without_any_credentials(text).partition(" ")
        return f"{name.upper()}{space}{rest}"

    # --- arguments and words

    def _global_arguments(self, build: Platform) -> dict[str, str]:
        found = platform_arguments(self._dockerfile, self._options.target, self._target, build, self._arguments)
        for arg in self._dockerfile.arguments:
            with _located(arg.at):
                declare(found, arg, self._arguments, self._escape)
        return found

    def _epoch_text(self) -> str | None:
        text = self._arguments.get("SOURCE_DATE_EPOCH") or self._globals.get("SOURCE_DATE_EPOCH", "")
        if not text:
            return None
        try:
            moment = datetime.datetime.fromtimestamp(int(text), datetime.UTC)
        except (ValueError, OverflowError, OSError):
            raise UsageError(
                f"SOURCE_DATE_EPOCH is {text!r:.100}, not seconds since 1970", hint="give a number, like 1700000000"
            ) from None
        self.epoch = int(text)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _expanded(self, text: str, env: Mapping[str, str]) -> str:
        return self._total.count(expand(text, env.get, self._escape))

    def _document(self, document: i.HereDocument, env: Mapping[str, str]) -> str:
        return self._total.count(expand_document(document.content, env.get) if document.expand else document.content)

    # --- instructions

    def _dispatch(self, stage: _Stage, instruction: i.Instruction) -> None:
        with _located(instruction.at):
            self._HANDLERS[type(instruction)](self, stage, instruction)

    def _arg(self, stage: _Stage, arg: i.Arg) -> None:
        shown = []
        for name, default in arg.items:
            self._declared.add(name)
            if name in self._arguments:
                value: str | None = self._arguments[name]
            elif default is not None:
                value = self._expanded(default, stage.env)
            else:
                value = self._globals.get(name)
            if value is not None and name not in _NOT_IN_ENV:
                stage.set_env([(name, value)])
            stage.arguments[name] = value or ""
            shown.append(name if value is None else f"{name}={value}")
        stage.image.note(f"ARG {' '.join(shown)}")

    def _env(self, stage: _Stage, env: i.Env) -> None:
        items = self._pairs(stage, env.items)
        stage.set_env(items)
        stage.image.set_env(items)

    def _labels(self, stage: _Stage, label: i.Label) -> None:
        stage.image.set_labels(self._pairs(stage, label.items))

    def _pairs(self, stage: _Stage, items: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """All of one line see the values that were set before it."""
        return [(self._expanded(key, stage.env), self._expanded(value, stage.env)) for key, value in items]

    def _maintainer(self, stage: _Stage, maintainer: i.Maintainer) -> None:
        stage.image.set_maintainer(maintainer.name)

    def _user(self, stage: _Stage, user: i.User) -> None:
        stage.image.set_user(self._expanded(user.name, stage.env))

    def _volume(self, stage: _Stage, volume: i.Volume) -> None:
        stage.image.add_volumes([self._expanded(path, stage.env) for path in volume.paths])

    def _expose(self, stage: _Stage, expose: i.Expose) -> None:
        words = [word for port in sorted(expose.ports) for word in expand_words(port, stage.env.get, self._escape)]
        stage.image.add_ports(words)

    def _stop_signal(self, stage: _Stage, stop: i.StopSignal) -> None:
        stage.image.set_stop_signal(self._expanded(stop.signal, stage.env))

    def _shell(self, stage: _Stage, shell: i.Shell) -> None:
        stage.image.set_shell(shell.words)

    def _healthcheck(self, stage: _Stage, check: i.Healthcheck) -> None:
        stage.image.set_healthcheck(check)

    def _cmd(self, stage: _Stage, cmd: i.Cmd) -> None:
        stage.image.set_cmd(self._command_line(stage, cmd.command))
        stage.has_cmd = True

    def _entrypoint(self, stage: _Stage, entrypoint: i.Entrypoint) -> None:
        stage.image.set_entrypoint(self._command_line(stage, entrypoint.command), keep_cmd=stage.has_cmd)

    def _on_build(self, stage: _Stage, on_build: i.OnBuild) -> None:
        stage.image.add_trigger(on_build.trigger)

    def _command_line(self, stage: _Stage, command: i.Command) -> tuple[str, ...]:
        return stage.image.with_shell(" ".join(command.words)) if command.is_shell else command.words

    def _workdir(self, stage: _Stage, workdir: i.Workdir) -> None:
        image = stage.image
        path = self._expanded(workdir.path, stage.env) or image.workdir or "/"
        if not path.startswith("/"):
            path = posixpath.normpath(posixpath.join("/", image.workdir, path))
        makes = path.strip("/") not in ("", ".")
        if makes:
            stage.step = DirectoryStep(
                below=stage.step,
                path=path,
                owner=image.user,
                **self._common(stage, workdir),
            )
        image.set_workdir(path, layer=makes)

    def _common(self, stage: _Stage, instruction: i.Instruction) -> _Common:
        shown = self._shown(stage, instruction)
        return {
            "at": instruction.at,
            "text": shown,
            "label": self._label(stage, shown),
            "stage": stage.name,
            "platform": stage.platform,
            "no_cache": stage.no_cache,
        }

    def _copy(self, stage: _Stage, copy: i.Copy | i.Add) -> None:
        is_add = isinstance(copy, i.Add)
        name = "ADD" if is_add else "COPY"
        owner, mode = self._expanded(copy.chown, stage.env), self._expanded(copy.chmod, stage.env)
        words = [self._expanded(source, stage.env) for source in copy.sources]
        target = self._expanded(copy.target, stage.env)
        documents = [Inline(one.name, _bytes(self._document(one, stage.env))) for one in copy.documents]
        sources = self._added(stage, copy, words) if isinstance(copy, i.Add) else self._copied(stage, copy, words)
        parents = isinstance(copy, i.Copy) and copy.parents
        stage.step = CopyStep(
            below=stage.step,
            sources=(*sources, *documents),
            target=_below(stage.image.workdir, target),
            owner=owner,
            mode=mode,
            link=copy.link and not mode,  # as in BuildKit: --chmod makes it an ordinary copy
            parents=parents,
            exclude=copy.exclude,
            unpack=copy.unpack if isinstance(copy, i.Add) else False,
            is_add=is_add,
            **self._common(stage, copy),
        )
        shown = [name, *["--parents"] * parents]
        shown += [f"--chown={owner}"] if owner else []
        shown += [f"--chmod={mode}"] if mode else []
        shown += [*map(without_credentials, words), *(f"<<{one.name}" for one in documents), target]
        stage.image.note(f"{' '.join(shown)} # buildkit", layer=True)

    def _copied(self, stage: _Stage, copy: i.Copy, words: Sequence[str]) -> list[Source]:
        for word in words:
            if is_address(word) or git_repository(word) is not None:
                raise UsageError(f"COPY can't fetch {without_credentials(word)!r:.200}", hint="use ADD")
        if not words:
            return []
        if not copy.from_:
            return [FromContext("", tuple(words))]
        if "$" in copy.from_:
            raise UsageError(
                f"--from={copy.from_} holds a variable, and --from is not expanded",
                hint="define a stage with FROM $NAME AS ..., and copy from that stage",
            )
        origin = self._origin(stage, copy.from_, copy.at)
        return [FromContext(origin, tuple(words)) if isinstance(origin, str) else FromStep(origin, tuple(words))]

    def _added(self, stage: _Stage, add: i.Add, words: Sequence[str]) -> list[Source]:
        found: list[Source] = []
        checksum = self._expanded(add.checksum, stage.env)
        if checksum and len(words) != 1:
            raise UsageError("--checksum with several sources", hint="give each source its own ADD")
        for word in words:
            repository = git_repository(word)
            if repository is not None:
                if checksum and repository.checksum not in ("", checksum):
                    raise UsageError(f"two checksums: {checksum} and {repository.checksum}", hint="give one of them")
                keep = repository.keep or add.keep_git_dir
                found.append(replace(repository, checksum=checksum or repository.checksum, keep=keep))
            elif is_address(word):
                found.append(Remote(word, _digest(checksum)))
            elif checksum:
                raise UsageError(f"--checksum with {word!r:.200}, a file of the context", hint="remove --checksum")
            elif found and isinstance(found[-1], FromContext):
                found[-1] = FromContext("", (*found[-1].patterns, word))
            else:
                found.append(FromContext("", (word,)))
        return found

    def _run(self, stage: _Stage, run: i.Run) -> None:
        options = self._options
        words, files, hint = self._script(stage, run)
        if not words:
            raise UsageError("RUN [] has no program", hint="remove the line, or name a program")
        history = [f"|{len(stage.arguments)}"] * bool(stage.arguments)
        history += [f"{name}={stage.env.get(name, value)}" for name, value in stage.arguments.items()]
        mounts = tuple(
            self._mount(stage, mount, run)
            for mount in run_mounts(
                run.mounts, lambda text: self._expanded(text, stage.env), workdir=stage.image.workdir or "/"
            )
        )
        insecure = is_insecure(run.security)
        if insecure and "security.insecure" not in options.allow:
            raise UsageError("RUN --security=insecure is not allowed", hint="allow it with --allow security.insecure")
        asked = network(run.network)
        if asked == "host" and "network.host" not in options.allow:
            raise UsageError("RUN --network=host is not allowed", hint="allow it with --allow network.host")
        common = self._common(stage, run)
        common["label"] += hint
        stage.step = RunStep(
            below=stage.step,
            words=words,
            env=tuple(stage.env.items()),
            hidden=self._proxies(stage),
            user=stage.image.user,
            workdir=stage.image.workdir or "/",
            mounts=mounts,
            network=asked if run.network else network(options.network),
            insecure=insecure,
            files=files,
            add_hosts=options.add_hosts,
            shm_size=options.shm_size,
            ulimits=options.ulimits,
            **common,
        )
        stage.image.note(f"RUN {' '.join([*history, *words])} # buildkit", layer=True)

    def _wheel(self, stage: _Stage, wheel: i.Wheel) -> None:
        stage.step = WheelStep(
            below=stage.step,
            name=wheel.name,
            file=wheel.file,
            url=wheel.url,
            sha256=wheel.sha256,
            size=wheel.size,
            python=wheel.python,
            executable=wheel.executable,
            site=wheel.site,
            scripts=wheel.scripts,
            data=wheel.data,
            **self._common(stage, wheel),
        )
        stage.image.note(wheel.text, layer=True)

    def _script(self, stage: _Stage, run: i.Run) -> tuple[tuple[str, ...], tuple[tuple[str, bytes], ...], str]:
        """The command line of a RUN, the files that it needs, and what its label adds."""
        documents = run.documents
        if not documents:
            return self._command_line(stage, run.command), (), ""
        text = " ".join(run.command.words)
        first = documents[0]
        if text:
            for one in documents:
                text += f"\n{one.content if one.written is None else one.written}{one.name}"
            return stage.image.with_shell(text), (), ""
        lines = first.content.strip().splitlines() or [""]
        hint = f" ({lines[0]}{'...' if len(lines) > 1 else ''})"
        if (first.content if first.written is None else first.written).startswith("#!"):  # no tab before it
            path = f"/dev/pipes/{first.name}"
            return stage.image.with_shell(path), ((path, _bytes(first.content)),), hint
        return stage.image.with_shell(first.content), (), hint

    def _mount(self, stage: _Stage, mount: RunMount, run: i.Run) -> RunMount:
        origin = mount.origin
        if mount.kind == "cache":
            space = self._arguments.get("BUILDKIT_CACHE_MOUNT_NS", "")
            mount = replace(mount, id=f"{space}/{mount.id}" if space else mount.id)
        if not isinstance(origin, str) or (origin == SCRATCH and mount.kind == "cache"):
            return replace(mount, origin=None)
        if not origin:
            return replace(mount, origin=None)
        return replace(mount, origin=self._origin(stage, origin, run.at, by_number=False))

    def _proxies(self, stage: _Stage) -> tuple[tuple[str, str], ...]:
        found: dict[str, str] = {}
        for name in PROXIES:
            for given in (name, name.upper()):
                value = self._arguments.get(given)
                if value is not None:
                    found |= {name.upper(): value, name: value}
        return tuple((name, value) for name, value in found.items() if name not in stage.env)

    _HANDLERS: ClassVar[dict[type[i.Instruction], Callable[..., None]]] = {
        i.Arg: _arg,
        i.Env: _env,
        i.Label: _labels,
        i.Maintainer: _maintainer,
        i.Copy: _copy,
        i.Add: _copy,
        i.Run: _run,
        i.Shell: _shell,
        i.User: _user,
        i.Workdir: _workdir,
        i.Volume: _volume,
        i.Expose: _expose,
        i.StopSignal: _stop_signal,
        i.Healthcheck: _healthcheck,
        i.Entrypoint: _entrypoint,
        i.Cmd: _cmd,
        i.OnBuild: _on_build,
        i.Wheel: _wheel,
    }


class _Common(TypedDict):
    at: i.At
    text: str
    label: str
    stage: str
    platform: Platform
    no_cache: bool


@dataclass(frozen=True, slots=True)
class _Named:
    """One ``--build-context``."""

    name: str
    place: str

    @property
    def is_image(self) -> bool:
        return self.place.startswith(_IMAGES)

    @property
    def image(self) -> str:
        return self.place.partition("://")[2]


def _written(name: str) -> str:
    """The name of an image as a Dockerfile may write it. A place is refused: the text of a Dockerfile must not lead
    to files of this host. Raises UsageError."""
    if name.startswith(_IMAGES):
        raise UsageError(
            f"{name!r:.300} is not the name of an image", hint=f"give the place with --build-context NAME={name:.200}"
        )
    return name


def context_name(name: str) -> str:
    """One spelling of the name of a context: ``alpine`` and ``docker.io/library/alpine:latest`` are the same."""
    try:
        return Reference.parse(name).familiar.removesuffix(":latest")
    except UsageError:
        return name.lower()


def _below(workdir: str, target: str) -> str:
    """The target of a COPY as an absolute path; it ends with a slash if it must be a directory."""
    path = posixpath.normpath(posixpath.join("/", workdir, target))
    path = "/" + path.lstrip("/")
    is_directory = target in ("", ".") or target.endswith(("/", "/."))
    return f"{path}/" if is_directory and path != "/" else path


def _digest(text: str) -> str:
    return str(Digest.parse(text)) if text else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def without_any_credentials(text: str) -> str:
    """The text with ``without_credentials`` for each word."""
    return " ".join(map(without_credentials, text.split(" "))) if "://" in text else text


@contextmanager
def _located(at: i.At) -> Iterator[None]:
    """Say in errors at which instruction they came up."""
    try:
        yield
    except DockerfileError:
        raise
    except UsageError as error:
        raise DockerfileError(error.message, at=at, hint=error.hint) from error
    except LaminaError as error:
        error.message = f"{at.file}:{at.line}: {error.message}"
        raise


def _fail(at: i.At, message: str, hint: str) -> NoReturn:
    raise DockerfileError(message, at=at, hint=hint)
