"""Where the explorer finds images: in the repositories of a registry, or a few that were named on the command line.

An image is named by a text that the explorer itself gave out. A text is only ever looked up: nothing in it is taken
for a path, a URL or a transport. Repositories and images have their familiar names in all answers, as clients of the
server write them (``app:1``, not ``docker.io/library/app:1``); questions may have either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import BlobNotFound, NotFound, UsageError
from lamina.light import replace
from lamina.serve.names import canonical_repository, familiar
from lamina.source.abilities import lists_referrers
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.serve.permit import Permit
    from lamina.source.protocols import Blob, LayerHandle, Reader
    from lamina.source.served import Repositories

    LocalLayer = Callable[[Descriptor, Digest], LayerHandle | None]


@dataclass(frozen=True)
class Place:
    """An image that was found: what its name points to, and the place that has it. ``key`` tells places with separate
    contents apart. ``repository`` is canonical, ``image`` is shown to people. ``low`` and ``high``: the range of its
    layers, from 1; ``high`` None is the top."""

    image: str
    key: str
    reader: Reader
    descriptor: Descriptor
    repository: str = ""
    tag: str = ""
    low: int = 1
    high: int | None = None

    @property
    def whole(self) -> bool:
        return self.low == 1 and self.high is None


class RepositoryReader:
    """A ``Reader`` of one repository: it finds nothing that is only in another one."""

    def __init__(self, repositories: Repositories, repository: str) -> None:
        self._repositories = repositories
        self._repository = repository
        self.location = f"{repositories.location}: {repository}"

    def resolve(self, name: str) -> Descriptor:
        return self._repositories.find(self._repository, Digest.parse(name) if ":" in name else name)

    def manifest(self, descriptor: Descriptor) -> bytes:
        try:
            found = self._repositories.find(self._repository, descriptor.digest)
        except NotFound as error:
            raise BlobNotFound(error.message, hint=error.hint) from None
        return self._repositories.manifest(found)

    def blob(self, descriptor: Descriptor) -> Blob:
        return _Typed(self._repositories.blob(self._repository, descriptor.digest), descriptor)

    def referrers(self, subject: Digest) -> list[Descriptor]:
        return self._repositories.referrers(self._repository, subject)


class _Typed:
    """A blob with the descriptor by which it was asked for."""

    def __init__(self, blob: Blob, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.origin = blob.origin
        self.open = blob.open


class Gallery:
    """Images in repositories, of which each asker sees those that his permit allows, and images with other names in
    ``named``, which everybody sees.

    ``local_layer`` may return a layer that is unpacked already; give it only if everybody may see everything, because
    it finds layers by what configs state.
    """

    def __init__(
        self,
        repositories: Repositories | None = None,
        named: Mapping[str, Callable[[], Place]] | None = None,
        *,
        local_layer: LocalLayer = lambda descriptor, diff_id: None,
        first: Sequence[str] = (),
    ) -> None:
        self.repositories_of_place = repositories
        self.named = dict(named or {})
        self.local_layer = local_layer
        self.first = [*self.named, *first]
        """The images to show first."""

    @property
    def location(self) -> str:
        return "" if self.repositories_of_place is None else self.repositories_of_place.location

    def repositories(self, permit: Permit, contained: str, after: str, limit: int) -> tuple[list[str], bool]:
        """Return the familiar names of repositories after ``after`` that contain a text, sorted, and whether there
        are more."""
        found: list[str] = []
        place = self.repositories_of_place
        names = {} if place is None else {familiar(name): name for name in place.names()}
        for shown in sorted(names):
            if shown <= after or contained not in shown.lower():
                continue
            if permit.may_see(names[shown]) and permit.may_pull(names[shown]):
                if len(found) == limit:
                    return found, True
                found.append(shown)
        return found, False

    def tags(self, permit: Permit, name: str) -> list[str]:
        """Return the tags of a repository. Raises NotFound, also for what the permit does not allow."""
        repository = canonical_repository(name)
        if self.repositories_of_place is not None and repository and permit.may_pull(repository):
            try:
                return self.repositories_of_place.tags(repository)
            except NotFound as error:
                raise NotFound(f"no repository {name[:300]!r} here", hint=error.hint) from None
        raise NotFound(f"no repository {name[:300]!r} here", hint="check the name")

    def find(self, image: str, permit: Permit) -> Place:
        """Find an image by the text that names it. Raises NotFound, also for what the permit does not allow."""
        named = self.named.get(image)
        if named is not None:
            return named()
        if self.repositories_of_place is None:
            raise self._absent(image)
        try:
            reference = Reference.parse(image).with_default_tag()
        except UsageError as error:
            raise NotFound(error.message, hint=error.hint) from None
        if not permit.may_pull(reference.repository):
            raise self._absent(image)
        try:
            return self._place(reference)
        except NotFound as error:
            raise NotFound(self._absent(image).message, hint=error.hint) from None

    def in_repository(self, repository: str, tag: str) -> Place:
        """Find an image, without a permit. Raises NotFound."""
        return self._place(replace(Reference.parse(repository), tag=tag))

    def _place(self, reference: Reference) -> Place:
        assert self.repositories_of_place is not None
        repository = reference.repository
        return Place(
            reference.familiar,
            repository,
            RepositoryReader(self.repositories_of_place, repository),
            self.repositories_of_place.find(repository, reference.digest or reference.tag or ""),
            repository,
            "" if reference.digest else reference.tag or "",
        )

    @staticmethod
    def _absent(name: str) -> NotFound:
        return NotFound(f"no image {name[:300]!r} here", hint="check the name")


def referrers_of(reader: Reader, subjects: Sequence[Digest]) -> list[Descriptor]:
    """Return the manifests that refer to any of these, each once; none if the place does not know them."""
    found: dict[Digest, Descriptor] = {}
    if lists_referrers(reader):
        for subject in subjects:
            for one in reader.referrers(subject):
                found.setdefault(one.digest, one)
    return list(found.values())
