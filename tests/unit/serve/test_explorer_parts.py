"""The explorer's parts without a server: facts of trees, parameters, previews, work."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generated import build, numbered, stacks
from lamina.errors import Cancelled, InvalidLayer, NotFound
from lamina.events import Cancel
from lamina.insight.du import weigh
from lamina.layer.name_search import glob
from lamina.serve.explorer.asked import Asked, Refused
from lamina.serve.explorer.cached_layer import SMALL, CachedLayer
from lamina.serve.explorer.catalog import Catalogs
from lamina.serve.explorer.facts import TreeFacts
from lamina.serve.explorer.gallery import Gallery
from lamina.serve.explorer.layer_cache import LayerCache
from lamina.serve.explorer.loopback import check_origin
from lamina.serve.explorer.opened import Choices
from lamina.serve.explorer.preview import decoded, picture_type
from lamina.serve.explorer.reading import AT_ONCE, LayerReading
from lamina.serve.explorer.static_files import static_file
from lamina.serve.explorer.work import Busy, Progress, Work, Working
from lamina.serve.http_message import Asker
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.union.merge import merge
from lamina.union.tree import Tree
from support import layer_index, rounds


def asked(target: str) -> Asked:
    return Asked.parse("GET", target, {}, Asker())


class Layer(CachedLayer):
    """A layer that is not read: ``read`` is called instead."""

    def __init__(self, size: int, read: Callable[[], object]) -> None:
        digest = Digest.of(b"")
        super().__init__(LayerCache("/nothing"), Descriptor("application/x", digest, size), digest, lambda: None)  # type: ignore[arg-type, return-value]
        self.read = read

    def is_ready(self) -> bool:
        return False

    def index(self) -> Any:
        self.on_bytes(self.descriptor.size // 2)
        self.read()


class TestReading:
    def test_large_layers_are_read_together_but_few_at_once_for_all_images(self) -> None:
        guard, together = threading.Lock(), threading.Barrier(AT_ONCE)
        running, most = 0, 0

        def read() -> None:
            nonlocal running, most
            with guard:
                running += 1
                most = max(most, running)
            together.wait(20)
            with guard:
                running -= 1

        reading = LayerReading()
        told = [Progress(Cancel()) for _ in range(2)]
        layers = [Layer(SMALL + 1, read) for _ in range(AT_ONCE)]
        threads = [threading.Thread(target=reading.read, args=(layers, one)) for one in told]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert most == AT_ONCE
        for progress in told:
            assert (progress.done, progress.total) == (AT_ONCE * (SMALL + 1),) * 2
            assert progress.what == f"reading layer {AT_ONCE} of {AT_ONCE}"

    def test_small_layers_are_read_one_after_another(self) -> None:
        threads = []
        progress = Progress(Cancel())
        small = [Layer(SMALL, lambda: threads.append(threading.current_thread())) for _ in range(3)]
        LayerReading().read(small, progress)
        assert threads == [threading.current_thread()] * 3
        assert progress.done == progress.total == 3 * SMALL

    def test_an_error_ends_it_and_leaves_the_turns_to_others(self) -> None:
        def fails() -> None:
            raise NotFound("it was deleted")

        reading = LayerReading()
        for _ in range(AT_ONCE + 1):
            with pytest.raises(NotFound, match="it was deleted"):
                reading.read([Layer(SMALL + 1, fails) for _ in range(3)], Progress(Cancel()))

    def test_who_waits_for_a_turn_can_be_cancelled(self) -> None:
        reading, begun, over = LayerReading(), threading.Barrier(AT_ONCE + 1), threading.Event()

        def read() -> None:
            begun.wait(20)
            over.wait(20)

        busy = threading.Thread(
            target=reading.read, args=([Layer(SMALL + 1, read) for _ in range(AT_ONCE)], Progress(Cancel()))
        )
        busy.start()
        begun.wait(20)
        cancel = Cancel()
        cancel.set()
        with pytest.raises(Cancelled):
            reading.read([Layer(SMALL + 1, read)], Progress(cancel))
        over.set()
        busy.join(20)


class TestFacts:
    @settings(max_examples=rounds(300), deadline=None)
    @given(stacks)
    def test_they_are_what_a_slow_look_finds(self, stack: Any) -> None:
        try:
            tree = merge([build(layer) for layer in numbered(stack)])
        except InvalidLayer:
            return
        facts = TreeFacts(tree)
        every = list(range(len(tree.names)))
        hidden = [node for node in every if not tree.is_alive(node)]
        sizes = {weight.path: weight for weight in weigh(tree, depth=None, files=True)}
        for node in every:
            if not tree.is_alive(node):
                continue
            path = tree.path(node)
            inside = path + b"/" if path else b""
            below = [one for one in hidden if tree.path(one) == path or tree.path(one).startswith(inside)]
            assert facts.older[node] == len(below), path
            assert (facts.sizes[node], facts.files[node]) == (sizes[path].size, sizes[path].files), path
            stated = {tree.layer(one) for one in tree.walk(node)} - {None}
            assert set(facts.numbers(node)) == stated
            touched = {layer for one in below for layer in (tree.origin_layers[one], ended_by(tree, one))}
            assert set(facts.numbers(node, hidden=True)) == stated | touched
        assert sorted(one for some in facts.gone.values() for one in some) == hidden

    def test_a_page_lists_what_is_visible_first_and_hidden_states_behind_it(self) -> None:
        old = layer_index(("d", None), ("d/a", b"1"), ("d/b", b"22"), ("d/z", None), ("d/z/x", b"x"))
        new = layer_index(("d/a", b"333"), ("d/.wh.b", b""), ("d/.wh.z", b""))
        tree = merge([old, new])
        facts = TreeFacts(tree)
        node = tree.lookup(b"d")
        shown = [(tree.names[one], tree.is_alive(one)) for one in facts.sorted(node, "name", True, None)]
        assert shown == [(b"a", True), (b"a", False), (b"b", False), (b"z", False)]
        assert [tree.names[one] for one in facts.sorted(node, "name", False, None)] == [b"a"]
        assert [tree.names[one] for one in facts.sorted(0, "name", False, 0)] == [b"d"]
        assert facts.sorted(node, "name", False, 0) == []
        assert facts.older[node] == 4
        gone = next(one for one in facts.hidden_children(node) if tree.names[one] == b"z")
        assert [tree.names[one] for one in facts.sorted(gone, "name", True, None)] == [b"x"]

    def test_the_largest_come_first(self) -> None:
        tree = merge([layer_index(("a", b"1"), ("b", None), ("b/x", b"4444"), ("c", b"22"))])
        assert [tree.names[one] for one in TreeFacts(tree).sorted(0, "size", False, None)] == [b"b", b"c", b"a"]


def ended_by(tree: Tree, node: int) -> int:
    ending = tree.ending(node)
    assert ending is not None
    return ending.layer


class TestParameters:
    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ("path=/etc/passwd", b"etc/passwd"),
            ("path=etc//passwd/", b"etc/passwd"),
            ("path=/", b""),
            ("", b""),
            ("path=/%3Cimg%20src=x%3E", b"<img src=x>"),
            ("path=/a/../../etc", b"a/../../etc"),  # looked up in the tree, where it never leaves the root
            ("path_b64=" + base64.b64encode(b"/\xff\xfe").decode().replace("+", "%2B"), b"\xff\xfe"),
            ("path_b64=" + base64.b64encode(b"/\xfb\xef\xbe/").decode(), b"\xfb\xef\xbe"),  # a plus in a form
        ],
    )
    def test_a_path_is_bytes_without_slashes_at_its_ends(self, query: str, path: bytes) -> None:
        assert asked(f"/explore/api/tree?{query}").image_path() == path

    @pytest.mark.parametrize(
        "query",
        ["path=/a%00b", "path_b64=%%%", "path_b64=*", "path=/" + "x" * 5000, "path_b64=AA==", "path=%ff"],
    )
    def test_a_bad_path_is_refused(self, query: str) -> None:
        with pytest.raises(Refused) as told:
            asked(f"/explore/api/tree?{query}").image_path()
        assert told.value.status == 400

    @pytest.mark.parametrize("text", ["-1", "1e3", "١", " 1", "0x10", "99999999999999999", "1.5", "nan"])
    def test_a_number_is_digits(self, text: str) -> None:
        with pytest.raises(Refused):
            asked("/x").__class__("/x", {"limit": text}).page()

    def test_a_page_is_bounded(self) -> None:
        assert asked("/x?offset=7&limit=999999").page() == (7, 5000)
        with pytest.raises(Refused):
            asked("/x?limit=0").page()

    @given(st.text(max_size=60))
    def test_no_target_makes_it_fail(self, text: str) -> None:
        try:
            found = asked("/explore/api/tree?" + text)
            path, (offset, limit) = found.image_path(), found.page()
        except Refused:
            return
        assert b"\0" not in path
        assert offset >= 0 < limit <= 5000

    def test_too_many_parameters_and_long_targets_are_refused(self) -> None:
        for target in ("/x?" + "&".join(f"a{n}=1" for n in range(100)), "/x?a=" + "b" * 20_000):
            with pytest.raises(Refused):
                asked(target)


class TestPreview:
    @pytest.mark.parametrize(
        ("data", "complete", "found"),
        [
            (b"plain\n", True, ("utf-8", "plain\n")),
            ("grün\n".encode(), True, ("utf-8", "grün\n")),
            ("grün".encode()[:3], False, ("utf-8", "gr")),  # cut within a character
            ("grün".encode()[:3], True, ("iso-8859-1", "gr\xc3")),
            (b"gr\xfcn und gelb\n", True, ("iso-8859-1", "grün und gelb\n")),
            (b"\xef\xbb\xbfmark", True, ("utf-8", "mark")),
            ("mark €".encode("utf-16"), True, ("utf-16-le", "mark €")),
            (b"\xfe\xff" + "mark".encode("utf-16-be"), True, ("utf-16-be", "mark")),
            (b"\x7fELF\x02\x01\x01\0\0\0", True, None),
            (bytes(range(1, 32)) * 10, True, None),
            (b"\x1b[31mred\x1b[0m\n", True, ("utf-8", "\x1b[31mred\x1b[0m\n")),
            (b"<script>alert(1)</script>", True, ("utf-8", "<script>alert(1)</script>")),
        ],
    )
    def test_text_is_told_by_its_bytes(self, data: bytes, complete: bool, found: object) -> None:
        assert decoded(data, complete=complete) == found

    def test_only_four_types_are_pictures(self) -> None:
        heads = {
            b"\x89PNG\r\n\x1a\nmore": "image/png",
            b"\xff\xd8\xff\xe0": "image/jpeg",
            b"GIF89a": "image/gif",
            b"RIFF1234WEBPVP8 ": "image/webp",
            b"RIFF1234WAVE": "",
            b"<svg xmlns='http://www.w3.org/2000/svg'>": "",
            b"<html>": "",
            b"BM": "",
            b"": "",
        }
        assert {head: picture_type(head) for head in heads} == heads

    @given(st.binary(max_size=200), st.booleans())
    def test_any_bytes_are_text_or_not(self, data: bytes, complete: bool) -> None:
        found = decoded(data, complete=complete)
        assert found is None or isinstance(found[1], str)


class TestStaticFiles:
    @pytest.mark.parametrize(
        "name",
        ["../explorer.py", "..%2fx.js", "/etc/passwd", "a/../../x.js", "x.py", "", ".", "index.html/", "C:x.js"],
    )
    def test_nothing_else_is_served(self, name: str) -> None:
        with pytest.raises(Refused) as told:
            static_file(name)
        assert told.value.status == 404

    def test_a_client_that_has_it_is_told_so(self) -> None:
        first = static_file("index.html")
        assert (first.status, static_file("index.html", first.headers["ETag"]).status) == (200, 304)


class TestOrigin:
    @pytest.mark.parametrize(
        "headers",
        [
            {"host": "evil.example:80"},
            {"host": "127.0.0.1:1", "origin": "http://evil.example"},
            {"host": "127.0.0.1:1", "origin": "null"},
            {"host": "127.0.0.1:1", "sec-fetch-site": "cross-site"},
            {"host": "127.0.0.1:1", "sec-fetch-site": "same-site"},
        ],
    )
    def test_other_pages_are_kept_out(self, headers: dict[str, str]) -> None:
        with pytest.raises(Refused) as told:
            check_origin(headers)
        assert told.value.status == 403

    def test_its_own_page_may_ask(self) -> None:
        check_origin({"host": "127.0.0.1:8", "origin": "http://127.0.0.1:8", "sec-fetch-site": "same-origin"})
        check_origin({"host": "[::1]:8", "sec-fetch-site": "none"})


class TestWork:
    def test_a_result_is_computed_once_and_kept(self) -> None:
        work, calls = Work(), []
        for _ in range(3):
            assert work.get("a", lambda progress: calls.append(1) or "value", wait=10) == "value"
        assert calls == [1]
        work.close()

    def test_what_takes_long_says_how_far_it_is(self) -> None:
        work, go = Work(), threading.Event()
        reached = threading.Event()

        def slow(progress: Progress) -> str:
            progress.begin("reading", 200)
            progress.done = 50
            reached.set()
            go.wait(30)
            return "done"

        with pytest.raises(Working):
            work.get("a", slow, wait=0)
        assert reached.wait(30)
        with pytest.raises(Working) as told:
            work.get("a", slow, wait=0)
        assert told.value.progress.to_json() == {
            "what": "reading",
            "done": 50,
            "total": 200,
            "percent": 25.0,
            "retry_ms": 300,
        }
        go.set()
        assert work.get("a", slow, wait=30) == "done"
        work.close()

    def test_it_says_whether_work_waits(self) -> None:
        work, begun, go = Work(threads=1), threading.Event(), threading.Event()

        def slow(progress: Progress) -> None:
            begun.set()
            go.wait(30)

        with pytest.raises(Working):
            work.get("a", slow, wait=0)
        assert begun.wait(30)
        assert not work.has_waiting
        with pytest.raises(Working):
            work.get("b", lambda progress: None, wait=0)
        assert work.has_waiting
        go.set()
        work.get("b", lambda progress: None, wait=30)
        assert not work.has_waiting
        work.close()

    def test_a_failure_is_told_to_those_who_ask_again(self) -> None:
        work = Work()

        def fail(progress: Progress) -> None:
            raise NotFound("gone")

        for _ in range(2):
            with pytest.raises(NotFound, match="gone"):
                work.get("a", fail, wait=30)
        work.close()

    def test_too_much_work_is_refused(self) -> None:
        work, go = Work(threads=1, waiting=2), threading.Event()
        for key in "ab":
            with pytest.raises(Working):
                work.get(key, lambda progress: go.wait(30), wait=0)
        with pytest.raises(Busy):
            work.get("c", lambda progress: 1, wait=0)
        go.set()
        work.close()

    def test_results_are_dropped_when_there_is_no_room(self) -> None:
        work, calls = Work(room=100), []
        for key in (1, 2, 3, 1, 3):
            work.get(key, lambda progress, key=key: calls.append(key), weigh=lambda one: 60, wait=30)  # type: ignore[misc]
        assert calls == [1, 2, 3, 1, 3]
        work.get(3, lambda progress: calls.append("again"), wait=30)
        assert calls == [1, 2, 3, 1, 3]
        work.close()

    def test_a_result_that_is_not_whole_is_made_again_later(self) -> None:
        work, calls = Work(), []
        for _ in range(2):
            work.get("a", lambda progress: calls.append(1), lasts=lambda one: 0, wait=30)
        assert calls == [1, 1]
        for _ in range(2):
            work.get("b", lambda progress: calls.append(2), lasts=lambda one: 3600, wait=30)
        assert calls == [1, 1, 2]
        work.close()

    def test_work_within_work_does_not_wait_for_a_thread(self) -> None:
        """All threads wait for inner work that nobody has begun: each does it itself."""
        work = Work(threads=2)
        barrier = threading.Barrier(2, timeout=30)
        inner: list[str] = []

        def outer(name: str) -> Any:
            def compute(progress: Progress) -> str:
                barrier.wait()
                found: str = work.within("inner", lambda progress: inner.append(name) or "inner", progress)
                return name + found

            return compute

        results: dict[str, str] = {}

        def ask(name: str) -> None:
            results[name] = work.get(name, outer(name), wait=30)

        threads = [threading.Thread(target=ask, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == {"a": "ainner", "b": "binner"}
        assert len(inner) == 1
        work.close()

    def test_queued_work_is_done_by_the_one_that_needs_it(self) -> None:
        work = Work(threads=1)
        begun = threading.Event()

        def outer(progress: Progress) -> str:
            begun.wait(30)
            return work.within("inner", lambda progress: "mine", progress)

        with pytest.raises(Working):
            work.get("outer", outer, wait=0)
        with pytest.raises(Working):
            work.get("inner", lambda progress: "queued", wait=0)  # the only thread waits for it
        begun.set()
        assert work.get("outer", outer, wait=30) in ("mine", "queued")
        work.close()

    def test_it_ends_when_it_is_closed(self) -> None:
        work, begun = Work(), threading.Event()

        def slow(progress: Progress) -> None:
            begun.set()
            progress.cancel.wait(60)

        with pytest.raises(Working):
            work.get("a", slow, wait=0)
        assert begun.wait(30)
        work.close()
        with pytest.raises(Busy):
            work.get("b", lambda progress: 1, wait=0)


class TestCatalog:
    def test_a_slow_place_is_listed_behind_the_last_catalog(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However long a list takes, it is used once, and those who ask do not wait for the next one."""
        monkeypatch.setattr("lamina.serve.explorer.catalog.FRESH", 0)
        monkeypatch.setattr("lamina.serve.explorer.catalog.SECONDS", 3600)
        go, begun, names = threading.Event(), threading.Event(), ["a"]
        go.set()

        class Place:
            location = "a place"

            def names(self) -> list[str]:
                begun.set()
                assert go.wait(60)
                return list(names)

            def tags(self, repository: str) -> list[str]:
                return []

        place: Any = Place()
        work = Work()
        catalogs = Catalogs(Gallery(place), Choices(Platform.host()), work)
        while True:
            try:
                first = catalogs.all()
                break
            except Working:
                continue
        assert first.turn == 0
        go.clear()
        begun.clear()
        assert [catalogs.all().turn for _ in range(3)] == [0, 0, 0]
        assert begun.wait(60)
        go.set()
        until = time.monotonic() + 60
        while catalogs.all().turn == 0:
            assert time.monotonic() < until
        work.close()


class TestGlob:
    def test_no_name_makes_it_go_back_and_forth(self) -> None:
        """With backtracking over every star this takes longer than the universe lasts."""
        assert not glob(b"*a" * 200 + b"b").fits(b"a" * 4000)
        assert glob(b"*a" * 200).fits(b"a" * 4000)

    @given(st.text("ab?*é", min_size=1, max_size=8), st.text("abé", min_size=1, max_size=8))
    def test_it_finds_what_a_naive_matcher_finds(self, pattern: str, name: str) -> None:
        assert glob(pattern.encode()).fits(name.encode()) == naive(pattern, name)


def naive(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(naive(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and naive(pattern[1:], name[1:])


def test_a_name_of_a_layer_is_looked_up_not_guessed() -> None:
    tree = merge([layer_index(("etc", None), ("etc/passwd", b"x"), ("up", "-> ../../../etc"))])
    assert tree.path(tree.lookup(b"../../../etc/passwd")) == b"etc/passwd"
    assert tree.path(tree.lookup(b"up/passwd", follow=True)) == b"etc/passwd"
