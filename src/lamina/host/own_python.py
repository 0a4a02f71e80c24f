"""Another process of this Python that finds lamina, whatever its environment and its directory say."""

from __future__ import annotations

import os
import sys

from lamina import errors


def module_path() -> list[str]:
    """Return the ``sys.path`` for a Python that was started with ``-S``: that of this process, absolute, with the
    additions of site, and at its end the directory of lamina."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__)))
    return [*(os.path.abspath(word) for word in sys.path), home]
