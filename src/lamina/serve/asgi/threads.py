"""A bounded number of worker threads, and a queue for them that does not grow without end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from lamina.serve.routes import ApiError

T = TypeVar("T")


class Lane:
    """Runs synchronous work of requests in up to ``width`` threads; ``running`` is how many are at work."""

    def __init__(self, name: str, width: int, waiting: float) -> None:
        self._free = asyncio.Semaphore(width)
        self._waiting = waiting
        self.executor = ThreadPoolExecutor(width, thread_name_prefix=f"lamina-{name}")
        self.running = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread. Raises ApiError (503) if no thread becomes free in time, and what ``work``
        raises."""
        if self._free.locked():
            try:
                async with asyncio.timeout(self._waiting):
                    await self._free.acquire()
            except TimeoutError:
                raise ApiError(
                    503, "TOOMANYREQUESTS", "the server is busy", Retry_After=str(max(1, int(self._waiting)))
                ) from None
        else:
            await self._free.acquire()
        self.running += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        try:
            self.executor.submit(self._work, work, future, loop)
        except RuntimeError:  # it was closed: the server stops
            self._ended(future, None, asyncio.CancelledError())
        return await future

    def _work(self, work: Callable[[], T], future: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: run the work, and tell the loop how it ended."""
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._ended, future, result, failure)

    def _ended(self, future: asyncio.Future[Any], result: object, failure: BaseException | None) -> None:
        """The thread is free now, even if nobody waits for the work any more."""
        self.running -= 1
        self._free.release()
        if future.done():
            return
        if failure is None:
            future.set_result(result)
        elif isinstance(failure, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(failure)

    def count(self) -> float:
        return self.running

    def close(self) -> None:
        """Let no more work begin. Work that runs goes on to its end."""
        self.executor.shutdown(wait=False, cancel_futures=True)
