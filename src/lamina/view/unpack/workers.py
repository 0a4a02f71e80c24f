"""Distributes work to several processes, because Python's global lock makes threads slow.

Each process takes the next piece when it is free, this one included. A process with threads is not forked, because
their locks would be copied in an unknown state; it does all work itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError, SystemFailure, from_plain, to_plain

if TYPE_CHECKING:
    from lamina.events import Cancel

MOST = 4
"""The number of processes: more of them slow each other down in the file system."""
MAX_PIECES = 16_000  # two bytes each, all in the pipe at once (64 KiB)
Work = Callable[[Iterator[int]], Any]
"""Does the pieces that it is given; its result must be expressible in JSON."""


def shared(pieces: int, work: Work, cancel: Cancel | None = None, *, most: int = MOST) -> list[Any]:
    """Call ``work`` with the numbers below ``pieces``, each given to one call, in as many processes as there are
    cores. Returns their results. All processes have ended when this returns or raises.

    Raises what ``work`` raises in this process, its LaminaError in another; Cancelled; SystemFailure (a process was
    killed).
    """
    count = min(most, pieces, _cores())
    if count < 2 or pieces > MAX_PIECES or not hasattr(os, "fork") or threading.active_count() > 1:
        return [work(iter(range(pieces)))]
    taking, giving = os.pipe()
    others: list[tuple[int, int]] = []  # (process, descriptor of its result)
    try:
        os.write(giving, b"".join(number.to_bytes(2, "little") for number in range(pieces)))
        os.close(giving)
        giving = -1
        for _ in range(count - 1):
            others.append(_started(work, taking))
        answers = [work(_taken(taking))]
        while others:
            process, answer = others[-1]
            if cancel is None:
                said = _read(answer)
            else:
                with cancel.calling(lambda process=process: os.kill(process, 9)):  # type: ignore[misc]
                    said = _read(answer)
                cancel.check()
            others.pop()
            os.close(answer)
            os.waitpid(process, 0)
            answers.append(_answer(said))
        return answers
    finally:
        os.close(taking)
        if giving >= 0:
            os.close(giving)
        _end(others)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _taken(taking: int) -> Iterator[int]:
    """Yield numbers of pieces until none is left. A read gets both bytes of a number, because all were written with
    one call."""
    while number := os.read(taking, 2):
        yield int.from_bytes(number, "little")


def _started(work: Work, taking: int) -> tuple[int, int]:
    answer, answering = os.pipe()
    parent = os.getpid()
    process = os.fork()
    if process:
        os.close(answering)
        return process, answer
    code = 1
    try:
        _work(work, taking, answering, parent)
        code = 0
    finally:
        os._exit(code)  # skip everything that the parent would do next


def _work(work: Work, taking: int, answering: int, parent: int) -> None:
    import gc
    import json
    import signal

    gc.disable()  # it would touch, and so copy, all memory of the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets SIGINT too, and ends this process
    try:
        said: dict[str, Any] = {"value": work(_while_alive(taking, parent))}
    except LaminaError as error:
        said = {**to_plain(error)}
    except OSError as error:
        from lamina.host.files import failure

        said = {**to_plain(failure(error))}
    data = json.dumps(said).encode()
    while data:
        data = data[os.write(answering, data) :]


def _while_alive(taking: int, parent: int) -> Iterator[int]:
    for number in _taken(taking):
        if os.getppid() != parent:
            return  # the parent was killed: nobody needs the results
        yield number


def _read(answer: int) -> bytes:
    pieces = []
    while data := os.read(answer, 1 << 16):
        pieces.append(data)
    return b"".join(pieces)


def _answer(said: bytes) -> Any:
    import json

    if not said:
        raise SystemFailure("a process that worked for this one was killed", hint="try again")
    answer = json.loads(said)
    if "error" in answer:
        raise from_plain(answer)
    return answer["value"]


def _end(others: list[tuple[int, int]]) -> None:
    for process, answer in others:
        try:
            os.kill(process, 9)
        except ProcessLookupError:
            pass
        os.waitpid(process, 0)
        os.close(answer)
