"""The access log: one line for each request, as JSON or as text, written by a thread of its own."""

from __future__ import annotations

import json
import os
import queue
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

from lamina.events import start_threads
from lamina.host.files import reported, write_all
from lamina.text import clean

if TYPE_CHECKING:
    from lamina.serve.asgi.exchange import Exchange

WAITING = 10_000
"""Lines that wait for a slow disk; those beyond are counted, and left out."""
MAX_TEXT = 512
_SHOWN = frozenset({"digest", "mount", "from", "n", "last", "artifactType", "ns", "tag", "scope", "service", "path"})
"""Parameters whose values are written. The value of another one may be a secret."""


def line_of(exchange: Exchange, moment: datetime, seconds: float, form: str) -> bytes:
    """Return the line of a request. ``form``: "json" or "text". Control characters are escaped."""
    agent = exchange.headers.get("user-agent", "")[:MAX_TEXT]
    target = shown_target(exchange.target)
    if form == "text":
        words = (
            exchange.client.address or "unix",
            exchange.user or "-",
            moment.strftime("[%Y-%m-%dT%H:%M:%S%z]"),
            f'"{exchange.method} {target}"',
            exchange.status or "-",
            exchange.sent,
            exchange.received,
            f"{seconds:.3f}",
            json.dumps(agent),
        )
        return (" ".join(clean(str(word)) for word in words) + "\n").encode(errors="backslashreplace")
    entry = {
        "time": moment.isoformat(timespec="milliseconds"),
        "address": exchange.client.address or "unix",
        "user": exchange.user,
        "method": exchange.method,
        "target": target,
        "kind": exchange.kind,
        "status": exchange.status,
        "received": exchange.received,
        "sent": exchange.sent,
        "seconds": round(seconds, 4),
        "agent": agent,
    }
    return json.dumps(entry).encode() + b"\n"


def shown_target(target: str) -> str:
    """Return the path of a request with its parameters, but without values that may be secret."""
    path, mark, query = target.partition("?")
    path = path[:MAX_TEXT]
    if not mark:
        return path
    try:
        fields = parse_qsl(urlsplit(f"?{query}").query, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return f"{path}?..."
    shown = [(key[:40], quote(value[:200], safe=":/") if key in _SHOWN else "...") for key, value in fields]
    return f"{path}?{'&'.join(f'{quote(key)}={value}' for key, value in shown)}"


class AccessLog:
    """Appends lines to a file, or to standard error (``-``). ``note`` never waits."""

    def __init__(self, path: str, form: str = "json") -> None:
        """Raises SystemFailure."""
        self._path, self._form = path, form
        self._lines: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._dropped = 0
        self._descriptor = self._opened()
        self._thread = threading.Thread(target=self._write, name="lamina-access-log", daemon=True)
        start_threads([self._thread])

    def note(self, exchange: Exchange, seconds: float) -> None:
        line = line_of(exchange, datetime.now(UTC), seconds, self._form)
        try:
            if self._dropped:
                self._lines.put_nowait(b'{"dropped": %d}\n' % self._dropped)
                self._dropped = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def reopen(self) -> None:
        """Open the file anew, after it was renamed by what rotates logs. Raises SystemFailure."""
        if self._path != "-":
            fresh = self._opened()
            os.dup2(fresh, self._descriptor, inheritable=False)
            os.close(fresh)

    def close(self) -> None:
        """Write what waits, for a second at most."""
        try:
            self._lines.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(1)

    def _opened(self) -> int:
        if self._path == "-":
            return 2
        with reported(self._path):
            return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o640)

    def _write(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            while len(lines) < 1000:
                try:
                    lines.append(self._lines.get_nowait())
                except queue.Empty:
                    break
            ended = None in lines
            try:
                write_all(self._descriptor, b"".join(line for line in lines if line is not None))
            except OSError:
                continue  # a full disk loses lines, not requests
