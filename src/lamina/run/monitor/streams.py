"""Options of commands that attach to a container (pure): docker's syntax, parsed."""

from __future__ import annotations

from lamina.errors import UsageError

KEYS = b"\x10\x11"
"""What detaches by default: ctrl-p, ctrl-q."""
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}
_STREAMS = {"stdin": "i", "stdout": "o", "stderr": "e"}


def parse_keys(word: str) -> bytes:
    """docker's ``--detach-keys``: letters, and ctrl-X, separated by commas; "" is ctrl-p,ctrl-q. Raises
    UsageError."""
    if not word:
        return KEYS
    found = b""
    for key in word.split(","):
        letter = key.removeprefix("ctrl-")
        if len(letter) != 1 or not letter.isascii():
            raise UsageError(f"{word!r:.60} are not keys", hint="write them like ctrl-p,ctrl-q")
        if letter == key:
            found += key.encode()
        elif letter in _CONTROL:
            found += bytes([_CONTROL[letter]])
        elif letter.isalpha():
            found += bytes([ord(letter.lower()) - ord("a") + 1])
        else:
            raise UsageError(f"{word!r:.60} are not keys", hint="write them like ctrl-p,ctrl-q")
    return found


def parse_stream(word: str) -> str:
    """stdin, stdout or stderr, in any case. Raises UsageError."""
    if word.lower() not in _STREAMS:
        raise UsageError(f"unknown stream {word!r:.60}", hint="choose stdin, stdout or stderr")
    return word.lower()


def letters(streams: tuple[str, ...]) -> bytes:
    """The letters of these streams in ``packets.ATTACH``."""
    return "".join(_STREAMS[word] for word in streams).encode()
