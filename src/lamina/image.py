"""The public classes ``Image``, ``Layer`` and ``RunResult``. They only delegate to other packages.

Paths are ``str`` here; bytes that are not UTF-8 are decoded with surrogate escapes, as ``os.fsdecode`` does.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from os import fsdecode, fspath

from lamina.errors import (
    InvalidContent,
    IsADirectory,
    LaminaError,
    NoStore,
    NotADirectory,
    NotAFile,
    NotFound,
    ProgramFailed,
    Unsupported,
    UsageError,
)
from lamina.events import ignore
from lamina.light import TYPE_CHECKING, replace
from lamina.places import (
    adapted,
    load_settings,
    of_store,
    open_named,
    open_store,
    reader_for,
    settings_of,
    to_bytes,
    writer_for,
)
from lamina.source.stack import Stack
from lamina.spec.digest import Digest
from lamina.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from types import EllipsisType
    from typing import IO, Any, Self

    from lamina.edit.changes import Change
    from lamina.edit.publish import Packing
    from lamina.edit.rebase import RebasePlan
    from lamina.events import Cancel, OnEvent
    from lamina.filesystem import LaminaFileSystem
    from lamina.insight.blame import Blame
    from lamina.insight.compare import Diff
    from lamina.insight.history import Step
    from lamina.insight.packages import Inventory
    from lamina.insight.side import Side
    from lamina.layer.entry import Entry
    from lamina.living import Container
    from lamina.run.library.jobs import StoreLocation
    from lamina.run.library.runs import Finished, Input, Output
    from lamina.run.library.start_options import Health, Ports
    from lamina.settings import Settings
    from lamina.source.protocols import LayerHandle, Reader, Writer
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.image_config import ImageConfig
    from lamina.spec.manifest import Manifest
    from lamina.store.containers import Container as ContainerRecord
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess
    from lamina.union.tree import Tree, Union
    from lamina.view.path import ImagePath
    from lamina.view.unpack.unpack import UnpackReport

PIPE = -1
"""``subprocess.PIPE``, without loading subprocess."""


def open(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    platform: str | None = None,
    settings: Settings | None = None,
) -> Image:
    """Open an image.

    ``name``: a reference, ID or digest in the store; ``docker://REF`` in a registry; ``oci:DIR[:REF]``, ``dir:DIR``,
    ``oci-archive:FILE[:REF]`` or ``docker-archive:FILE[:REF]``. With ``~N`` at the end, only the lowest N layers;
    with ``~N:M`` layers N to M. ``root``: the directory of the store. ``platform``: like ``linux/arm64``. Both
    default to ``settings``, or to the current settings. Raises ReferenceNotFound, NotFound (no such platform),
    InvalidContent, UsageError, Unsupported.
    """
    return open_with(name, settings or settings_of(root, platform))


def open_with(name: str, settings: Settings, network: RegistryAccess | None = None) -> Image:
    """Open an image like ``open``, with these settings. ``network``: access to registries (default: as in the
    settings)."""
    return Image(open_named(name, settings, network), settings)


def containers(
    *,
    all: bool = True,
    filters: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
) -> list[Container]:
    """List the containers in the store, newest first; [] if there is no store. ``all``: also those that do not run.
    ``filters``: as for `lamina ps`, like "label=job" or "status=exited". ``root``, ``settings``: as in ``open``.
    Raises UsageError, SystemFailure."""
    from lamina.living import Container
    from lamina.run.inspection.listing import Filters, listed

    settings = settings or settings_of(root, None)
    chosen = Filters.parse(filters)
    try:
        store = open_store(settings, create=False)
    except NoStore:
        return []
    location = _location(store)
    found = [one for one, _ in listed(store, chosen, all_=all) if not one.is_damaged]
    return [Container(location, one, _committed(settings)) for one in found]


def container(
    name: str, *, root: str | os.PathLike[str] | None = None, settings: Settings | None = None
) -> Container:
    """Find a container by its name, or by the first digits of its ID. The other arguments are as in ``open``. Raises
    NotFound, Conflict (several match), StoreDamaged, SystemFailure."""
    from lamina.living import Container

    settings = settings or settings_of(root, None)
    store = open_store(settings, create=False)
    return Container(_location(store), store.containers.get(name), _committed(settings))


def _committed(settings: Settings) -> Callable[[str, Descriptor], Image]:
    """The image of a commit, by its name and manifest."""

    def as_image(name: str, made: Descriptor) -> Image:
        store = open_store(settings, create=False)
        return Image(store.stack_at(made, settings.wanted_platform(), name or str(made.digest)), settings)

    return as_image


def images(
    pattern: str | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    platform: str | None = None,
    settings: Settings | None = None,
) -> list[Image]:
    """List the images in the store, newest first, one for each name; [] if there is no store.

    ``pattern``: list only names that match, like "my/*". The other arguments are as in ``open``. Artifacts, images
    for other platforms and damaged images are skipped (``lamina images`` shows them). Raises SystemFailure,
    StoreDamaged.
    """
    import logging

    from lamina.insight.images import select_images, summaries

    settings = settings or settings_of(root, platform)
    wanted = settings.wanted_platform()
    try:
        store = open_store(settings, create=False)
    except NoStore:
        return []
    found = select_images(summaries(store, wanted), patterns=[pattern] if pattern is not None else [])
    found.sort(key=lambda one: one.name)
    found.sort(key=lambda one: one.created or "", reverse=True)
    opened = []
    for one in found:
        name = one.reference.familiar if one.reference is not None else str(one.digest)
        try:
            stack = store.stack_at(store.resolve(one.name or str(one.digest)), wanted, name)
        except (NotFound, InvalidContent, Unsupported) as error:
            logging.getLogger("lamina.image").info("%s is left out: %s", name, error)
            continue
        opened.append(Image(of_store(store, stack, settings), settings))
    return opened


class Image:
    """An image, or a range of its layers. It is an immutable value; looking into it unpacks nothing."""

    def __init__(self, stack: Stack, settings: Settings | None = None) -> None:
        self.stack = stack
        self._settings = settings

    @property
    def name(self) -> str:
        """The name that the image was opened with."""
        return self.stack.name

    @property
    def digest(self) -> Digest:
        """The digest of the manifest."""
        return self.stack.manifest.descriptor.digest

    @property
    def id(self) -> Digest:
        """The digest of the config, which docker calls the image ID."""
        return self.stack.manifest.config.digest

    @property
    def size(self) -> int:
        """The size in bytes of manifest, config and compressed layers; for a range of layers, of these layers
        only."""
        manifest, layers = self.stack.manifest, sum(layer.descriptor.size for layer in self.stack.layers)
        return layers if self._is_range else manifest.descriptor.size + manifest.config.size + layers

    @property
    def created(self) -> datetime | None:
        """The time in the config when the image was made, or None (OCI image-spec config.md, ``created``)."""
        from lamina.spec.image_config import parse_time

        return parse_time(self.config.created)

    @property
    def history(self) -> tuple[Step, ...]:
        """The build steps, oldest first, each with the number of the layer that it made, or None (OCI image-spec
        config.md, ``history``)."""
        from lamina.insight.history import aligned

        stack, count = self.stack, len(self.config.diff_ids)
        return tuple(aligned(self.config.history, count, low=stack.first, high=stack.first + len(self) - 1))

    @property
    def manifest(self) -> Manifest:
        """The manifest (OCI image-spec manifest.md)."""
        return self.stack.manifest

    @property
    def config(self) -> ImageConfig:
        """The config (OCI image-spec config.md)."""
        return self.stack.config

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, bottom first."""
        return tuple(
            Layer(handle, self.stack.first + number, self.stack.steps[number], self.stack)
            for number, handle in enumerate(self.stack.layers)
        )

    @property
    def tree(self) -> Tree:
        """The union of the layers (OCI image-spec layer.md), merged at the first use. Raises InvalidContent."""
        return self.stack.tree()

    @property
    def union(self) -> Union:
        """The union, for a few questions: read from a stored form if there is one, else merged like ``tree``."""
        return self.stack.union()

    @property
    def fs(self) -> LaminaFileSystem:
        """A read-only fsspec file system over the union."""
        from lamina.filesystem import LaminaFileSystem

        return LaminaFileSystem.of(self.stack)

    def path(self, path: str | os.PathLike[str] = "/") -> ImagePath:
        """Return a path in the union: a ``Traversable`` of importlib.resources with the methods of ``pathlib.Path``.
        The path need not exist. Raises InvalidPath for an invalid path."""
        from lamina.view.path import ImagePath

        return ImagePath(self.stack, path)

    def stat(self, path: str | ImagePath, *, follow: bool = False) -> Entry:
        """Return the entry at ``path``. ``follow``: follow a symlink at its end. Raises PathNotFound, which is a
        FileNotFoundError."""
        tree, node = self.stack.lookup(to_bytes(path), follow=follow)
        return tree.entry(node)

    def listdir(self, path: str | ImagePath = "/") -> list[str]:
        """Return the names in a directory, in byte order. Raises PathNotFound (a FileNotFoundError), NotADirectory (a
        NotADirectoryError)."""
        tree, node = self.stack.listing(to_bytes(path), links=False)
        if not tree.is_directory(node):
            raise NotADirectory(f"{str(path)!r:.200} in {self.name} is not a directory")
        return [os.fsdecode(name) for name in sorted(tree.children(node))]

    def read_bytes(self, path: str | ImagePath) -> bytes:
        """Return the content of a file; symlinks are followed inside the image. Raises PathNotFound (a
        FileNotFoundError), IsADirectory (an IsADirectoryError), NotAFile (an OSError)."""
        from lamina.layer.entry import Kind

        tree, node = self.stack.lookup(to_bytes(path), follow=True)
        kind = tree.kind(node)
        if kind != Kind.FILE:
            error = IsADirectory if kind == Kind.DIRECTORY else NotAFile
            raise error(f"{str(path)!r:.200} in {self.name} is not a regular file")
        with self.stack.open_stored(tree.stored(node)) as stream:
            return stream.read()

    def packages(self) -> Inventory:
        """Find the packages in the image, each with the layer that brought it: Debian, Alpine, RPM, Python, npm,
        Ruby, PHP, Java, Rust, Go, and well-known programs. Raises InvalidContent, SystemFailure."""
        from lamina.insight.packages import packages

        return packages(self.stack)

    def run(
        self,
        command: Sequence[str] = (),
        *,
        entrypoint: str | None = None,
        env: Mapping[str, str] | Sequence[str] = (),
        mounts: Mapping[str, str | os.PathLike[str]] | Sequence[str] = (),
        tmpfs: Sequence[str] = (),
        workdir: str = "",
        user: str = "",
        network: str = "",
        hostname: str = "",
        read_only: bool = False,
        memory: int | str | None = None,
        cpus: float | None = None,
        pids: int | None = None,
        cap_add: Sequence[str] = (),
        cap_drop: Sequence[str] = (),
        init: bool = False,
        runtime: str = "",
        stdin: Input = None,
        stdout: Output = PIPE,
        stderr: Output = PIPE,
        timeout: float | None = None,
        check: bool = False,
        name: str = "",
        keep: bool = False,
    ) -> RunResult:
        """Run a program in a new container of the image and wait until it ends. Thread-safe; needs no root rights.
        Linux only, with crun, runc or bubblewrap.

        The options are those of `lamina run`. Without ``command`` and ``entrypoint`` the command of the image runs.

        - ``env``: a mapping, or words like "KEY=VALUE".
        - ``mounts``: a path in the container for each directory or file of this host; or words as for -v
          ("./data:/data:ro", "name:/data").
        - ``network``: pasta, none or host; default: pasta if it is installed, else none.
        - ``memory``: bytes, or text like "512m". ``cpus``: processors. ``pids``: processes.
        - ``stdin``: bytes, text, or an open file; default: no standard input.
        - ``stdout``, ``stderr``: ``subprocess.PIPE`` (captured, the default), ``subprocess.DEVNULL``, an open file,
          or a function that is called with each piece of bytes. ``stderr`` may also be ``subprocess.STDOUT``; runc
          copies the two streams separately, so lines may change places.
        - ``timeout``: seconds; after that the container is killed and TimedOut is raised.
        - ``check``: raise ProgramFailed if the exit code is not 0.

        The container and everything that it wrote are removed at the end of a ``with`` block, by ``remove()``, or
        when the result is garbage-collected. With ``keep`` they stay in the store, under ``name``.

        Raises ContainerFailure (the program can't be started), TimedOut (a TimeoutError), ProgramFailed, UsageError,
        NotFound, Conflict, Unsupported, SystemFailure.
        """
        from lamina.run.library import runs
        from lamina.run.library.jobs import RunRequest

        store = self._store_of_image()
        settings = self._settings or load_settings()
        request = RunRequest(
            _location(store),
            self.manifest.descriptor,
            self.name,
            runs.container_options(
                command,
                entrypoint=entrypoint,
                env=env,
                mounts=mounts,
                tmpfs=tmpfs,
                workdir=workdir,
                user=user,
                network=network,
                hostname=hostname,
                read_only=read_only,
                memory=memory,
                cpus=cpus,
                pids=pids,
                cap_add=cap_add,
                cap_drop=cap_drop,
                init=init,
                interactive=stdin is not None,
                name=name,
                remove=not keep,
            ),
            runtime or settings.runtime,
            settings.upper_dir or "",
            keep,
        )
        finished = runs.run(request, stdin=stdin, stdout=stdout, stderr=stderr, timeout=timeout)
        result = RunResult(self, request.wanted.command, finished)
        if check and result.exit_code != 0:
            words = " ".join(result.command) or "the program"
            last = result.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            result.remove()
            error = ProgramFailed(
                f"{words!r:.200} in {self.name} ended with exit code {result.exit_code}",
                hint=f"its last output: {last!r:.200}" if last else None,
                code=result.exit_code,
            )
            error.stdout, error.stderr = result.stdout, result.stderr
            raise error
        return result

    def start(
        self,
        command: Sequence[str] = (),
        *,
        entrypoint: str | None = None,
        env: Mapping[str, str] | Sequence[str] = (),
        mounts: Mapping[str, str | os.PathLike[str]] | Sequence[str] = (),
        tmpfs: Sequence[str] = (),
        workdir: str = "",
        user: str = "",
        network: str = "",
        networks: Sequence[str] = (),
        ports: Ports = (),
        hostname: str = "",
        labels: Mapping[str, str] | None = None,
        restart: str = "",
        health: Health = None,
        read_only: bool = False,
        memory: int | str | None = None,
        cpus: float | None = None,
        pids: int | None = None,
        cap_add: Sequence[str] = (),
        cap_drop: Sequence[str] = (),
        init: bool = False,
        tty: bool = False,
        log_driver: str = "",
        log_options: Mapping[str, str] | None = None,
        pod: str = "",
        stop_signal: str = "",
        stop_timeout: int | None = None,
        runtime: str = "",
        name: str = "",
        remove: bool = False,
    ) -> Container:
        """Start a program in a new container of the image, and return while it runs: `lamina run -d`. The container
        lives on when this process ends. As a context manager the returned ``Container`` is killed and removed at the
        end of the block. Thread-safe; needs no root rights.

        The options are those of ``run``, and these:

        - ``ports``: a port of this host for each port of the container: {80: 8080, "53/udp": ("127.0.0.1", 53),
          443: None}, None for any free port; or words as for -p. ``Container.ports`` says which.
        - ``networks``: words as for --network, like "front" or "front:alias=db".
        - ``restart``: no, on-failure, on-failure:N, always or unless-stopped.
        - ``health``: a command that checks the health: a text for the shell, or words; or a mapping with ``test``,
          ``interval``, ``timeout``, ``start_period``, ``start_interval`` (seconds) and ``retries``. False: without
          the check of the image.
        - ``log_driver``, ``log_options``: as --log-driver and --log-opt.
        - ``remove``: remove the container at its end, also if another process ends it.

        Raises ContainerFailure (the program can't be started; the container is removed), UsageError, NotFound,
        Conflict, Unsupported, SystemFailure.
        """
        from lamina.living import Container
        from lamina.run.library import runs
        from lamina.run.library.living import StartRequest
        from lamina.run.library.start_options import living

        store = self._store_of_image()
        settings = self._settings or load_settings()
        wanted = runs.container_options(
            command,
            entrypoint=entrypoint,
            env=env,
            mounts=mounts,
            tmpfs=tmpfs,
            workdir=workdir,
            user=user,
            network="",
            hostname=hostname,
            read_only=read_only,
            memory=memory,
            cpus=cpus,
            pids=pids,
            cap_add=cap_add,
            cap_drop=cap_drop,
            init=init,
            interactive=False,
            name=name,
            remove=remove,
        )
        wanted = living(
            wanted,
            ports=ports,
            networks=(*([network] if network else ()), *networks),
            labels=labels or {},
            restart=restart,
            health=health,
            tty=tty,
            log_driver=log_driver,
            default_log_driver=settings.log_driver,
            log_options=log_options or {},
            pod=pod,
            stop_signal=stop_signal,
            stop_timeout=stop_timeout,
        )
        location = _location(store)
        request = StartRequest(
            self.manifest.descriptor,
            self.name,
            wanted,
            runtime or settings.runtime,
            settings.upper_dir or "",
        )
        identity, warnings = runs.call(location, "living.start", request)
        record = store.containers.get(identity)
        return Container(location, record, self._new, runtime=request.runtime, warnings=warnings)

    def _store_of_image(self) -> Store:
        """Return the store if it has the whole image. Raises NotFound, UsageError (a range of layers)."""
        if self._is_range:
            raise UsageError(f"{self.name} is a range of layers", hint="use the whole image")
        store = open_store(self._settings, create=False)
        if not store.blobs.has(self.manifest.descriptor):
            raise NotFound(
                f"{self.name} is not in {store.location}", hint="pull it with lamina.pull() or `lamina pull`"
            )
        return store

    @property
    def _is_range(self) -> bool:
        return len(self.stack.layers) != len(self.manifest.layers)

    def tag(self, name: str) -> Image:
        """Give the image another name in its store; return the image by that name. If the name exists, it moves to
        this image. Raises UsageError, NotFound."""
        from lamina.spec.reference import Reference
        from lamina.store.image_events import tag

        store = self._store_of_image()
        reference = Reference.parse(name).with_default_tag()
        tag(store, str(reference), self._descriptor(store))
        return Image(of_store(store, replace(self.stack, name=name), self._known_settings), self._settings)

    def _descriptor(self, store: Store) -> Descriptor:
        """What the image's name points to, an index perhaps; else its manifest."""
        try:
            found = store.resolve(self.name)
            stack = store.stack_at(found, self.config.platform, self.name)
        except LaminaError:
            return self.manifest.descriptor
        return found if stack.manifest.descriptor.digest == self.digest else self.manifest.descriptor

    def push(
        self,
        target: str = "",
        *,
        all_platforms: bool = False,
        referrers: bool = False,
        tls_verify: bool | None = None,
        authfile: str | os.PathLike[str] | None = None,
        cert_dir: str | os.PathLike[str] | None = None,
        creds: str | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> Digest:
        """Push the image to a registry; only blobs that the registry lacks are sent (OCI distribution-spec, "Push").

        ``target``: the reference in the registry (default: the name of the image). The other arguments are as in
        ``lamina.push``. Returns the digest of the manifest in the registry. Raises UsageError, AccessDenied,
        RemoteFailure, Cancelled.
        """
        from lamina.transfer.connect import RegistryAccess

        settings = self._known_settings
        if (tls_verify, authfile, cert_dir) != (None, None, None):
            settings = adapted(settings, tls_verify=tls_verify, authfile=authfile, cert_dir=cert_dir)
        network = RegistryAccess(settings, credentials=creds, on_event=on_event, cancel=cancel)
        reader, name = self._source(network, by_name=all_platforms)
        reference = network.full(target or self._own_name())
        store = open_store(settings, create=False) if not self._is_elsewhere else None
        writer = network.repository(str(reference), store=store)
        return self._copied(
            reader,
            name,
            writer,
            str(reference),
            all_platforms=all_platforms,
            referrers=referrers,
            on_event=on_event,
            cancel=cancel,
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str = "docker-archive",
        name: str | None = None,
        all_platforms: bool = False,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> None:
        """Write the image to ``path``. ``kind``: "docker-archive" (for `docker load`), "oci-archive" or "oci-dir"
        (these keep the digests). ``name``: the name in the archive (default: as in the store; "": none). Raises
        UsageError, BlobNotFound, SystemFailure, Cancelled."""
        from lamina.transfer.connect import RegistryAccess

        network = RegistryAccess(self._known_settings, on_event=on_event, cancel=cancel)
        reader, source = self._source(network, by_name=all_platforms)
        if name is None:
            with suppress(UsageError):
                name = str(network.full(self._own_name()))
        self._copied(
            reader,
            source,
            _archive(kind, os.fspath(path)),
            name or "",
            all_platforms=all_platforms,
            on_event=on_event,
            cancel=cancel,
        )

    def export(self, target: str | os.PathLike[str] | IO[bytes]) -> int:
        """Write the union as one plain tar to ``target``, a path or a file that is open for bytes. Returns the number
        of entries. The same image gives the same bytes. Raises InvalidLayer, SystemFailure."""
        from lamina.edit.export import export
        from lamina.host.files import reported, whole_file

        if not isinstance(target, (str, os.PathLike)):
            return export(self.stack, target.write)
        path = os.fspath(target)
        with reported(path), whole_file(path) as file:
            return export(self.stack, file.write)

    @property
    def _is_elsewhere(self) -> bool:
        """Whether the image was opened from a registry, a layout or an archive."""
        return self.stack.reopened_by is not None and bool(self.stack.reopened_by[1][0])

    @property
    def _known_settings(self) -> Settings:
        return self._settings or load_settings()

    def _own_name(self) -> str:
        """Return the name of the image in its place. Raises UsageError if it has none."""
        from lamina.spec.name import parse_name

        name = parse_name(self.name).name
        if not name or (not self._is_elsewhere and not self._is_named(name)):
            raise UsageError(f"{self.name} has no name", hint="give a name, like ghcr.io/me/app:1")
        return name

    def _is_named(self, name: str) -> bool:
        from lamina.spec.reference import canonical

        return canonical(name) in {known for known, _ in self._store_of_image().names()}

    def _source(self, network: RegistryAccess, *, by_name: bool) -> tuple[Reader, str]:
        """Return the place of the image and its name there. ``by_name``: the name, so that its index is used."""
        from lamina.spec.name import parse_name
        from lamina.transfer.connect import StoreAndRegistries

        if self._is_range:
            raise UsageError(f"{self.name} is a range of layers", hint="use the whole image")
        if not self._is_elsewhere:
            return StoreAndRegistries(self._store_of_image(), network), self.name if by_name else str(self.digest)
        assert self.stack.reopened_by is not None
        parsed = parse_name(str(self.stack.reopened_by[1][0]))
        return reader_for(parsed, network), str(
            network.full(parsed.name)
        ) if parsed.transport == "docker" else parsed.name

    def _copied(self, reader: Reader, name: str, writer: Writer, target: str, **how: Any) -> Digest:
        from lamina.transfer.copy import copy

        return copy(reader, writer, [(name, target)], platform=self.config.platform, **how)[0].descriptor.digest

    def blame(self, path: str) -> Blame:
        """Return the history of a path: the layer and build step of each of its entries, and what hides it. Raises
        PathNotFound."""
        from lamina.insight.blame import blame

        return blame(self.stack, to_bytes(path))

    def diff(
        self,
        other: Image | RunResult | Container | ContainerRecord | str | os.PathLike[str],
        path: str = "/",
        *,
        ignore: Sequence[str] = (),
        renames: bool = True,
        on_warning: Callable[[str], object] = lambda text: None,
    ) -> Diff:
        """Compare this image with ``other``, file by file; nothing is unpacked.

        ``other``: an image, a container, a result of ``run``, or the path of a directory of this host. ``path``:
        compare only files at and below it. ``ignore``: names of ``insight.compare.ASPECTS``, like "time".
        ``renames``: report a renamed file as one change. ``on_warning`` is called with a message for files of a
        directory that an image can't have. Raises PathNotFound, NotFound, UsageError, InvalidContent, SystemFailure.
        """
        from lamina.insight.compare import ASPECTS, compare
        from lamina.insight.diff import parse_fields
        from lamina.insight.side import Side

        _refuse_text("ignore", ignore)
        ignored = parse_fields(",".join(ignore), ASPECTS)
        if not isinstance(other, (Image, str)):
            other = self._compared(other)
        after = Side.of(other.stack) if isinstance(other, Image) else self._side(other, on_warning)
        return compare(Side.of(self.stack), after, to_bytes(path), ignore=ignored, renames=renames)

    def _compared(
        self, other: RunResult | Container | ContainerRecord | os.PathLike[str]
    ) -> ContainerRecord | os.PathLike[str]:
        """``other`` with the record in the place of a container."""
        from lamina import living

        if isinstance(other, (RunResult, living.Container)):
            return self._store().containers.get(other.container if isinstance(other, RunResult) else other.id)
        return other

    def _side(self, other: ContainerRecord | str | os.PathLike[str], on_warning: Callable[[str], object]) -> Side:
        from lamina.store import containers as records

        if isinstance(other, records.Container):
            from lamina.run.container.side import container_side

            return container_side(self._store(), other, on_warning=on_warning)
        from lamina.insight.directory_side import directory_side

        path = os.fspath(other)
        if not os.path.isdir(path):
            raise NotFound(f"{path!r:.300} is not a directory", hint="pass an image as lamina.open(...)")
        return directory_side(path, on_warning=on_warning)

    def unpack(self, target: str | os.PathLike[str], *, cancel: Cancel | None = None) -> UnpackReport:
        """Write the union into ``target``, a new or empty directory; it appears when it is complete. Raises Conflict,
        SystemFailure, Cancelled."""
        from lamina.view.unpack.unpack import unpack

        return unpack(self.stack, os.fsencode(target), cancel=cancel)

    @contextmanager
    def mount(self, target: str | os.PathLike[str] = "") -> Iterator[str]:
        """Mount the union as a read-only directory while the block runs; yields the path. Linux only.

        ``target``: the directory (default: a new directory in the store). Several threads and processes may mount the
        same image at the same time. Images that are not in the store, and machines that forbid user namespaces to
        plain users, need lamina[fuse]. Raises Conflict, SystemFailure, Unsupported.
        """
        from lamina.view.overlay.mount import mount, unmount

        store = open_store(self._settings, create=False)
        mounted = mount(store, self.stack, os.fspath(target))
        try:
            yield mounted.target
        finally:
            with suppress(NotFound):  # `lamina umount --all` has unmounted it
                unmount(store, mounted.target)

    def append(
        self,
        files: Mapping[str, str | os.PathLike[str]] | None = None,
        *,
        remove: Sequence[str] = (),
        keep_owner: bool = False,
        step: str = "append",
        name: str = "",
        epoch: int | None = None,
        author: str | EllipsisType | None = ...,
        architecture: str | EllipsisType = ...,
        variant: str | EllipsisType | None = ...,
        os: str | EllipsisType = ...,
        os_version: str | EllipsisType | None = ...,
        user: str | EllipsisType | None = ...,
        exposed_ports: Iterable[str] | EllipsisType | None = ...,
        env: Iterable[str] | EllipsisType | None = ...,
        entrypoint: Iterable[str] | EllipsisType | None = ...,
        cmd: Iterable[str] | EllipsisType | None = ...,
        volumes: Iterable[str] | EllipsisType | None = ...,
        working_dir: str | EllipsisType | None = ...,
        labels: Mapping[str, str] | EllipsisType | None = ...,
        stop_signal: str | EllipsisType | None = ...,
        healthcheck: Mapping[str, Any] | EllipsisType | None = ...,
        on_build: Iterable[str] | EllipsisType | None = ...,
    ) -> Image:
        """Make a new image in the store with one more layer on top.

        ``files``: a path in the image for each file or directory of this host. ``remove``: paths to hide with
        whiteouts. ``keep_owner``: keep the owners of the files (default: 0:0). ``step``: the text of the build step.
        ``name``: the name in the store (default: untagged). ``epoch``: seconds, as SOURCE_DATE_EPOCH. The other
        arguments change the config, as in ``with_config``. Without ``files`` and ``remove`` there is no new layer.
        Raises PathNotFound, NotFound, UsageError, BlobNotFound, SystemFailure.
        """
        from lamina.edit.append import append, files_of
        from lamina.edit.publish import Revision
        from lamina.spec.image_config import changes_of

        changes = changes_of(locals())
        _refuse_text("remove", remove)
        sources = [(fspath(source), to_bytes(target)) for target, source in (files or {}).items()]
        owner = None if keep_owner else (0, 0)
        items = files_of(sources, map(to_bytes, remove), self.stack, owner=owner)
        made = append(
            self.stack,
            items,
            self._store(),
            name,
            Revision(step, changes=changes, packing=self._packing(epoch)),
        )
        return self._new(name, made)

    def with_config(
        self,
        *,
        name: str = "",
        epoch: int | None = None,
        created: str | EllipsisType | None = ...,
        author: str | EllipsisType | None = ...,
        architecture: str | EllipsisType = ...,
        variant: str | EllipsisType | None = ...,
        os: str | EllipsisType = ...,
        os_version: str | EllipsisType | None = ...,
        user: str | EllipsisType | None = ...,
        exposed_ports: Iterable[str] | EllipsisType | None = ...,
        env: Iterable[str] | EllipsisType | None = ...,
        entrypoint: Iterable[str] | EllipsisType | None = ...,
        cmd: Iterable[str] | EllipsisType | None = ...,
        volumes: Iterable[str] | EllipsisType | None = ...,
        working_dir: str | EllipsisType | None = ...,
        labels: Mapping[str, str] | EllipsisType | None = ...,
        stop_signal: str | EllipsisType | None = ...,
        healthcheck: Mapping[str, Any] | EllipsisType | None = ...,
        on_build: Iterable[str] | EllipsisType | None = ...,
    ) -> Image:
        """Make a new image in the store with the same layers and a changed config (OCI image-spec config.md).

        None removes a field of the config; ``...`` (the default) leaves it as it is. ``name``: the name in the store
        (default: untagged). ``epoch``: seconds, as SOURCE_DATE_EPOCH. Raises UsageError, BlobNotFound.
        """
        from lamina.edit.configure import with_config
        from lamina.spec.image_config import changes_of

        changes = changes_of(locals())
        step = "with_config " + " ".join(sorted(changes))
        return self._new(name, with_config(self.stack, self._store(), name, changes, created_by=step, epoch=epoch))

    def squash(self, low: int, high: int | None = None, *, name: str = "", epoch: int | None = None) -> Image:
        """Make a new image in the store in which layers ``low`` to ``high`` (from 1; None: the top) are joined into
        one; the union stays the same. ``name``, ``epoch``: as in ``with_config``. Raises UsageError (out of range),
        BlobNotFound (the image is not in the store)."""
        from lamina.edit.squash import squash

        high = len(self) if high is None else high
        step, packing = f"squash {low} to {high}", self._packing(epoch)
        made = squash(self.stack, low, high, self._store(), name, created_by=step, packing=packing)
        return self._new(name, made)

    def flatten(self, *, name: str = "", epoch: int | None = None) -> Image:
        """Make a new image in the store with one layer and the same union. ``name``, ``epoch``: as in
        ``with_config``. Raises BlobNotFound."""
        from lamina.edit.squash import flatten

        made = flatten(self.stack, self._store(), name, created_by="flatten", packing=self._packing(epoch))
        return self._new(name, made)

    def erase(self, *paths: str, name: str = "", epoch: int | None = None) -> Image:
        """Make a new image in the store without these paths, and everything below them, in any layer. ``name``,
        ``epoch``: as in ``with_config``. Raises PathNotFound, UsageError, BlobNotFound."""
        from lamina.edit.erase import erase, plan_erase

        plan = plan_erase(self.stack, [to_bytes(path) for path in paths])
        step, packing = "erase " + " ".join(map(fsdecode, paths)), self._packing(epoch)
        return self._new(name, erase(self.stack, plan, self._store(), name, created_by=step, packing=packing))

    def plan_rebase(self, onto: Image, old_base: Image | None = None) -> RebasePlan:
        """Return what ``rebase`` would do, and the conflicts. ``old_base``: default: found in the store. Raises
        NotFound (no base in the store), UsageError."""
        from lamina.edit.find_base import find_base
        from lamina.edit.rebase import plan_rebase

        old = old_base.stack if old_base else find_base(self.stack, self._store())
        return plan_rebase(self.stack, old, onto.stack)

    def rebase(
        self,
        onto: Image,
        old_base: Image | None = None,
        *,
        name: str = "",
        force: bool = False,
        epoch: int | None = None,
    ) -> Image:
        """Make a new image in the store: the layers of ``onto``, and this image's own layers on top. ``force``: make
        it in spite of conflicts. ``name``, ``epoch``: as in ``with_config``. Raises Conflict, and the errors of
        ``plan_rebase``."""
        from lamina.edit.rebase import rebase

        plan, packing = self.plan_rebase(onto, old_base), self._packing(epoch)
        return self._new(name, rebase(plan, self._store(), name, force=force, packing=packing))

    def _store(self) -> Store:
        return open_store(self._settings)

    def _packing(self, epoch: int | None) -> Packing:
        from lamina.edit.publish import Packing

        settings = self._settings or load_settings()
        return Packing(settings.compression, settings.compression_level, epoch)

    def _new(self, name: str, made: Descriptor) -> Image:
        stack = self._store().stack_at(made, self.config.platform, name or str(made.digest))
        return Image(stack, self._settings)

    def to_json(self) -> dict[str, Any]:
        """Describe the image for JSON: names and digests as text, sizes in bytes."""
        config, first = self.config, self.stack.first
        return {
            "name": self.name,
            "digest": str(self.digest),
            "id": str(self.id),
            "platform": str(config.platform),
            "created": config.created,
            "size": self.size,
            "labels": dict(config.labels),
            "env": list(config.env),
            "entrypoint": list(config.entrypoint),
            "cmd": list(config.cmd),
            "user": config.user,
            "working_dir": config.working_dir,
            "layers": [layer.to_json() for layer in self.layers],
            "range": [first, first + len(self) - 1],
        }

    def __reduce__(self) -> tuple[type[Image], tuple[Stack, Settings | None]]:
        """Pickle the place of the image, not its bytes. Raises TypeError if it was not opened by a name."""
        return Image, (self.stack, self._settings)

    def __getitem__(self, layers: builtins.slice) -> Image:
        """Return a range of layers as an image: ``image[:2]`` has the lowest two layers. Raises UsageError."""
        if not isinstance(layers, slice) or layers.step not in (None, 1):
            raise UsageError(
                "not a slice of layers", hint="write image[low:high]; image[:2] has the lowest two layers"
            )
        low, high, _ = layers.indices(len(self.stack.layers))
        first = self.stack.first
        return Image(self.stack.slice(first + low, first + max(high, low) - 1), self._settings)

    def __len__(self) -> int:
        """The number of layers."""
        return len(self.stack.layers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return (self.digest, self.stack.first, len(self)) == (other.digest, other.stack.first, len(other))

    def __hash__(self) -> int:
        return hash((self.digest, self.stack.first, len(self)))

    def __repr__(self) -> str:
        return f"<lamina.Image {self.name} {self.digest.short} {counted(len(self), 'layer')}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        from lamina.insight.html import stack_html

        return stack_html(self.stack)


class Layer:
    """One layer of an image: a list of file system changes (OCI image-spec layer.md). It is an immutable value."""

    def __init__(self, handle: LayerHandle, number: int, step: Any = None, stack: Stack | None = None) -> None:
        """``stack``: the stack that the layer belongs to, needed for pickling."""
        self._stack = stack
        self.handle = handle
        self.number = number
        """The number of the layer, from 1 at the bottom."""
        self.step = step
        """The build step that made it (``History``), or None."""

    @property
    def digest(self) -> Digest:
        """The digest of the (compressed) blob."""
        return self.handle.descriptor.digest

    @property
    def diff_id(self) -> Digest:
        """The digest of the uncompressed tar (OCI image-spec config.md, ``diff_ids``)."""
        return self.handle.diff_id

    @property
    def size(self) -> int:
        """The size of the blob in bytes."""
        return self.handle.descriptor.size

    @property
    def tar_size(self) -> int:
        """The size of the uncompressed tar in bytes."""
        return self.handle.index().tar_size

    def __reduce__(self) -> tuple[Callable[..., Layer], tuple[Stack, int]]:
        """Pickle the layer with its image. Raises TypeError if it belongs to none."""
        if self._stack is None:
            raise TypeError(f"layer {self.number} can't be pickled: it belongs to no image")
        return _layer_of, (self._stack, self.number)

    def to_json(self) -> dict[str, Any]:
        """Describe the layer for JSON: digests as text, sizes in bytes."""
        return {
            "number": self.number,
            "digest": str(self.digest),
            "diff_id": str(self.diff_id),
            "media_type": self.handle.descriptor.media_type,
            "size": self.size,
            "step": self.step.created_by if self.step is not None else None,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and (self.digest, self.diff_id) == (other.digest, other.diff_id)

    def __hash__(self) -> int:
        return hash((self.digest, self.diff_id))

    def __len__(self) -> int:
        """The number of entries."""
        return len(self.handle.index())

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the entries in archive order, including whiteouts."""
        return iter(self.handle.index())

    def __repr__(self) -> str:
        return f"<lamina.Layer {self.number} {self.digest.short}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        from lamina.insight.html import layer_html

        return layer_html(self.handle, self.number, self.step)


class RunResult:
    """The result of ``Image.run``: a container whose program has ended. The container is removed by ``remove()``, at
    the end of a ``with`` block, or when this object is garbage-collected, unless it was run with ``keep``."""

    def __init__(self, image: Image, command: Sequence[str], finished: Finished) -> None:
        self.image = image
        self.command = tuple(command)
        """The command as it was given; () if the command of the image ran."""
        self.exit_code = finished.code
        """The exit code of the program; 128 + the signal number if a signal ended it."""
        self.stdout = finished.stdout
        self.stderr = finished.stderr
        """The captured bytes; b"" if the stream was not captured."""
        self.container = finished.identity
        """The ID of the container."""
        self.warnings = finished.warnings
        """Warnings of lamina about the container, as sentences."""
        self._finished = finished

    @property
    def text(self) -> str:
        """The captured standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The changes in the container, in byte order of the paths; ``how`` is "A" (added), "C" (changed) or "D"
        (deleted). Raises NotFound (the container was removed), SystemFailure."""
        from lamina.edit.changes import Change

        return tuple(Change(how, path) for how, path in self._finished.changes())

    def commit(
        self,
        name: str = "",
        *,
        comment: str = "",
        epoch: int | None = None,
        author: str | EllipsisType | None = ...,
        architecture: str | EllipsisType = ...,
        variant: str | EllipsisType | None = ...,
        os: str | EllipsisType = ...,
        os_version: str | EllipsisType | None = ...,
        user: str | EllipsisType | None = ...,
        exposed_ports: Iterable[str] | EllipsisType | None = ...,
        env: Iterable[str] | EllipsisType | None = ...,
        entrypoint: Iterable[str] | EllipsisType | None = ...,
        cmd: Iterable[str] | EllipsisType | None = ...,
        volumes: Iterable[str] | EllipsisType | None = ...,
        working_dir: str | EllipsisType | None = ...,
        labels: Mapping[str, str] | EllipsisType | None = ...,
        stop_signal: str | EllipsisType | None = ...,
        healthcheck: Mapping[str, Any] | EllipsisType | None = ...,
        on_build: Iterable[str] | EllipsisType | None = ...,
    ) -> Image:
        """Make a new image in the store: the image of the container plus one layer with its changes.

        ``name``: the name in the store (default: untagged). ``comment``: the comment of the new build step.
        ``epoch``: seconds, as SOURCE_DATE_EPOCH; the same changes then give the same digest. The other arguments
        change the config, as in ``Image.with_config``. Raises NotFound, UsageError, SystemFailure.
        """
        from lamina.edit.publish import Packing, Revision
        from lamina.spec.image_config import changes_of

        packing = Packing(self.image._packing(epoch).compression, epoch=epoch)
        revision = Revision(comment=comment, changes=changes_of(locals()), packing=packing)
        made = self._finished.call("commit", name, revision)
        return self.image._new(name, made)

    def remove(self) -> None:
        """Remove the container now, and everything that it wrote. Raises SystemFailure."""
        self._finished.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished.is_kept:
            self.remove()

    def __repr__(self) -> str:
        words = " ".join(self.command) or "the image's program"
        return f"<lamina.RunResult {self.exit_code} of {words!r:.100} in {self.image.name}>"


def _location(store: Store) -> StoreLocation:
    from lamina.run.library import jobs

    return jobs.StoreLocation(store.paths.root, store.max_layer, store.keep, store.view)


def _layer_of(stack: Stack, number: int) -> Layer:
    return Image(stack).layers[number - stack.first]


def _refuse_text(name: str, value: object) -> None:
    """Raises UsageError if ``value`` is one string and not a list of them."""
    if isinstance(value, (str, bytes)):
        raise UsageError(
            f"{name} is a string, not a list: {value!r:.100}", hint=f"give a list, like {name}=[{value!r:.100}]"
        )


def _archive(kind: str, path: str) -> Writer:
    from lamina.spec.transport import transport_of_type

    return writer_for(transport_of_type(kind).name, path)
