"""The instructions of a Dockerfile as values (pure).

Words are kept as they were written: ``build.planning.plan`` expands variables, because their values depend on the
instructions above. ``build.dockerfile.syntax`` makes these values from text.
"""

from __future__ import annotations

from lamina.light import Value, field


class At(Value):
    """Where an instruction is: its file as messages name it, its first and last line, counted from 1."""

    file: str = "Dockerfile"
    line: int = 1
    last: int = 1


class HereDocument(Value):
    """``content`` is what stands between the lines, tabs already removed for ``<<-``. ``expand``: variables in it are
    expanded (the name was not quoted; RUN does not expand). ``written``: the content with its tabs, as a shell that
    reads the here-document itself gets it; None where it equals ``content``."""

    name: str
    content: str
    expand: bool = True
    written: str | None = None


class Command(Value):
    """A command line: a list of words (``is_shell`` false: the JSON form), or one text for the shell."""

    words: tuple[str, ...]
    is_shell: bool


class Instruction(Value, kw_only=True):
    """``text``: the instruction on one line, comments and continuations removed, as the history shows it.
    ``comments``: the comments right above it."""

    at: At = field(default_factory=At, compare=False)
    text: str = ""
    comments: tuple[str, ...] = field(default_factory=tuple, compare=False)


class From(Instruction):
    """``name``: after AS, in lower case; "" without."""

    image: str
    platform: str = ""
    name: str = ""


class Arg(Instruction):
    """Pairs of name and default; None: no default was given."""

    items: tuple[tuple[str, str | None], ...]


class Env(Instruction):
    """``old_form``: it was written as ``ENV name value``."""

    items: tuple[tuple[str, str], ...]
    old_form: bool = False


class Label(Instruction):
    """``old_form`` as in ``Env``."""

    items: tuple[tuple[str, str], ...]
    old_form: bool = False


class Maintainer(Instruction):
    name: str


class Copy(Instruction):
    """``sources`` without the here-documents, which are in ``documents``. ``from_``: "" is the context."""

    sources: tuple[str, ...]
    target: str
    documents: tuple[HereDocument, ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


class Add(Instruction):
    """As ``Copy``. ``unpack``: None where it was not given (local archives are unpacked, remote ones are not)."""

    sources: tuple[str, ...]
    target: str
    documents: tuple[HereDocument, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None


class Run(Instruction):
    """``mounts``: the values of ``--mount`` as they were written (they may contain variables). ``network``: none,
    host or "". ``security``: insecure or "". ``documents``: with one document and no command (``command.words`` is
    empty), the document is the script; else the shell reads them after the command's line."""

    command: Command
    documents: tuple[HereDocument, ...] = ()
    mounts: tuple[str, ...] = ()
    network: str = ""
    security: str = ""


class Shell(Instruction):
    words: tuple[str, ...]


class User(Instruction):
    name: str


class Workdir(Instruction):
    path: str


class Volume(Instruction):
    paths: tuple[str, ...]


class Expose(Instruction):
    ports: tuple[str, ...]


class StopSignal(Instruction):
    signal: str


class Healthcheck(Instruction):
    """``command`` None: NONE. Times as they were written (``30s``), "" where not given."""

    command: Command | None
    interval: str = ""
    timeout: str = ""
    start_period: str = ""
    start_interval: str = ""
    retries: str = ""


class Entrypoint(Instruction):
    command: Command


class Cmd(Instruction):
    command: Command


class OnBuild(Instruction):
    """``trigger``: the instruction for the next build, as it was written."""

    trigger: str


class Wheel(Instruction):
    """The files of one Python wheel. No Dockerfile can say it: ``build.recipe`` makes it. The fields are those of
    ``build.steps.WheelStep``."""

    name: str
    file: str
    url: str
    sha256: str
    size: int | None
    python: str
    executable: str
    site: str
    scripts: str
    data: str


class Stage(Value):
    """A FROM and the instructions up to the next one."""

    base: From
    instructions: tuple[Instruction, ...]


class Directive(Value):
    """A parser directive: ``# syntax=...``, ``# escape=...``, ``# check=...``."""

    name: str
    value: str
    at: At


class Dockerfile(Value):
    """``arguments``: the ARG instructions before the first FROM. ``escape``: the escape character. ``source``: the
    text of the file. ``blanks``: where an empty line is inside an instruction. ``notes``: what the user should
    know."""

    directives: tuple[Directive, ...]
    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"
    source: str = field(default_factory=str, compare=False, repr=False)
    blanks: tuple[At, ...] = field(default_factory=tuple, compare=False)
    notes: tuple[str, ...] = field(default_factory=tuple, compare=False)
