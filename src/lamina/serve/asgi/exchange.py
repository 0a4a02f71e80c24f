"""What is known of a request and its answer, for metrics and the access log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lamina.serve.asgi.forwarded import Client


@dataclass
class Exchange:
    """A request of a client. ``kind``: the kind of its route, one of few; ``status``: 0 as long as there is no
    answer; ``received`` and ``sent`` are bytes of the bodies."""

    method: str
    target: str
    client: Client
    headers: Mapping[str, str]
    kind: str = "other"
    repository: str = ""
    user: str = ""
    status: int = 0
    received: int = 0
    sent: int = 0
