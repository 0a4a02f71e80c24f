"""Object storage in memory with a clock of its own, and actors whose requests are interleaved by a random choice."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from lamina.errors import SystemFailure
from lamina.objects.bucket import Found, Listed, Version
from lamina.objects.removal import Clock


class Killed(BaseException):
    """The process of an actor was killed."""


@dataclass
class _Object:
    data: bytes
    tag: int
    modified: float


class ModelWriting:
    """``Writing`` in memory: nobody sees the object before it is closed."""

    def __init__(self, bucket: ModelBucket, key: str) -> None:
        self._bucket, self._key = bucket, key
        self._data = b""

    def write(self, pieces: Iterable[bytes]) -> None:
        self._data += b"".join(pieces)
        self._bucket.request("part", self._key)

    def close(self) -> None:
        self._bucket.put(self._key, self._data)


class ModelBucket:
    """``Bucket`` in memory. ``before`` is called before each request. A list is read in small pages, between which
    others change the bucket."""

    location = "model:"

    def __init__(self, before: Callable[[], None] = lambda: None, page: int = 3) -> None:
        self.objects: dict[str, _Object] = {}
        self.time = 1_000_000.0
        self.requests: list[tuple[str, str]] = []
        self._before = before
        self._page = page
        self._tags = itertools.count()
        self._guard = threading.Lock()

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.advance)

    def advance(self, seconds: float) -> None:
        self.time += seconds

    def request(self, what: str, key: str) -> None:
        self._before()
        self.requests.append((what, key))

    def get(self, key: str) -> Found | None:
        self.request("get", key)
        one = self.objects.get(key)
        return None if one is None else Found(one.data, {"e_tag": str(one.tag)}, one.modified)

    def head(self, key: str) -> Listed | None:
        self.request("head", key)
        one = self.objects.get(key)
        return None if one is None else Listed(key, len(one.data), one.modified)

    def put(self, key: str, data: bytes) -> Version:
        self.request("put", key)
        return self._put(key, data)

    def _put(self, key: str, data: bytes) -> Version:
        with self._guard:
            tag = next(self._tags)
            self.objects[key] = _Object(bytes(data), tag, self.time)
            return {"e_tag": str(tag)}

    def write(self, key: str, part: int) -> ModelWriting:
        return ModelWriting(self, key)

    def create(self, key: str, data: bytes) -> Version | None:
        self.request("create", key)
        return None if key in self.objects else self._put(key, data)

    def swap(self, key: str, data: bytes, version: Version) -> Version | None:
        self.request("swap", key)
        one = self.objects.get(key)
        if one is None or str(one.tag) != version["e_tag"]:
            return None
        assert one.data != data, "storage compares contents: they must differ"
        return self._put(key, data)

    def delete(self, key: str) -> None:
        self.request("delete", key)
        self.objects.pop(key, None)

    def delete_all(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        while True:
            self.request("list", prefix)
            found = sorted(key for key in self.objects if key.startswith(f"{prefix}/") and key > after)[: self._page]
            page = [Listed(key, len(self.objects[key].data), self.objects[key].modified) for key in found]
            yield from page
            if len(page) < self._page:
                return
            after = page[-1].key

    def stream(self, key: str, start: int, end: int) -> Iterator[bytes]:
        self.request("stream", key)
        if key not in self.objects:
            raise SystemFailure(f"{key} is not in {self.location}")
        return iter([self.objects[key].data[start:end]])

    def url(self, key: str, seconds: int) -> str:
        return ""


class AtOnce(Executor):
    """Runs everything in the thread that asks for it."""

    def submit(self, function: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*words, **named))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, function: Callable[..., Any], *values: Any, **_: Any) -> Iterator[Any]:
        return map(function, *values)


class Stage:
    """Actors, each in a thread, of which one runs at a time: at each request the next one is chosen anew. ``kills``:
    how probable it is that an actor is killed there."""

    def __init__(self, choice: random.Random, kills: float = 0.0) -> None:
        self._choice = choice
        self._kills = kills
        self._turn = threading.Condition()
        self._waiting: list[str] = []
        self._chosen = ""
        self._dead: set[str] = set()

    def step(self) -> None:
        """Wait until this actor is chosen."""
        name = threading.current_thread().name
        if not name.startswith("actor-"):
            return
        with self._turn:
            if name in self._dead:
                raise Killed
            self._waiting.append(name)
            self._turn.notify_all()
            assert self._turn.wait_for(lambda: self._chosen == name, 60), "the stage is stuck"
            self._chosen = ""
            if self._choice.random() < self._kills:
                self._dead.add(name)
                raise Killed

    def play(self, actors: Sequence[Callable[[], None]]) -> None:
        """Run all actors to their end. Raises what one of them raises."""
        errors: list[BaseException] = []

        def run(actor: Callable[[], None]) -> None:
            try:
                actor()
            except Killed:
                pass
            except BaseException as error:
                errors.append(error)
            finally:
                with self._turn:
                    living.discard(threading.current_thread().name)
                    self._turn.notify_all()

        threads = [
            threading.Thread(target=run, args=(actor,), name=f"actor-{number}", daemon=True)
            for number, actor in enumerate(actors)
        ]
        living = {thread.name for thread in threads}
        self._dead.clear()
        for thread in threads:
            thread.start()
        while True:
            with self._turn:
                settled = self._turn.wait_for(lambda: not self._chosen and len(self._waiting) == len(living), 60)
                assert settled, "an actor does not come back"
                if not living:
                    break
                self._chosen = self._choice.choice(sorted(self._waiting))
                self._waiting.remove(self._chosen)
                self._turn.notify_all()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
