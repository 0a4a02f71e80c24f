"""What a Dockerfile offers (pure): its targets, and the arguments, secrets and agents that a target takes.

As in BuildKit, a comment right above a FROM or an ARG describes it if it begins with its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lamina.build.dockerfile.words import expand
from lamina.build.instructions import Arg, At, Copy, Dockerfile, Env, Run, Stage
from lamina.errors import LaminaError, NotFound


@dataclass(frozen=True, slots=True)
class Target:
    """A stage. ``name``: "" if it has none. ``is_default``: it is built where no target is given."""

    name: str
    description: str
    base: str
    platform: str
    is_default: bool
    at: At


@dataclass(frozen=True, slots=True)
class Argument:
    """An ARG, with its value in this call."""

    name: str
    value: str
    description: str
    at: At


@dataclass(frozen=True, slots=True)
class Needed:
    """A secret or an ssh agent that a RUN mounts."""

    id: str
    required: bool
    at: At


@dataclass(frozen=True, slots=True)
class Outline:
    """What one target takes."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    secrets: tuple[Needed, ...]
    agents: tuple[Needed, ...]


def targets(dockerfile: Dockerfile) -> list[Target]:
    """Return the stages, in their order."""
    last = len(dockerfile.stages) - 1
    return [
        Target(
            stage.base.name,
            _described(stage.base.comments, stage.base.name),
            stage.base.image,
            stage.base.platform,
            number == last,
            stage.base.at,
        )
        for number, stage in enumerate(dockerfile.stages)
    ]


def outline(dockerfile: Dockerfile, target: str, given: Mapping[str, str | None]) -> Outline:
    """Return what ``target`` ("": the last stage) and the stages that it uses take. ``given``: the build arguments of
    this call. Raises NotFound."""
    chosen = stage_number(dockerfile, target)
    numbers = sorted(_used(dockerfile, chosen))
    arguments: dict[str, Argument] = {}
    secrets: dict[str, Needed] = {}
    agents: dict[str, Needed] = {}
    defaults = dict(_values(dockerfile.arguments, {}, given, dockerfile.escape))
    for arg in dockerfile.arguments:
        for name, _ in arg.items:
            arguments[name] = Argument(name, defaults[name], _described(arg.comments, name), arg.at)
    for number in numbers:
        stage = dockerfile.stages[number]
        known: dict[str, str] = {}
        for instruction in stage.instructions:
            if isinstance(instruction, Env):
                known |= {name: _expanded(value, known, dockerfile.escape) for name, value in instruction.items}
            elif isinstance(instruction, Arg):
                known |= dict(_values([instruction], known, given, dockerfile.escape, defaults))
                for name, _ in instruction.items:
                    text = _described(instruction.comments, name)
                    old = arguments.get(name)
                    if old is None or (text and not old.description):
                        arguments[name] = Argument(name, known[name], text, instruction.at)
            elif isinstance(instruction, Run):
                for kind, needed in _mounted(instruction):
                    found = secrets if kind == "secret" else agents
                    if needed.id not in found or needed.required:
                        found[needed.id] = needed
    base = dockerfile.stages[chosen].base
    return Outline(
        base.name,
        _described(base.comments, base.name),
        tuple(arguments.values()),
        tuple(secrets.values()),
        tuple(agents.values()),
    )


def stage_number(dockerfile: Dockerfile, target: str) -> int:
    """Return the number of the stage that ``--target`` means: its name in any case of letters, or its number; "" is
    the last. Raises NotFound."""
    if not target:
        return len(dockerfile.stages) - 1
    names = [stage.base.name for stage in dockerfile.stages]
    if target.lower() in names:
        return len(names) - 1 - names[::-1].index(target.lower())
    if target.isascii() and target.isdigit() and len(target) < 9 and int(target) < len(names):
        return int(target)
    from lamina.text import nearest

    near = nearest(target, filter(None, names))
    known = ", ".join(filter(None, names)) or "none has a name"
    raise NotFound(
        f"no stage {target!r:.100} in the Dockerfile",
        hint=f"did you mean {near[0]}?" if near else f"choose one of the stages: {known}",
    )


def _used(dockerfile: Dockerfile, number: int) -> set[int]:
    """The stages that a stage is built from or copies from, and itself."""
    found: set[int] = set()
    pending = [number]
    while pending:
        one = pending.pop()
        if one in found:
            continue
        found.add(one)
        stage = dockerfile.stages[one]
        names = [stage.base.image.lower(), *(word for word in _sources(stage))]
        for name in names:
            below = [at for at in range(one) if dockerfile.stages[at].base.name == name.lower()]
            if below:
                pending.append(below[-1])
            elif name.isascii() and name.isdigit() and len(name) < 9 and int(name) < one and name != names[0]:
                pending.append(int(name))
    return found


def _sources(stage: Stage) -> Iterator[str]:
    for instruction in stage.instructions:
        if isinstance(instruction, Copy) and instruction.from_:
            yield instruction.from_
        elif isinstance(instruction, Run):
            for mount in instruction.mounts:
                for field in mount.split(","):
                    if field.startswith("from="):
                        yield field.removeprefix("from=")


def _mounted(run: Run) -> Iterator[tuple[str, Needed]]:
    for mount in run.mounts:
        given = dict(field.partition("=")[::2] for field in mount.split(","))
        kind = given.get("type", "")
        if kind in ("secret", "ssh"):
            target = given.get("target") or given.get("dst") or given.get("destination") or given.get("env") or ""
            name = given.get("id") or (target.rpartition("/")[2] if kind == "secret" else "default")
            yield kind, Needed(name, given.get("required", "false") in ("", "true", "1"), run.at)


def _values(
    arguments: Sequence[Arg],
    known: Mapping[str, str],
    given: Mapping[str, str | None],
    escape: str,
    defaults: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, str]]:
    values = dict(known)
    for argument in arguments:
        for name, default in argument.items:
            value = given.get(name)
            if value is None:
                value = (defaults or {}).get(name, "") if default is None else _expanded(default, values, escape)
            values[name] = value
            yield name, value


def _expanded(text: str, known: Mapping[str, str], escape: str) -> str:
    try:
        return expand(text, known.get, escape)
    except LaminaError:
        return text


def _described(comments: Sequence[str], name: str) -> str:
    """The description in the comments above an instruction: the line that begins with the name."""
    for comment in comments:
        if name and comment.startswith(f"{name} "):
            return comment[len(name) + 1 :].strip()
    return ""
