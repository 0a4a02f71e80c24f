"""The text of a Dockerfile as values (pure). ``source_lines`` reads its lines, ``statements`` splits an instruction.

BuildKit's parser is the reference, and a test compares the two (``tests/interop/test_dockerfile_oracle.py``).
What BuildKit builds is read here too. These differ on purpose: characters that are not ASCII stay whole in flags, ARG
and STOPSIGNAL refuse flags instead of dropping them, and a NUL in an instruction is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from lamina.build.dockerfile.source_lines import SourceLines
from lamina.build.dockerfile.statements import (
    BadInstruction,
    Flags,
    Statement,
    first_argument,
    here_words,
    offset_of_flag,
    source_word,
    split_statement,
)
from lamina.build.dockerfile.words import SPACES
from lamina.build.instructions import (
    Add,
    Arg,
    At,
    Cmd,
    Command,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    HereDocument,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from lamina.build.run_mounts import origin_of
from lamina.errors import UsageError
from lamina.spec.duration import nanoseconds
from lamina.text import clean

MAX_INSTRUCTIONS = 5_000
MAX_STAGES = 1_000
MAX_PAIRS = 5_000
"""Stages, and names in all ENV, ARG and LABEL. Each stage and RUN may have the variables of all instructions above:
these limits bound the memory that a build takes."""

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_WITH_DOCUMENTS = ("ADD", "COPY", "RUN")


def parse(data: bytes, file: str = "Dockerfile") -> Dockerfile:
    """Parse a Dockerfile. ``file``: its name in messages. Raises DockerfileError."""
    source = SourceLines(data, file)
    arguments: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    count = pairs = 0
    for instruction in _instructions(source):
        count += 1
        if count > MAX_INSTRUCTIONS:
            raise source.error(f"more than {MAX_INSTRUCTIONS:,} instructions", instruction.at.line)
        if isinstance(instruction, (Arg, Env, Label)):
            pairs += len(instruction.items)
            if pairs > MAX_PAIRS:
                raise source.error(f"more than {MAX_PAIRS:,} names in ENV, ARG and LABEL", instruction.at.line)
        if isinstance(instruction, From):
            if len(stages) == MAX_STAGES:
                raise source.error(f"more than {MAX_STAGES:,} stages", instruction.at.line)
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise source.error(
                f"{instruction.text.split(maxsplit=1)[0].upper()} stands before the first FROM",
                instruction.at.line,
                hint="begin with FROM; only ARG may stand before it",
            )
    if not stages:
        raise source.error(
            "no FROM, so there is nothing to build" if count else "no instructions", 1, hint="begin with FROM IMAGE"
        )
    return Dockerfile(
        tuple(source.directives),
        tuple(arguments),
        tuple(Stage(base, tuple(instructions)) for base, instructions in stages),
        source.escape,
        source.text,
        tuple(source.blanks),
        tuple(source.notes),
    )


def parse_instruction(text: str, at: At | None = None) -> Instruction:
    """Parse one instruction: the ONBUILD trigger of a base image. ``at``: the place that the result gets, such as the
    place of the FROM. Raises DockerfileError."""
    source = SourceLines(text.encode("utf-8", "surrogatepass"), "ONBUILD trigger")
    found = list(_instructions(source))
    if len(found) != 1:
        raise source.error(f"{len(found)} instructions where one was expected", 1)
    if isinstance(found[0], From):
        raise source.error("FROM can't be an ONBUILD trigger", 1)
    return replace(found[0], at=at) if at else found[0]


def _instructions(source: SourceLines) -> Iterator[Instruction]:
    for line in source.instructions():
        try:
            found = split_statement(line.text, 0, source.escape)
            inner = found.inner or found
            if inner.name in _WITH_DOCUMENTS and not inner.is_json and "<<" in line.text:
                keeps_bytes = found.name in ("ADD", "COPY")
                found.documents = [source.here_document(one, keeps_bytes) for one in here_words(line.text)]
            found.at = At(source.file, line.first, source.next)
            found.comments = line.comments
            yield _BUILDERS[found.name](found)
        except BadInstruction as bad:
            offset = first_argument(line.text) if bad.offset is None else bad.offset
            raise source.error(bad.problem, *line.place(offset), bad.hint) from None


# instructions


def _from(s: Statement) -> From:
    flags = Flags(s, texts=["platform"])
    if len(s.values) == 1:
        return From(s.values[0], flags.text("platform"), **s.common)
    if len(s.values) != 3 or s.values[1].casefold() != "as":
        raise BadInstruction(
            "FROM needs an image, or an image, AS and a name", hint="write FROM IMAGE or FROM IMAGE AS NAME"
        )
    name = s.values[2].lower()
    if not _STAGE_NAME.fullmatch(name):
        raise BadInstruction(
            f"{clean(s.values[2])[:60]!r} can't name a stage",
            hint="begin with a letter; use letters, digits, _ - and . only",
        )
    return From(s.values[0], flags.text("platform"), name, **s.common)


def _arg(s: Statement) -> Arg:
    Flags(s)
    _at_least_one(s)
    items: list[tuple[str, str | None]] = []
    for word in s.values:
        name, equals, value = word.partition("=")
        if equals and not name:
            raise BadInstruction("a name is empty", hint="write ARG NAME=VALUE")
        items.append((name, value if equals else None))
    return Arg(tuple(items), **s.common)


def _env(s: Statement) -> Env:
    return Env(_items(s), s.old_form, **s.common)


def _label(s: Statement) -> Label:
    return Label(_items(s), s.old_form, **s.common)


def _items(s: Statement) -> tuple[tuple[str, str], ...]:
    Flags(s)
    _at_least_one(s)
    if not all(s.values[::2]):
        raise BadInstruction("a name is empty", hint=f"write {s.name} NAME=VALUE")
    return tuple(zip(s.values[::2], s.values[1::2], strict=True))


def _maintainer(s: Statement) -> Maintainer:
    return Maintainer(_exactly_one(s), **s.common)


def _copy(s: Statement) -> Copy:
    flags = Flags(s, texts=["chown", "from", "chmod"], bools=["link", "parents"], lists=["exclude"])
    sources, target, documents = _sources(s)
    return Copy(
        sources,
        target,
        documents,
        from_=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.is_true("link"),
        parents=flags.is_true("parents"),
        exclude=flags.all("exclude"),
        **s.common,
    )


def _add(s: Statement) -> Add:
    flags = Flags(
        s, texts=["chown", "chmod", "checksum"], bools=["link", "keep-git-dir", "unpack"], lists=["exclude"]
    )
    sources, target, documents = _sources(s)
    return Add(
        sources,
        target,
        documents,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.is_true("link"),
        exclude=flags.all("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.is_true("keep-git-dir"),
        unpack=flags.maybe("unpack"),
        **s.common,
    )


def _sources(s: Statement) -> tuple[tuple[str, ...], str, tuple[HereDocument, ...]]:
    if len(s.values) < 2:
        raise BadInstruction(f"{s.name} needs a source and a target", hint=f"write {s.name} SOURCE TARGET")
    *sources, target = s.values
    if source_word(target):
        raise BadInstruction(f"the target of {s.name} is a here-document", hint="write a path at the end of the line")
    contents = {one.name: one for one in s.documents}
    paths, documents = [], []
    for source in sources:
        word = source_word(source)
        if word is None:
            paths.append(source)
        else:
            documents.append(contents.get(word.name) or HereDocument(word.name, "", word.expand))
    return tuple(paths), target, tuple(documents)


def _run(s: Statement) -> Run:
    flags = Flags(s, lists=["mount"], texts=["network", "security"])
    for offset, flag in s.flags:
        if flag.startswith("--mount="):
            try:
                origin_of(flag.partition("=")[2])
            except UsageError as error:
                raise BadInstruction(error.message, offset, error.hint) from None
    return Run(
        _command(s, s.values),
        tuple(s.documents),
        mounts=flags.all("mount"),
        network=_choice(s, flags, "network", ("default", "none", "host")),
        security=_choice(s, flags, "security", ("sandbox", "insecure")),
        **s.common,
    )


def _choice(s: Statement, flags: Flags, name: str, choices: tuple[str, ...]) -> str:
    """The value of a flag; "" for the first choice, which is the default."""
    values = flags.all(name)
    value = values[0] if values else choices[0]
    if value not in choices:
        raise BadInstruction(
            f"--{name} of {s.name} is {clean(value)[:60]!r}",
            offset_of_flag(s, name),
            f"choose {', '.join(choices[:-1])} or {choices[-1]}",
        )
    return "" if value == choices[0] else value


def _command(s: Statement, values: list[str]) -> Command:
    if s.is_json:
        return Command(tuple(values), False)
    text = " ".join(values)
    if s.documents and source_word(text):
        return Command((), True)
    return Command((text,), True)


def _shell(s: Statement) -> Shell:
    Flags(s)
    _at_least_one(s)
    if not s.is_json:
        raise BadInstruction("SHELL needs a JSON list", hint='write it like SHELL ["/bin/bash", "-c"]')
    return Shell(tuple(s.values), **s.common)


def _user(s: Statement) -> User:
    return User(_exactly_one(s), **s.common)


def _workdir(s: Statement) -> Workdir:
    return Workdir(_exactly_one(s), **s.common)


def _stop_signal(s: Statement) -> StopSignal:
    return StopSignal(_exactly_one(s), **s.common)


def _volume(s: Statement) -> Volume:
    Flags(s)
    _at_least_one(s)
    paths = tuple(value.strip(SPACES) for value in s.values)
    if not all(paths):
        raise BadInstruction("a path of VOLUME is empty")
    return Volume(paths, **s.common)


def _expose(s: Statement) -> Expose:
    Flags(s)
    _at_least_one(s)
    return Expose(tuple(sorted(s.values)), **s.common)


_TIMES = ("interval", "timeout", "start-period", "start-interval")


def _healthcheck(s: Statement) -> Healthcheck:
    flags = Flags(s, texts=[*_TIMES, "retries"])
    if not s.values:
        raise BadInstruction(
            "HEALTHCHECK needs CMD or NONE", hint="write HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE"
        )
    kind, values = s.values[0].upper(), s.values[1:]
    if kind == "NONE":
        if values or s.is_json:
            raise BadInstruction("HEALTHCHECK NONE has arguments", hint="remove them")
        return Healthcheck(None, **s.common)
    if kind != "CMD":
        raise BadInstruction(f"unknown form of HEALTHCHECK: {clean(s.values[0])[:60]}", hint="write CMD or NONE")
    if not values:
        raise BadInstruction("HEALTHCHECK CMD has no command", hint="write HEALTHCHECK CMD COMMAND")
    for name in _TIMES:
        text = flags.text(name)
        try:
            time = nanoseconds(text) if text else 0
        except UsageError as error:
            raise BadInstruction(f"--{name}: {error.message}", offset_of_flag(s, name), error.hint) from None
        if time != 0 and time < 1_000_000:
            raise BadInstruction(f"--{name} is shorter than 1ms", offset_of_flag(s, name))
    retries = flags.text("retries")
    if retries and not (re.fullmatch(r"[+]?[0-9]{1,30}|-0+", retries) and int(retries) < 1 << 31):
        raise BadInstruction(
            f"--retries is {clean(retries)[:60]!r}", offset_of_flag(s, "retries"), "write a number from 0 up"
        )
    return Healthcheck(
        _command(s, values),
        interval=flags.text("interval"),
        timeout=flags.text("timeout"),
        start_period=flags.text("start-period"),
        start_interval=flags.text("start-interval"),
        retries=retries,
        **s.common,
    )


def _entrypoint(s: Statement) -> Entrypoint:
    Flags(s)
    return Entrypoint(_command(s, s.values), **s.common)


def _cmd(s: Statement) -> Cmd:
    Flags(s)
    return Cmd(_command(s, s.values), **s.common)


def _onbuild(s: Statement) -> OnBuild:
    Flags(s)
    if s.inner is None:
        raise BadInstruction("ONBUILD needs an instruction", hint="write it like ONBUILD RUN make")
    if s.inner.name in ("ONBUILD", "FROM", "MAINTAINER"):
        raise BadInstruction(
            f"{s.inner.name} can't be an ONBUILD trigger", s.inner.start, "remove ONBUILD, or this line"
        )
    trigger = re.sub(rf"(?i)^[{SPACES}]*ONBUILD[\t\n\f\r ]*", "", s.text)
    for document in s.documents:
        trigger += "\n" + (document.content if document.written is None else document.written) + document.name
    return OnBuild(trigger, **s.common)


def _at_least_one(s: Statement) -> None:
    if not s.values:
        raise BadInstruction(f"{s.name} needs an argument")


def _exactly_one(s: Statement) -> str:
    Flags(s)
    _at_least_one(s)
    return s.values[0]


_BUILDERS: dict[str, Callable[[Statement], Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
