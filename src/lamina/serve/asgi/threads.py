"""A bounded number of worker threads, and a queue for them that does not grow without end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
        future = self.executor.submit(work)
        future.add_done_callback(self._ended(asyncio.get_running_loop()))
        return await asyncio.wrap_future(future)

    def _ended(self, loop: asyncio.AbstractEventLoop) -> Callable[[object], None]:
        """The thread is free when its work ends, even if nobody waits for that any more."""

        def release() -> None:
            self.running -= 1
            self._free.release()

        def ended(_: object) -> None:
            try:
                loop.call_soon_threadsafe(release)
            except RuntimeError:  # the loop has ended
                pass

        return ended

    def count(self) -> float:
        return self.running

    def close(self) -> None:
        """Let no more work begin. Work that runs goes on to its end."""
        self.executor.shutdown(wait=False, cancel_futures=True)
