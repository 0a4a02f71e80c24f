"""``docker-registry:``, the storage directory of a docker-registry as a place of images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from lamina.archive.docker_registry_served import DockerRegistryRepositories
from lamina.archive.docker_registry_storage import Storage, absent
from lamina.errors import LaminaError, ReferenceNotFound
from lamina.light import TYPE_CHECKING
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.reference import DEFAULT_DOMAIN, DEFAULT_TAG, Reference

if TYPE_CHECKING:
    from lamina.source.protocols import Blob

_SHOWN = 20
_log = logging.getLogger("lamina.archive")


class DockerRegistryReader:
    """``Reader`` and ``Lister`` of such a directory: of all its tags."""

    def __init__(self, directory: str) -> None:
        """Open the directory, as ``Storage``. Raises NotFound."""
        self.directory = directory
        self._storage = Storage(directory)
        self.location = self._storage.location

    def resolve(self, name: str) -> Descriptor:
        """As ``Reader.resolve``. ``name``: REPOSITORY, REPOSITORY:TAG or REPOSITORY@DIGEST; the repository as it is
        here, or as docker normalises it. Raises InvalidDocument too, if a link is damaged."""
        repository, tag, digest = self._split(name or self._only_name())
        if digest is not None:
            return self._storage.revision(repository, digest)
        return self._storage.tag(repository, tag)

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._storage.manifest(descriptor)

    def blob(self, descriptor: Descriptor) -> Blob:
        return self._storage.blob(descriptor)

    def reading(self) -> DockerRegistryRepositories:
        """As ``Indexed.reading``."""
        return DockerRegistryRepositories(self._storage)

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        """As ``Lister.names``. A damaged tag is left out, with a warning in the log."""
        for name in self.tagged():
            try:
                yield name, self.resolve(name)
            except LaminaError as error:
                _log.warning("left out: %s", error)

    def tagged(self) -> Iterator[str]:
        """REPOSITORY:TAG for every tag, damaged or not."""
        for repository in self._storage.repositories_in():
            for tag in self._storage.tags_of(repository):
                yield f"{repository}:{tag}"

    def untagged(self) -> Iterator[str]:
        """REPOSITORY@DIGEST for every manifest that neither a tag nor an index of its repository names, damaged or
        not."""
        for repository in self._storage.repositories_in():
            revisions = self._storage.revisions_of(repository)
            named: set[Digest] = set()
            for tag in self._storage.tags_of(repository):
                try:
                    named.add(self._storage.tag_link(repository, tag))
                except LaminaError:
                    continue  # `tagged` has it
            for digest in revisions:
                named.update(self._storage.listed(digest))
            yield from (f"{repository}@{digest}" for digest in revisions if digest not in named)

    def _split(self, name: str) -> tuple[str, str, Digest | None]:
        """Repository, tag and digest of a name. Raises UsageError, ReferenceNotFound."""
        reference = Reference.parse(name)
        written = name.partition("@")[0]
        if reference.tag is not None:
            written = written.removesuffix(f":{reference.tag}")
        paths = [written]
        if reference.domain == DEFAULT_DOMAIN:
            paths += [reference.path, reference.path.removeprefix("library/")]
        for path in dict.fromkeys(paths):
            if self._storage.exists(path):
                return path, reference.tag or DEFAULT_TAG, reference.digest
        raise self._not_found(name)

    def _only_name(self) -> str:
        names = []
        for name in self.tagged():
            names.append(name)
            if len(names) > _SHOWN:
                break
        if len(names) == 1:
            return names[0]
        raise ReferenceNotFound(
            f"{self.location} holds {'several images' if names else 'no image with a tag'}", hint=_there(names)
        )

    def _not_found(self, name: str) -> ReferenceNotFound:
        names = [one for one, _ in zip(self.tagged(), range(_SHOWN + 1), strict=False)]
        return absent(name, self.location, _there(names))


def _there(names: Sequence[str]) -> str:
    if not names:
        return "check the path: the registry may keep its data elsewhere"
    return "name one of: " + ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
