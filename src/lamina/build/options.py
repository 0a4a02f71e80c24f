"""What can be asked of a build, and what it gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from lamina.errors import NotFound
from lamina.host.files import reported
from lamina.light import Value, field

if TYPE_CHECKING:
    from typing import BinaryIO

    from lamina.build.errors import Finding
    from lamina.build.events import Ran
    from lamina.build.instructions import Dockerfile
    from lamina.run.options import Ulimit
    from lamina.source.stack import Stack
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.image_config import ImageConfig
    from lamina.spec.platform import Platform

MAX_SECRET = 500 << 10
"""Bytes: BuildKit's limit."""


class Instructions(Protocol):
    """Instructions that come from elsewhere than the text of a Dockerfile (``build.recipe``)."""

    def dockerfile(
        self, platform: Platform, stack: Callable[[str], Stack], page: Callable[[str], Mapping[str, object]]
    ) -> Dockerfile:
        """The instructions for one platform. ``stack`` opens a base image, by its name; ``page`` reads a JSON
        document at an address, as an index of packages offers them."""
        ...


class Secret(Value):
    """``--secret``: the content of a file, or of an environment variable (``env``), or ``value``."""

    id: str
    path: str = ""
    env: str = ""
    value: bytes | None = field(default_factory=lambda: None, repr=False)

    def read(self) -> bytes:
        """Raises NotFound, SystemFailure."""
        if self.value is not None:
            return self.value
        if self.env:
            found = os.environb.get(os.fsencode(self.env))
            if found is None:
                raise NotFound(f"the secret {self.id}: the environment has no variable {self.env!r:.100}")
            return found
        with reported(self.path), open(self.path, "rb") as file:
            return file.read(MAX_SECRET + 1)


class SshAgent(Value):
    """``--ssh``: the socket of an agent, or key files."""

    id: str = "default"
    socket: str = ""
    keys: tuple[str, ...] = ()


class CachePlace(Value):
    """``--cache-from`` and ``--cache-to``: ``kind`` registry, local or inline; ``attributes`` as they were given
    (``ref``, ``src``, ``dest``, ``mode``)."""

    kind: str
    attributes: Mapping[str, str] = field(default_factory=dict)


class Attestations(Value):
    """``provenance``: min, max (with build arguments, steps and the Dockerfile) or "". ``builder_id``: an address
    that names the builder, "" for lamina's. ``sbom``: a bill of materials in SPDX."""

    provenance: str = ""
    builder_id: str = ""
    sbom: bool = False

    def __bool__(self) -> bool:
        return bool(self.provenance) or self.sbom


class BuildOptions(Value, kw_only=True):
    """What can be asked of a build.

    ``file``: the path of the Dockerfile, on this host or in the context; "-" is stdin, "" the default names.
    ``ignore_file``: a path of this host, instead of the ignore files of the context. ``dockerfile``: its text, where
    the caller has it already. ``recipe``: instructions instead of a Dockerfile. ``tags``: the names that the image
    gets in the store. ``arguments``: None takes the value from the environment of this process. ``contexts``: name to
    place, as in ``--build-context``. ``platforms``: () is the host's; several make an index. ``network``:
    default, none or host. ``allow``: ``security.insecure``, ``network.host``. ``compression``: gzip, zstd or none.
    ``oci``: write OCI documents; None: those of the base. ``epoch``: SOURCE_DATE_EPOCH. ``annotations``: key
    (``manifest:k``, ``index:k``, ``manifest[linux/amd64]:k``, or only ``k``) to value. ``keep``: list the image in
    the store even without a name. ``jobs``: steps that run at the same time, None for the default. ``runtime``,
    ``upper_dir``: as in the settings."""

    file: str = ""
    ignore_file: str = ""
    dockerfile: bytes | None = None
    recipe: Instructions | None = None
    target: str = ""
    tags: tuple[str, ...] = ()
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    pull: bool = False
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    cache_from: tuple[CachePlace, ...] = ()
    cache_to: tuple[CachePlace, ...] = ()
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[SshAgent, ...] = ()
    network: str = "default"
    add_hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int | None = None
    ulimits: tuple[Ulimit, ...] = ()
    allow: frozenset[str] = frozenset()
    squash: bool = False
    attestations: Attestations = Attestations()
    compression: str = "gzip"
    level: int | None = None
    oci: bool | None = True
    epoch: int | None = None
    keep: bool = True
    jobs: int | None = None
    runtime: str = ""
    upper_dir: str = ""
    stdin: BinaryIO | None = None
    """Where ``-`` is read from."""


class BuiltImage(Value):
    """One platform's image in the store. ``descriptor``: of its manifest."""

    platform: Platform
    descriptor: Descriptor
    config: ImageConfig

    @property
    def id(self) -> str:
        """The image ID: the digest of its config."""
        return str(self.config.descriptor.digest)


class Built(Value):
    """``descriptor``: of the manifest, or of the index of several platforms. ``steps``: what ran, in the order of the
    Dockerfile. ``notes``: what the user should know, a line each. ``findings``: of the checks."""

    descriptor: Descriptor
    images: tuple[BuiltImage, ...]
    steps: tuple[Ran, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
