"""The log driver ``k8s-file``: lines of the CRI format, as conmon writes them for podman (pure)."""

from __future__ import annotations

from lamina.run.logs import stamp

_NAMES = {1: b"stdout", 2: b"stderr"}


class CriEncoder:
    """Holds nothing back: an unfinished line is written as a partial one (P), its end as a full one (F)."""

    def encode(self, stream: int, data: bytes, now: int) -> bytes:
        start = b"%s+00:00 %s " % (stamp.fixed(now)[:-1].encode(), _NAMES[stream])
        whole, newline, rest = data.rpartition(b"\n")
        lines = b""
        if newline:
            lines = start + b"F " + whole.replace(b"\n", b"\n%sF " % start) + b"\n"
        if rest:
            lines += start + b"P " + rest + b"\n"
        return lines

    def rest(self, now: int) -> bytes:
        return b""
