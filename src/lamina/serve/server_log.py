"""What a server tells its operator on standard error: lines that nobody outside can forge."""

from __future__ import annotations

import logging

from lamina.text import clean


class OneLine(logging.Formatter):
    """A message is one line: other registries and clients have a part in its text. Only a traceback has more."""

    def format(self, record: logging.LogRecord) -> str:
        lines = [clean(record.getMessage())]
        if record.exc_info:
            lines += map(clean, self.formatException(record.exc_info).split("\n"))
        return "\n".join(lines)


def protect_standard_error() -> None:
    """Write log messages, which go to standard error where no handler takes them, as ``OneLine`` does."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(OneLine())
