"""What ``solve`` calls, and what it gives to those it calls: the seams between the parts of a build that touch disk,
network and programs. Other modules import this one only under ``TYPE_CHECKING``.

``copy_files`` and ``run_program`` say what is in a new layer, as items. ``solve`` writes these items into the store
in one pass, and records the layer. They never write to the store themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from lamina.build.options import Secret, SshAgent
    from lamina.build.patterns.trees import FileTree
    from lamina.build.steps import CopyStep, DirectoryStep, RunStep, Step
    from lamina.events import Cancel
    from lamina.layer.tar_write import Item
    from lamina.source.stack import Stack
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess

Log = Callable[[bytes], object]
"""Takes output of a step as it comes, in pieces that need not be whole lines. It may be called from any thread."""


class Context(Protocol):
    """A context, open for one build (``contexts.open_context``). Its ignore file is applied already."""

    @property
    def tree(self) -> FileTree[Any]:
        """Its files."""
        ...

    def digest(self, patterns: Sequence[str], *, exclude: Sequence[str] = (), parents: bool = False) -> str:
        """The digest of what COPY with these words reads: names (as they will be in the target), kinds, modes and
        content; no times and no owners. Raises PathNotFound (a pattern matches nothing), SystemFailure."""
        ...

    def read(self, path: str) -> bytes:
        """One file, such as the Dockerfile, whatever the ignore file says. Raises PathNotFound, LimitExceeded."""
        ...

    def is_ignored(self, path: str) -> bool:
        """Whether the ignore file excludes the path, for the checks."""
        ...

    def close(self) -> None: ...


class OpenContext(Protocol):
    """The function ``contexts.open_context``."""

    def __call__(
        self,
        place: str,
        *,
        store: Store,
        network: RegistryAccess,
        cancel: Cancel,
        stdin: BinaryIO | None = None,
        dockerfile: str = "",
        ignore: bytes | None = None,
    ) -> Context:
        """Open a context: a directory, a tar, a git repository, an address, "-" (``stdin``: a tar, or a Dockerfile
        alone), an empty one (""). ``dockerfile``: where the Dockerfile is in the context, as an ignore file may stand
        beside it; ``ignore``: the content of an ignore file that stands elsewhere. Raises NotFound, UsageError."""
        ...


class Inputs(Protocol):
    """What a step can read. ``solve`` implements it: one object for each build, used by several threads."""

    @property
    def store(self) -> Store: ...

    @property
    def network(self) -> RegistryAccess:
        """Access to registries and other hosts, with the certificates and proxies of the settings."""
        ...

    @property
    def cancel(self) -> Cancel: ...

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """By id."""
        ...

    @property
    def ssh(self) -> Mapping[str, SshAgent]:
        """By id."""
        ...

    @property
    def epoch(self) -> int | None:
        """SOURCE_DATE_EPOCH. The code that writes the layer clamps the times; steps need not."""
        ...

    @property
    def runtime(self) -> str:
        """The runtime of the settings; "" for the first that works."""
        ...

    @property
    def upper_dir(self) -> str:
        """The setting upper_dir: where programs write, if the store's file system takes no writable layer; "" for
        memory."""
        ...

    def context(self, name: str) -> Context:
        """The context ``name`` ("" is the build's own); it is opened on the first call. Raises NotFound."""
        ...

    def stack(self, step: Step | None) -> Stack | None:
        """The union of all layers up to this step, which has been solved; None: no layers."""
        ...


class Items(Protocol):
    """The items of a layer, read once. ``len`` tells whether there are any."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Item]: ...


class CopyFiles(Protocol):
    """The module ``copy_files`` offers these functions."""

    def digests(self, step: CopyStep, inputs: Inputs) -> dict[str, str]:
        """For the key: a named digest for each source that is not a stage, such as ``context app/``, or the address
        of a ``Remote`` (without credentials; its content's digest or etag) or of a ``Repository`` (its commit)."""
        ...

    def copied(self, step: CopyStep, below: Stack | None, inputs: Inputs, log: Log) -> AbstractContextManager[Items]:
        """The items of the layer in its order (``write_layer``), with the parent directories that are missing. What
        the items open exists while the block runs. A file that changes after ``digests`` is an error. Raises
        PathNotFound, UsageError."""
        ...

    def made(self, step: DirectoryStep, below: Stack | None) -> list[Item]:
        """WORKDIR: the directories that are missing; [] where all exist."""
        ...


class RunProgram(Protocol):
    """The function ``run_program.ran``."""

    def __call__(self, step: RunStep, below: Stack | None, inputs: Inputs, log: Log) -> AbstractContextManager[Items]:
        """Run the program when the block is entered. The block gets what it changed, as items of a layer ([] where it
        changed nothing), while the upper directory exists; when the block ends, nothing is left.

        Raises ``build.errors.ProgramFailed`` (its exit code is not 0), NotFound (no shell, no such user),
        Cancelled."""
        ...
