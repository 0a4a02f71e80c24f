"""What a server allows its clients: sizes, times, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass

PIECE = 256 << 10
"""Bytes of a body that are moved at a time. Measured: smaller pieces cost time for each, larger ones keep others
waiting."""


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    body: int = 64 << 30
    """The largest body of a request."""
    head: int = 64 << 10
    """The largest request line with its headers."""
    headers: int = 200
    connections: int = 4096
    reading: int = 32
    """Requests without a body that are worked on at once."""
    elsewhere: int = 128
    """The same for images of mirrored registries: many may wait for such a registry, and others must not wait for
    them."""
    sending: int = 128
    """Requests with a body that are worked on at once."""
    waiting: float = 30.0
    """How long a request may wait for its turn."""
    head_time: float = 30.0
    """How long a client may take for the head of a request."""
    keep_alive: float = 75.0
    """How long a connection may be idle between two requests."""
    patience: float = 60.0
    """In this time a client has to move ``progress`` bytes of a body."""
    progress: int = 16 << 10
    grace: float = 30.0
    """How long requests may still run when the server stops."""
