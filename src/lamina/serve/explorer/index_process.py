"""A process of its own that reads a large layer and writes its derived files: it takes a processor for seconds, which
clients that pull and push would wait for. The blob comes through its standard input, so that it needs no access to
the place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from lamina.errors import InvalidContent, LaminaError, SystemFailure
from lamina.events import Cancel
from lamina.host.files import CHUNK
from lamina.serve.explorer.derived_files import make_files
from lamina.serve.explorer.layer_cache import LayerCache
from lamina.source.verify import damage_reported
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from typing import IO

    from lamina.serve.explorer.derived_files import OnBytes
    from lamina.source.protocols import Blob, Stream

_START = "from lamina.serve.explorer.index_process import main; main()"
_NICER = 10


def make_apart(
    cache: LayerCache, blob: Blob, diff_id: Digest, *, on_bytes: OnBytes, cancel: Cancel | None = None
) -> bool:
    """Make the derived files of a layer in another process; False if none can be started. Raises NotFound,
    InvalidContent, SystemFailure, Cancelled."""
    if not sys.executable:
        return False
    descriptor = blob.descriptor
    told = {
        "directory": cache.directory,
        "room": cache.room,
        "max_layer": cache.max_layer,
        "media_type": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
        "diff_id": str(diff_id),
    }
    with blob.open() as stream:  # first of all: a blob that is not there needs no process
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server
            )
        except (OSError, ValueError):
            return False
        try:
            with damage_reported(blob):
                _feed(process, stream, on_bytes, cancel)
                _check(process, descriptor)
        finally:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            process.wait()
    return True


def _feed(process: subprocess.Popen[bytes], stream: Stream, on_bytes: OnBytes, cancel: Cancel | None) -> None:
    assert process.stdin is not None
    _widen(process.stdin)
    done = 0
    with suppress(BrokenPipeError):  # it has found a fault, and says which
        while data := stream.read(CHUNK):
            if cancel is not None:
                cancel.check()
            process.stdin.write(data)
            done += len(data)
            on_bytes(done)
        process.stdin.flush()
    with suppress(BrokenPipeError):
        process.stdin.close()


def _widen(pipe: IO[bytes]) -> None:
    """Let the pipe hold a whole chunk: with the usual 64 KiB the two processes wait for each other more often, and
    where processors are busy each wait is long."""
    with suppress(ImportError, AttributeError, OSError):  # another system, or all pipe memory of this user is in use
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, CHUNK)


def _check(process: subprocess.Popen[bytes], descriptor: Descriptor) -> None:
    assert process.stdout is not None
    answer = process.stdout.read(100_000)
    try:
        found = json.loads(answer)
    except ValueError:
        raise SystemFailure(
            f"the process that reads layer {descriptor.digest} has ended", hint="check the memory of this machine"
        ) from None
    if found.get("invalid"):
        raise InvalidContent(found["invalid"], hint=found["hint"])
    if found.get("failed"):
        raise SystemFailure(found["failed"], hint=found["hint"])


class _Piped:
    """The blob that comes through standard input."""

    origin = ""

    def __init__(self, descriptor: Descriptor, file: IO[bytes]) -> None:
        self.descriptor = descriptor
        self._file = file

    def open(self, start: int = 0, end: int | None = None) -> IO[bytes]:
        return self._file


def main() -> None:
    """Read what is to be made from the first argument, and the blob from standard input; say on standard output
    whether it was made."""
    told = json.loads(sys.argv[1])
    if hasattr(os, "nice"):
        os.nice(_NICER)
    cache = LayerCache(told["directory"], room=told["room"], max_layer=told["max_layer"])
    descriptor = Descriptor(told["media_type"], Digest.parse(told["digest"]), told["size"])
    answer: dict[str, str | None] = {}
    try:
        make_files(cache, _Piped(descriptor, sys.stdin.buffer), Digest.parse(told["diff_id"]))
    except InvalidContent as error:
        answer = {"invalid": error.message, "hint": error.hint}
    except LaminaError as error:
        answer = {"failed": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
