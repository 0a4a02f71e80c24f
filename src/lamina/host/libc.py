"""The C library, for calls that Python lacks. ctypes takes longer to load than most calls: whoever seldom
needs one imports this where it does."""

from __future__ import annotations

import ctypes
import os
from functools import cache


@cache
def libc() -> ctypes.CDLL:
    """It, with errno kept. Raises as ``ctypes.CDLL`` where a program has none."""
    return ctypes.CDLL(None, use_errno=True)


def failed(path: str | None = None) -> OSError:
    """Why the call that was just made did not work; ``path``: what it was about."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
