"""What holds for all tests."""

from __future__ import annotations

import os

# the commands that tests start keep what they compiled: each would compile the whole of lamina anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
