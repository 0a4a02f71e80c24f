"""What the client of one request may do beyond the request itself: the API asks it, ``access`` answers it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Receiving(Protocol):
    def received(self, repository: str = "") -> dict[str, tuple[str, int]]: ...


class Holdings(Protocol):
    """What a quota needs of the place (``source.served.WritableRepositories`` has it)."""

    @property
    def uploads(self) -> Receiving: ...

    def names(self, after: str = "", limit: int | None = None) -> list[str]: ...

    def usage(self, repository: str) -> int: ...


class UploadPermit(Protocol):
    """How large one upload may be, which counts toward the quota of its repository as long as it is open."""

    def check(self, size: int) -> None:
        """Check that there is room for an upload of this size. Raises ApiError (403 DENIED)."""
        ...

    def grow(self, size: int) -> None:
        """Check the same, and count the upload with this size. Raises ApiError (403 DENIED)."""
        ...

    def ended(self, *, held: bool) -> None:
        """The upload is no longer open. ``held``: its bytes are a blob of the repository now."""
        ...


class Permit(Protocol):
    """Repositories are canonical (``docker.io/library/app``), as in ``source.served``."""

    def may_see(self, repository: str) -> bool:
        """Whether lists show a repository to the client."""
        ...

    def may_pull(self, repository: str) -> bool: ...

    def may_push(self, repository: str) -> bool: ...

    def is_fixed(self, repository: str, tag: str) -> bool:
        """Whether a tag is immutable: made once, never moved."""
        ...

    def may_remove(self, repository: str, tag: str) -> bool:
        """Whether the client, who may delete in the repository, may delete this tag too."""
        ...

    def check_room(self, repository: str, more: int, place: Holdings) -> None:
        """Check that ``more`` bytes fit into the quota. Raises ApiError (403 DENIED)."""
        ...

    def room(self, repository: str, more: int, place: Holdings) -> AbstractContextManager[None]:
        """Check that ``more`` bytes fit into the quota, and count them: while the block takes them in, so that others
        can't take the same room, and afterwards if it succeeds. Raises ApiError (403 DENIED)."""
        ...

    def upload(self, repository: str, ident: str, place: Holdings) -> AbstractContextManager[UploadPermit]:
        """The permit for an upload to which the request writes while the block runs."""
        ...

    def check_links(self, count: int) -> None:
        """Check how many layers a manifest, or manifests an index, names. Raises ApiError."""
        ...


class Everything:
    """A permit without any limit: for servers without access control."""

    def may_see(self, repository: str) -> bool:
        return True

    def may_pull(self, repository: str) -> bool:
        return True

    def may_push(self, repository: str) -> bool:
        return True

    def is_fixed(self, repository: str, tag: str) -> bool:
        return False

    def may_remove(self, repository: str, tag: str) -> bool:
        return True

    def check_room(self, repository: str, more: int, place: Holdings) -> None:
        pass

    def room(self, repository: str, more: int, place: Holdings) -> AbstractContextManager[None]:
        return nullcontext()

    def upload(self, repository: str, ident: str, place: Holdings) -> AbstractContextManager[UploadPermit]:
        return nullcontext(_ANY_SIZE)

    def check_links(self, count: int) -> None:
        pass


class _AnySize:
    def check(self, size: int) -> None:
        pass

    def grow(self, size: int) -> None:
        pass

    def ended(self, *, held: bool) -> None:
        pass


_ANY_SIZE = _AnySize()
EVERYTHING = Everything()
