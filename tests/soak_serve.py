"""A soak of the registry (`make soak-serve`): many clients push, pull, move and delete while the server is killed by
SIGKILL again and again, and `prune` runs beside; and then nothing that was acknowledged may be lost.

    python tests/soak_serve.py [--seconds 600] [--clients 64] [--kill-every 60] [--seed N] [--storage versitygw]

Each client hashes every byte that it gets. In the end each acknowledged image is read whole, what was deleted must be
absent, each list of tags is complete, and `fsck` finds nothing. Without --storage one server has a store; with it two
servers share a bucket of an S3 server, and are killed in turn. Loopback only.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_index, build_manifest
from lamina.spec.platform import Platform
from object_storage import KINDS, s3_server
from server_process import ServerProcess
from support import lamina, make_tar

T = TypeVar("T")
SHARED = 4
"""Repositories that all clients push tags of their own to: an update that overwrites another's would lose a tag."""
_PATIENCE = 90  # seconds in which a killed server must be back, or a request answered
_SHOWN = 40  # wrong findings that are kept in words


class Cut(Exception):
    """The server closed the connection before it answered, or is not there."""


class Wrong(Exception):
    """The server did what it must not."""


@dataclass(frozen=True)
class Pushed:
    """A document that the server has acknowledged. ``kept``: nobody deletes it, so it must stay whole."""

    repository: str
    digest: Digest
    kept: bool


@dataclass
class Report:
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    wrongs: int = 0
    sent: int = 0
    received: int = 0
    cut: int = 0
    kills: int = 0
    prunes: int = 0
    away: list[float] = field(default_factory=list)
    memory: int = 0
    seconds: float = 0

    def __str__(self) -> str:
        lines = [
            f"{sum(self.done.values())} operations in {self.seconds:.0f} s: "
            + ", ".join(f"{name} {number}" for name, number in sorted(self.done.items())),
            f"{self.sent / 1e6:.0f} MB pushed, {self.received / 1e6:.0f} MB pulled and verified",
            f"{self.kills} kills, {self.cut} requests cut off, the server away for at most "
            f"{max(self.away, default=0):.1f} s; {self.prunes} prunes",
            f"memory of a server: at most {self.memory >> 20} MiB",
        ]
        lines += [f"WRONG: {one}" for one in self.wrong]
        return "\n".join([*lines, f"{self.wrongs} findings" if self.wrongs else "nothing is lost, nothing is wrong"])


class Ledger:
    """What has been acknowledged, by all clients."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.kept: list[Pushed] = []
        self.shared_tags: dict[str, dict[str, Digest]] = {f"soak/shared{n}": {} for n in range(SHARED)}

    def note(self, pushed: Pushed) -> None:
        if pushed.kept:
            with self.guard:
                self.kept.append(pushed)

    def some(self, chance: random.Random) -> Pushed | None:
        with self.guard:
            return chance.choice(self.kept) if self.kept else None


class Connection:
    """The requests of one client to some servers, any of which may die at any moment."""

    def __init__(self, servers: Sequence[str], chance: random.Random, report: Report) -> None:
        self._servers, self._chance, self._report = servers, chance, report
        self._open: dict[str, HTTPConnection] = {}

    def once(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with lower-case names, body. Raises Cut."""
        server = self._chance.choice(self._servers)
        connection = self._open.get(server)
        if connection is None:
            host, _, port = server.rpartition(":")
            connection = self._open[server] = HTTPConnection(host, int(port), timeout=_PATIENCE)
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, HTTPException) as error:
            self._open.pop(server).close()
            if isinstance(error, TimeoutError):
                raise Wrong(f"{method} {path}: no answer in {_PATIENCE} s") from None
            self._report.cut += 1
            raise Cut from None
        self._report.sent += len(body)
        self._report.received += len(data)
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, data

    def ask(
        self, method: str, path: str, *expected: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """As ``once``, again until there is an answer. Raises Wrong if it is not one of ``expected``."""
        return self.until_answered(lambda: self.expect(method, path, *expected, body=body, headers=headers))

    def expect(
        self, method: str, path: str, *expected: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        status, told, data = self.once(method, path, body, headers)
        if status not in expected:
            raise Wrong(f"{method} {path}: {status} {data[:300]!r}, expected {expected}")
        return status, told, data

    def until_answered(self, step: Callable[[], T]) -> T:
        """Run a step again until the servers let it end."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return step()
            except Cut:
                if time.monotonic() > deadline:
                    raise Wrong(f"no server answered in {_PATIENCE} s") from None
                time.sleep(0.05 + self._chance.random() / 10)

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()


class Pusher:
    """Pushes blobs and documents by every way that the specification has."""

    def __init__(self, connection: Connection, chance: random.Random) -> None:
        self._connection, self._chance = connection, chance

    def blob(self, repository: str, descriptor: Descriptor, data: bytes, source: str = "") -> None:
        """Make sure that a blob is in a repository. ``source``: another one that may have it."""
        self._connection.until_answered(lambda: self._blob(repository, descriptor.digest, data, source))

    def _blob(self, repository: str, digest: Digest, data: bytes, source: str) -> None:
        status, _, _ = self._connection.expect("HEAD", f"/v2/{repository}/blobs/{digest}", 200, 404)
        if status == 200:
            return
        uploads = f"/v2/{repository}/blobs/uploads/"
        if source:
            status, told, _ = self._connection.expect("POST", f"{uploads}?mount={digest}&from={source}", 201, 202)
            if status == 201:
                return
            place = _path(told["location"])
        elif self._chance.random() < 0.3:
            self._connection.expect("POST", f"{uploads}?digest={digest}", 201, 202, body=data, headers=_BYTES)
            return
        else:
            place = _path(self._connection.expect("POST", uploads, 202)[1]["location"])
        if self._chance.random() < 0.5:
            place, at = self._chunks(place, data)
        else:
            at = 0
        separator = "&" if "?" in place else "?"
        final = f"{place}{separator}digest={digest}"
        self._connection.expect("PUT", final, 201, body=data[at:], headers=_BYTES)

    def _chunks(self, place: str, data: bytes) -> tuple[str, int]:
        """Send some of the data in chunks, and go on after a cut where the server says; Raises Cut if the upload is
        to start again."""
        at = 0
        while at < len(data) and (at == 0 or self._chance.random() < 0.7):
            size = min(len(data) - at, self._chance.choice([1000, 60_000, 1 << 20]))
            headers = {**_BYTES, "Content-Range": f"{at}-{at + size - 1}"}
            try:
                _, told, _ = self._connection.expect("PATCH", place, 202, body=data[at : at + size], headers=headers)
            except Cut:
                status, told, _ = self._connection.ask("GET", place, 204, 404)
                if status == 404:
                    raise
            if "range" in told:
                last = int(told["range"].rpartition("-")[2])
                at = last + 1 if last else 0
            place = _path(told.get("location", place))
        return place, at

    def document(self, repository: str, name: str, media_type: str, raw: bytes) -> None:
        path = f"/v2/{repository}/manifests/{name}"
        _, told, _ = self._connection.ask("PUT", path, 201, body=raw, headers={"Content-Type": media_type})
        if told.get("docker-content-digest") != str(Digest.of(raw)):
            raise Wrong(f"PUT {path}: the answer tells another digest")


_BYTES = {"Content-Type": "application/octet-stream"}
_ACCEPT = {"Accept": ", ".join([mediatype.OCI_MANIFEST, mediatype.OCI_INDEX])}


def _path(location: str) -> str:
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


class Puller:
    """Reads documents and blobs, and compares every byte with the digest."""

    def __init__(self, connection: Connection, chance: random.Random) -> None:
        self._connection, self._chance = connection, chance

    def image(self, repository: str, name: str | Digest, seen: set[Digest] | None = None) -> Digest:
        """Read a document and all that it names; its digest. Blobs in ``seen`` are only asked for."""
        path = f"/v2/{repository}/manifests/{name}"
        _, told, raw = self._connection.ask("GET", path, 200, headers=_ACCEPT)
        digest = Digest.of(raw)
        if isinstance(name, Digest) and digest != name:
            raise Wrong(f"GET {path}: the bytes are {digest}")
        if told.get("docker-content-digest") != str(digest):
            raise Wrong(f"GET {path}: Docker-Content-Digest is not the digest of the bytes")
        document = json.loads(raw)
        for child in document.get("manifests", []):
            self.image(repository, Digest.parse(child["digest"]), seen)
        for blob in [*document.get("layers", []), *([document["config"]] if "config" in document else [])]:
            self._blob(repository, blob["digest"], blob["size"], seen)
        return digest

    def _blob(self, repository: str, name: str, size: int, seen: set[Digest] | None) -> None:
        path, digest = f"/v2/{repository}/blobs/{name}", Digest.parse(name)
        if seen is not None and digest in seen:
            _, told, _ = self._connection.ask("HEAD", path, 200)
            if int(told.get("content-length", -1)) != size:
                raise Wrong(f"HEAD {path}: Content-Length is {told.get('content-length')}")
            return
        if size > 10 and self._chance.random() < 0.3:
            cut = self._chance.randrange(1, size)
            pieces = [f"bytes=0-{cut - 1}", f"bytes={cut}-"]
            data = b"".join(self._connection.ask("GET", path, 206, headers={"Range": one})[2] for one in pieces)
        else:
            data = self._connection.ask("GET", path, 200)[2]
        if Digest.of(data) != digest:
            raise Wrong(f"GET {path}: {len(data)} bytes that are {Digest.of(data)}")
        if seen is not None:
            seen.add(digest)


class Client:
    """One client with a repository of its own, that it alone changes: so it knows what must be there."""

    def __init__(self, number: int, soak: Soak) -> None:
        self.chance = random.Random(f"{soak.seed} {number}")
        self.repository = f"soak/client{number}"
        self.tags: dict[str, Digest] = {}
        self.mine: list[Pushed] = []
        self.deleted: list[tuple[Digest, bytes]] = []
        self._raw: dict[Digest, bytes] = {}
        self._number, self._made, self._soak = number, 0, soak
        self.connection = Connection([one.name for one in soak.servers], self.chance, soak.report)
        self._push = Pusher(self.connection, self.chance)
        self._pull = Puller(self.connection, self.chance)

    def run(self, end: float) -> None:
        verbs = {
            self.push: 24, self.push_index: 4, self.push_shared: 8, self.attach: 4, self.move: 8, self.pull: 40,
            self.pull_own: 10, self.list_tags: 4, self.delete: 6, self.look_for_deleted: 3, self.push_again: 2,
        }  # fmt: skip
        while time.monotonic() < end:
            verb = self.chance.choices(list(verbs), list(verbs.values()))[0]
            self._soak.attempt(verb, f"client {self._number}")
        self.connection.close()

    # -- writing

    def push(self) -> None:
        kept = self.chance.random() < 0.5
        tag = f"v{self._made}"
        pushed = self._image(self.repository, tag, kept)
        self.tags[tag] = pushed.digest

    def move(self) -> None:
        """The tag "latest" moves. The image that it leaves stays, if another tag keeps it."""
        tag = f"w{self._made}"
        pushed = self._image(self.repository, tag, False)
        self.tags[tag] = pushed.digest
        self._push.document(self.repository, "latest", mediatype.OCI_MANIFEST, self._raw[pushed.digest])
        self.tags["latest"] = pushed.digest

    def push_index(self) -> None:
        """Two images without a tag, then an index that names them."""
        children = []
        for _ in range(2):
            raw = self._documents(self.repository)
            digest = Digest.of(raw)
            self._push.document(self.repository, str(digest), mediatype.OCI_MANIFEST, raw)
            children.append(Descriptor(mediatype.OCI_MANIFEST, digest, len(raw)))
        index = build_index(children)
        tag = f"x{self._made}"
        self._push.document(self.repository, tag, mediatype.OCI_INDEX, index.raw)
        self.tags[tag] = index.descriptor.digest
        self._soak.ledger.note(Pushed(self.repository, index.descriptor.digest, True))

    def push_shared(self) -> None:
        """A tag of one's own in a repository that others change at the same time."""
        repository = self.chance.choice(list(self._soak.ledger.shared_tags))
        tag = f"c{self._number}-{self._made}"
        pushed = self._image(repository, tag, True)
        with self._soak.ledger.guard:
            self._soak.ledger.shared_tags[repository][tag] = pushed.digest

    def attach(self) -> None:
        """An artifact that refers to an image; it is listed at once."""
        if not self.mine:
            return
        subject = self.chance.choice(self.mine)
        subject_raw = self._raw[subject.digest]
        empty = Descriptor.of("application/vnd.oci.empty.v1+json", b"{}")
        note = self.chance.randbytes(100)
        content = Descriptor.of("text/plain", note)
        for descriptor, data in ((empty, b"{}"), (content, note)):
            self._push.blob(self.repository, descriptor, data)
        raw = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": mediatype.OCI_MANIFEST,
                "artifactType": "application/x.soak",
                "config": empty.to_json(),
                "layers": [content.to_json()],
                "subject": Descriptor(mediatype.OCI_MANIFEST, subject.digest, len(subject_raw)).to_json(),
            }
        ).encode()
        digest = Digest.of(raw)
        tag = f"a{self._made}"
        self._made += 1
        self._push.document(self.repository, tag, mediatype.OCI_MANIFEST, raw)
        self.tags[tag] = digest
        path = f"/v2/{self.repository}/referrers/{subject.digest}"
        listed = json.loads(self.connection.ask("GET", path, 200)[2])["manifests"]
        if str(digest) not in [one["digest"] for one in listed]:
            raise Wrong(f"GET {path}: {digest} is not listed")

    def delete(self) -> None:
        if len(self.mine) < 3:
            return
        gone = self.mine.pop(self.chance.randrange(len(self.mine)))
        self.tags = {tag: digest for tag, digest in self.tags.items() if digest != gone.digest}
        path = f"/v2/{gone.repository}/manifests/{gone.digest}"
        status = self.connection.until_answered(lambda: self._delete_once(path))
        if status == 404:
            raise Wrong(f"DELETE {path}: it was pushed, and is not there")
        self.deleted.append((gone.digest, self._raw.pop(gone.digest)))

    def _delete_once(self, path: str) -> int:
        try:
            return self.connection.expect("DELETE", path, 202, 404)[0]
        except Cut:
            again = self.connection.ask("DELETE", path, 202, 404)[0]
            return 202 if again == 404 else again  # the first one was done, or this one

    def push_again(self) -> None:
        """What was deleted comes back by a push."""
        if not self.deleted:
            return
        digest, raw = self.deleted.pop()
        document = json.loads(raw)
        for one in (*document["layers"], document["config"]):
            descriptor = Descriptor(one["mediaType"], Digest.parse(one["digest"]), one["size"])
            data = self._soak.content(descriptor.digest)
            if data is None:
                return
            self._push.blob(self.repository, descriptor, data)
        tag = f"r{self._made}"
        self._made += 1
        self._push.document(self.repository, tag, mediatype.OCI_MANIFEST, raw)
        self._raw[digest] = raw
        self.tags[tag] = digest
        self.mine.append(Pushed(self.repository, digest, False))

    def _image(self, repository: str, tag: str, kept: bool) -> Pushed:
        raw = self._documents(repository)
        digest = Digest.of(raw)
        self._push.document(repository, tag, mediatype.OCI_MANIFEST, raw)
        pushed = Pushed(repository, digest, kept)
        self._soak.ledger.note(pushed)
        if not kept:
            self._raw[digest] = raw
            self.mine.append(pushed)
        return pushed

    def _documents(self, repository: str) -> bytes:
        """Push the blobs of a new image; its manifest."""
        self._made += 1
        size = self.chance.choice([500, 500, 30_000, 30_000, 200_000, 1_500_000])
        content = f"{self._number} {self._made} ".encode() + self.chance.randbytes(size)
        tar = make_tar([("made", content)])
        own = gzip.compress(tar, 1) if self.chance.random() < 0.5 else tar
        kind = mediatype.OCI_LAYER if own is tar else mediatype.OCI_LAYER_GZIP
        base, base_data = self.chance.choice(self._soak.bases)
        top = Descriptor.of(kind, own)
        raw = json.dumps(ImageConfig.build(Platform.host(), diff_ids=[base.digest, Digest.of(tar)]).json).encode()
        config = Descriptor.of(mediatype.OCI_CONFIG, raw)
        pulled = self._soak.ledger.some(self.chance) if self.chance.random() < 0.4 else None
        self._push.blob(repository, base, base_data, pulled.repository if pulled else "")
        self._push.blob(repository, top, own)
        self._push.blob(repository, config, raw)
        self._soak.remember(top.digest, own)
        self._soak.remember(config.digest, raw)
        return build_manifest(config, [base, top]).raw

    # -- reading

    def pull(self) -> None:
        pushed = self._soak.ledger.some(self.chance)
        if pushed is not None:
            self._pull.image(pushed.repository, pushed.digest)

    def pull_own(self) -> None:
        if not self.tags:
            return
        tag, digest = self.chance.choice(list(self.tags.items()))
        found = self._pull.image(self.repository, tag)
        if found != digest:
            raise Wrong(f"{self.repository}:{tag} is {found}, and was pushed as {digest}")

    def list_tags(self) -> None:
        found = self.tags_there()
        if found != sorted(self.tags):
            missing, more = sorted(set(self.tags) - set(found)), sorted(set(found) - set(self.tags))
            raise Wrong(f"tags of {self.repository}: {missing} are missing, {more} were deleted")

    def tags_there(self, repository: str = "") -> list[str]:
        repository = repository or self.repository
        tags: list[str] = []
        path = f"/v2/{repository}/tags/list?n=50"
        while path:
            status, told, raw = self.connection.ask("GET", path, 200, 404)
            if status == 404:
                return tags
            tags += json.loads(raw)["tags"]
            link = told.get("link", "")
            path = _path(link[link.find("<") + 1 : link.find(">")]) if link else ""
        return tags

    def look_for_deleted(self) -> None:
        if self.deleted:
            digest, _ = self.chance.choice(self.deleted)
            path = f"/v2/{self.repository}/manifests/{digest}"
            self.connection.ask("GET", path, 404, headers=_ACCEPT)

    def check(self, seen: set[Digest]) -> None:
        """All that must be there in the end."""
        attempt = self._soak.attempt
        attempt(self.list_tags, f"the end of client {self._number}")
        for digest in {*self.tags.values(), *(one.digest for one in self.mine)}:
            attempt(lambda digest=digest: self._pull.image(self.repository, digest, seen), "check")
        for digest, _ in self.deleted:
            path = f"/v2/{self.repository}/manifests/{digest}"
            attempt(lambda path=path: self.connection.ask("GET", path, 404, headers=_ACCEPT), "check")

    def check_others(self, seen: set[Digest]) -> None:
        """What no client has deleted, and the repositories that all share."""
        ledger = self._soak.ledger
        for one in dict.fromkeys(ledger.kept):
            self._soak.attempt(lambda one=one: self._pull.image(one.repository, one.digest, seen), "check")
        for repository, tags in ledger.shared_tags.items():
            self._soak.attempt(lambda there=repository, tags=tags: self._check_shared(there, tags), "check")

    def _check_shared(self, repository: str, tags: dict[str, Digest]) -> None:
        found = self.tags_there(repository)
        if found != sorted(tags):
            raise Wrong(f"tags of {repository}: {sorted(set(tags) ^ set(found))} are missing, or too much")
        for tag, digest in tags.items():
            _, told, _ = self.connection.ask("HEAD", f"/v2/{repository}/manifests/{tag}", 200, headers=_ACCEPT)
            if told.get("docker-content-digest") != str(digest):
                raise Wrong(f"{repository}:{tag} is not what was pushed")


class Soak:
    """``prune``: removes garbage beside the servers, once for each call; "" or what went wrong."""

    def __init__(
        self,
        servers: Sequence[ServerProcess],
        *,
        seconds: float,
        clients: int,
        kill_every: float,
        seed: int,
        prune: Callable[[], str],
    ) -> None:
        self.servers, self.seconds, self.kill_every, self.seed = servers, seconds, kill_every, seed
        self.report, self.ledger = Report(), Ledger()
        self.bases = [_base(random.Random(f"{seed} base {n}"), 50_000 * 2**n) for n in range(7)]
        self._prune = prune
        self._guard = threading.Lock()
        self._contents: dict[Digest, bytes] = {base.digest: data for base, data in self.bases}
        self._clients = [Client(number, self) for number in range(clients)]

    def run(self) -> Report:
        """Start the servers, and let all clients work until the time is over; check what is there then. The servers
        still run."""
        for server in self.servers:
            server.start()
        began = time.monotonic()
        end = began + self.seconds
        work: list[Callable[[float], None]] = [self._prune_often, *(one.run for one in self._clients)]
        threads = [threading.Thread(target=one, args=(end,)) for one in work]
        for thread in threads:
            thread.start()
        self._kill(end)  # here: a server ends with the thread that started it
        for thread in threads:
            thread.join()
        self.report.seconds = time.monotonic() - began
        seen: set[Digest] = set()
        for client in self._clients:
            client.check(seen)
        self._clients[0].check_others(seen)
        for client in self._clients:
            client.connection.close()
        for server in self.servers:
            server.memory()
        self.report.memory = max(server.highest_memory for server in self.servers)
        return self.report

    def attempt(self, step: Callable[[], object], who: str) -> None:
        """Run a step; note what it finds wrong."""
        name = getattr(step, "__name__", "step")
        try:
            step()
        except Wrong as error:
            self.wrong(f"{who}: {error}")
        except Exception as error:
            self.wrong(f"{who}, {name}: {error!r}")
        with self._guard:
            self.report.done["check" if name == "<lambda>" else name] += 1

    def wrong(self, what: str) -> None:
        with self._guard:
            self.report.wrongs += 1
            if len(self.report.wrong) < _SHOWN:
                self.report.wrong.append(what)

    def remember(self, digest: Digest, data: bytes) -> None:
        """Keep the bytes of small blobs, so that they can be pushed again."""
        if len(data) < 2000:
            with self._guard:
                self._contents[digest] = data

    def content(self, digest: Digest) -> bytes | None:
        with self._guard:
            return self._contents.get(digest)

    def _kill(self, end: float) -> None:
        """Kill one server after the other, and start it again at once."""
        number = 0
        while (pause := min(self.kill_every, end - time.monotonic())) > 0:
            time.sleep(pause)
            if time.monotonic() >= end - 1:
                break
            server = self.servers[number % len(self.servers)]
            number += 1
            if not server.running():
                self.wrong(f"{server.name} has ended by itself: {server.log.read_text()[-1500:]}")
            server.kill()
            self.report.kills += 1
            began = time.monotonic()
            server.start()
            self.report.away.append(time.monotonic() - began)

    def _prune_often(self, end: float) -> None:
        while time.monotonic() < end:
            told = self._prune()
            self.report.prunes += 1
            if told:
                self.wrong(f"prune: {told}")
            time.sleep(min(3, max(0, end - time.monotonic())))


def _base(chance: random.Random, size: int) -> tuple[Descriptor, bytes]:
    tar = make_tar([("base", chance.randbytes(size))])
    return Descriptor.of(mediatype.OCI_LAYER, tar), tar


def soak_storage(top: Path, kind: str, *, seconds: float, clients: int, kill_every: float, seed: int) -> Report:
    """A soak of two servers over one bucket of an S3 server of this kind, which run below ``top``."""
    with s3_server(kind, top) as s3:
        words = ("--storage", s3.url)
        servers = [
            ServerProcess(top / "none", *words, "--writable", log=top / f"log{number}", environment=s3.environment)
            for number in range(2)
        ]

        def prune() -> str:
            return failure(lamina("prune", "--force", *words, root=top / "none", **s3.environment))

        try:
            soak = Soak(servers, seconds=seconds, clients=clients, kill_every=kill_every, seed=seed, prune=prune)
            report = soak.run()
            _finish(soak)
        finally:
            for server in servers:
                server.close()
        for verb in ("fsck", "prune", "fsck"):
            told = failure(
                lamina(verb, *words, *(["--force"] if verb == "prune" else []), root=top / "none", **s3.environment)
            )
            if told:
                soak.wrong(f"{verb}: {told}")
    return report


def _finish(soak: Soak) -> None:
    """Stop the servers; look into their logs."""
    for server in soak.servers:
        if code := server.stop():
            soak.wrong(f"the exit code of the server at {server.name} is {code}")
        if "Traceback" in (told := server.log.read_text()):
            soak.wrong(f"a traceback in the log of the server at {server.name}: {told[-3000:]}")


def failure(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a command says that has failed."""
    if done.returncode == 0:
        return ""
    return f"exit code {done.returncode}: {(done.stdout + done.stderr).decode(errors='replace')[-3000:]}"


def soak_store(top: Path, *, seconds: float, clients: int, kill_every: float, seed: int) -> Report:
    """A soak of one server over the store below ``top``."""
    root = top / "store"
    server = ServerProcess(root, "--writable", log=top / "log")
    try:
        soak = Soak(
            [server],
            seconds=seconds,
            clients=clients,
            kill_every=kill_every,
            seed=seed,
            prune=lambda: failure(lamina("prune", "--force", root=root)),
        )
        report = soak.run()
        _finish(soak)
    finally:
        server.close()
    for words in (["fsck"], ["prune", "--force"], ["fsck"]):
        if told := failure(lamina(*words, root=root)):
            soak.wrong(f"{words[0]}: {told}")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=64, help="how many clients at once (default 64)")
    parser.add_argument("--kill-every", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--storage", choices=KINDS, help="two servers over a bucket of this S3 server")
    options = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="lamina-soak-serve-"))
    print(f"seed {options.seed}, in {top}", flush=True)
    work = functools.partial(soak_storage, kind=options.storage) if options.storage else soak_store
    report = work(
        top, seconds=options.seconds, clients=options.clients, kill_every=options.kill_every, seed=options.seed
    )
    print(report)
    if not report.wrongs:
        shutil.rmtree(top, ignore_errors=True)
    return bool(report.wrongs)


if __name__ == "__main__":
    sys.exit(main())
