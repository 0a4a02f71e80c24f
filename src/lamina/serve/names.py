"""Names of repositories: as people write them, and in full."""

from __future__ import annotations

from functools import lru_cache

from lamina.errors import UsageError
from lamina.spec.reference import Reference


@lru_cache(maxsize=1 << 15)
def familiar(repository: str) -> str:
    """A repository as people write it; two names of the same one give the same text. "" if it is not one, such as the
    name of an image (``spec.reference.familiar``)."""
    reference = _repository(repository)
    return "" if reference is None else reference.familiar


def canonical_repository(name: str) -> str:
    """The canonical name of a repository; "" if the text names none."""
    reference = _repository(name)
    return "" if reference is None else reference.repository


def _repository(name: str) -> Reference | None:
    try:
        reference = Reference.parse(name)
    except UsageError:
        return None
    return None if reference.tag or reference.digest else reference
