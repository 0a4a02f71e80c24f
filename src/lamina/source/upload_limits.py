"""How many uploads may be open at once: begun by clients, and neither finished nor removed."""

from __future__ import annotations

from lamina.errors import RateLimited

MOST = 10_000
MOST_EACH = 1_000
"""In all, and to each repository. A client has a few at a time; what clients leave behind is removed after a day."""
RETRY_AFTER = 60.0


def check_open_uploads(each: int, total: int) -> None:
    """Check that one more may be opened beside those of the repository and those of all. Raises RateLimited."""
    for count, most, where in ((each, MOST_EACH, "to this repository"), (total, MOST, "to this registry")):
        if count >= most:
            raise RateLimited(
                f"{count} uploads {where} are open: at most {most} are allowed",
                hint="finish or cancel some",
                retry_after=RETRY_AFTER,
            )
