"""The graph of a build (pure): what ``build.planning.plan`` returns and ``build.solving.solve`` works through.

A step makes at most one layer on top of the layers of ``below``. Everything in a step is expanded: no variables are
left. Steps are compared by identity in the graph, and by their key (``build.planning.keys``) in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.build.instructions import At
from lamina.light import Value, field

if TYPE_CHECKING:
    from lamina.run.options import Ulimit
    from lamina.spec.image_config import History, ImageConfig
    from lamina.spec.platform import Platform


class _Identified(Value):
    """A value that is compared by identity."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class FromContext(Value):
    """Files of a context: ``name`` "" is the build's own, else one of ``--build-context``. ``patterns``: paths and
    globs below its root, as they are written (``/a``, ``./a`` and ``a`` are the same; ``/./`` counts for
    ``--parents``)."""

    name: str
    patterns: tuple[str, ...]


class FromStep(_Identified):
    """Files of a stage or an image: of the union of all layers up to ``step``."""

    step: Step
    patterns: tuple[str, ...]


class Inline(Value):
    """A here-document: one file."""

    name: str
    content: bytes


class Remote(Value):
    """A file at an address. ``checksum``: a digest, or "" where none was given."""

    url: str
    checksum: str = ""


class Repository(Value):
    """A git repository: its address (``build.addresses``), and what to check out. ``checksum``: the commit, or its
    first digits. ``keep``: keep the .git directory. ``submodules``: check them out too."""

    url: str
    ref: str = ""
    subdirectory: str = ""
    checksum: str = ""
    keep: bool = False
    submodules: bool = True


Source = FromContext | FromStep | Inline | Remote | Repository


class Step(_Identified, kw_only=True):
    """``below``: the step whose layers are below; None: nothing is below. ``label``: what progress shows, like
    ``[build 2/5] RUN make``. ``stage``: the stage's name or number."""

    below: Step | None = None
    at: At = field(default_factory=At)
    text: str = ""
    label: str = ""
    stage: str = ""
    platform: Platform
    no_cache: bool = False

    def origins(self) -> Iterator[Step]:
        """The steps of which the files are read (one of them may be ``below`` too)."""
        return iter(())

    def inputs(self) -> Iterator[Step]:
        """The steps that must be solved first."""
        if self.below is not None:
            yield self.below
        yield from self.origins()


class BaseStep(Step, kw_only=True):
    """The layers of an image that exists already. ``name``: its reference. ``digest``: of its manifest; "" (and the
    name scratch) stands for no layers at all."""

    name: str
    digest: str


class CopyStep(Step, kw_only=True):
    """COPY and ADD. ``target``: an absolute path; with an ending slash it is a directory. ``owner``:
    ``user[:group]``, "" is 0:0. ``mode``: octal or symbolic, "" keeps the files'. ``link``: the layer does not depend
    on what is below. ``unpack``: whether archives are unpacked; None: local ones (ADD). ``is_add``: the instruction
    is ADD."""

    sources: tuple[Source, ...]
    target: str
    owner: str = ""
    mode: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    unpack: bool | None = False
    is_add: bool = False

    def origins(self) -> Iterator[Step]:
        for source in self.sources:
            if isinstance(source, FromStep):
                yield source.step


class DirectoryStep(Step, kw_only=True):
    """WORKDIR: makes a directory and its parents, where they are missing. ``owner`` as in ``CopyStep``."""

    path: str
    owner: str = ""


class RunMount(Value):
    """One ``--mount`` of a RUN, checked and expanded. ``kind``: bind, cache, tmpfs, secret or ssh. ``source``: a path
    in ``origin`` (bind, cache). ``origin``: None is an empty directory for a cache, and the build's context for a
    bind. ``id``: of a cache, a secret or an ssh agent. ``sharing``: shared, private or locked. ``mode``: permission
    bits, None for the kind's default. ``size``: bytes, of a tmpfs. ``variable``: the environment variable that gets a
    secret."""

    kind: str
    target: str
    source: str = ""
    origin: Step | str | None = None
    id: str = ""
    sharing: str = "shared"
    read_only: bool = False
    required: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size: int | None = None
    variable: str = ""


class RunStep(Step, kw_only=True):
    """RUN. ``words``: the whole command line (the shell included). ``env``: of the stage and its ARGs, in order; it
    is not in the image. ``hidden``: variables that the program gets and that are not in the key (proxies).
    ``network``: "" (the default), none or host. ``insecure``: ``--security=insecure`` that was allowed."""

    words: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    hidden: tuple[tuple[str, str], ...] = ()
    user: str = ""
    workdir: str = "/"
    mounts: tuple[RunMount, ...] = ()
    network: str = ""
    insecure: bool = False
    files: tuple[tuple[str, bytes], ...] = ()
    """Here-documents as files: (path, content), mounted for the program and not in the layer."""
    add_hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int | None = None
    ulimits: tuple[Ulimit, ...] = ()

    def origins(self) -> Iterator[Step]:
        for mount in self.mounts:
            if isinstance(mount.origin, Step):
                yield mount.origin


class WheelStep(Step, kw_only=True):
    """The files of one Python wheel. The layer does not depend on what is below. ``file``: the wheel's name. ``url``:
    where it is. ``sha256``: hex digits; ``size`` in bytes, None if it is not known. ``python``: the version, like
    3.12.4. ``executable``, ``site``, ``scripts``, ``data``: as ``build.wheels.python_target.PythonTarget``."""

    name: str
    file: str
    url: str
    sha256: str
    size: int | None = None
    python: str
    executable: str
    site: str
    scripts: str
    data: str


class Planned(_Identified):
    """One stage for one platform, planned. ``step``: its last step that makes a layer; None: the image is empty.
    ``config``: the image's config without rootfs, history and created. ``history``: of the base and of each
    instruction; entries that are not ``empty_layer`` belong to the layers in their order. ``epoch``:
    SOURCE_DATE_EPOCH in seconds."""

    name: str
    step: Step | None
    config: ImageConfig
    history: tuple[History, ...]
    platform: Platform
    notes: tuple[str, ...] = ()
    """What the user should know, a line each (a syntax directive that is ignored)."""
    epoch: int | None = None
