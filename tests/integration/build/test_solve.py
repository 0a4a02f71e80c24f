"""Solving planned steps in a real store: what is run, what comes from the cache, and what is left after a failure."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.build.solving import Build, Workers, copy, inline, run
from lamina.build.errors import ProgramFailed, StepFailed
from lamina.build.events import VertexDone, VertexLog, VertexStarted
from lamina.build.solving.cache import Cache
from lamina.build.steps import FromStep, RunMount, RunStep, Step
from lamina.errors import Cancelled, NotFound
from lamina.source.stack import Stack
from lamina.spec.digest import Digest
from lamina.spec.image_config import History
from lamina.store.prune import prune
from lamina.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def chain(*texts: str) -> RunStep:
    step: RunStep | None = None
    for text in texts:
        step = run(text, step)
    assert step is not None
    return step


def files_in(store: Store, name: str) -> list[str]:
    directory = os.path.join(store.paths.build, name)
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def test_each_step_sees_what_the_steps_below_made(store: Store) -> None:
    workers = Workers()
    (result,) = Build(store, workers).solve(chain("make a", "make b", "make c"))
    assert workers.seen == {"make a": [], "make b": [b"a"], "make c": [b"a", b"b"]}
    assert len(result.layers) == 3
    assert result.made is not None


def test_a_second_build_runs_nothing_and_has_the_same_layers(store: Store) -> None:
    first = Build(store, Workers()).solve(chain("make a", "make b"))
    build = Build(store, Workers())
    assert build.solve(chain("make a", "make b")) == first
    assert build.workers.done == []
    assert [step.cached for step in build.ran] == [True, True]
    assert all(event.cached for event in build.events if isinstance(event, VertexDone))


def test_a_step_that_changes_nothing_makes_no_layer(store: Store) -> None:
    build = Build(store, Workers())
    (result,) = build.solve(chain("make a", "nothing", "make b"))
    assert len(result.layers) == 2
    again = Build(store, Workers())
    assert again.solve(chain("make a", "nothing", "make b")) == [result]
    assert again.workers.done == []


def test_the_same_instruction_twice_is_two_steps(store: Store) -> None:
    """The first one changed nothing, so the layers below are the same for both."""
    build = Build(store, Workers())
    build.solve(chain("make a", "nothing", "nothing", "nothing more"))
    assert build.workers.done == ["make a", "nothing", "nothing", "nothing more"]
    again = Build(store, Workers())
    again.solve(chain("make a", "nothing", "nothing", "nothing more"))
    assert again.workers.done == []


def test_a_changed_step_and_those_above_it_run_again(store: Store) -> None:
    Build(store, Workers()).solve(chain("make a", "make b", "make c"))
    build = Build(store, Workers())
    build.solve(chain("make a", "make x", "make c"))
    assert build.workers.done == ["make x", "make c"]


def test_equal_layers_below_are_the_same_to_the_steps_above(store: Store) -> None:
    """The key depends on what is below, not on how it was made."""
    Build(store, Workers()).solve(chain("make a", "make b"))
    build = Build(store, Workers(), no_cache_filter=())
    build.solve(run("make b", run("make a", no_cache=True)))
    assert build.workers.done == ["make a"]


def test_a_changed_file_of_the_context_runs_its_copy_again(store: Store) -> None:
    Build(store, Workers()).solve(copy("copy a", run("make x")))
    build = Build(store, Workers())
    build.files["a"] = b"2"
    build.solve(copy("copy a", run("make x")))
    assert build.workers.done == ["copy a"]
    (ran,) = [step for step in build.ran if not step.cached]
    assert ran.differs == (("context ('a',)", "a=b'1'", "a=b'2'"),)
    assert ran.reason == "context ('a',) changed"


WHY: list[tuple[str, Step, str]] = [
    ("another command", run("make z", run("make a")), "command changed"),
    ("another base", run("make b", run("make q")), "layers below changed"),
    ("no such place", run("make q", stage="t"), "nothing is recorded of this step"),
    ("another user", run("make b", run("make a"), user="me"), "user changed"),
    ("no cache", run("make b", run("make a"), no_cache=True), "the cache was not asked"),
]


@pytest.mark.parametrize(("step", "reason"), [case[1:] for case in WHY], ids=[case[0] for case in WHY])
def test_why_a_step_ran(store: Store, step: Step, reason: str) -> None:
    Build(store, Workers()).solve(chain("make a", "make b"))
    build = Build(store, Workers())
    build.solve(step)
    assert build.ran[-1].reason == reason


def test_independent_steps_run_at_the_same_time(store: Store) -> None:
    both = threading.Barrier(2, timeout=20)
    workers = Workers(lambda text: (both.wait(), None)[1] if text != "copy end" else None)
    one, two = run("make a"), run("make b", stage="t")
    Build(store, workers).solve(copy("copy end", one, of=two))
    assert sorted(workers.done[:2]) == ["make a", "make b"]
    assert workers.done[2:] == ["copy end"]


def test_equal_steps_of_one_build_run_once(store: Store) -> None:
    build = Build(store, Workers())
    results = build.solve(run("make a"), run("make a", stage="t"), run("make a", no_cache=True))
    assert build.workers.done == ["make a"]
    assert len(set(results)) == 1


def test_equal_steps_of_concurrent_builds_run_once(store: Store) -> None:
    began, go = threading.Event(), threading.Event()

    def work(text: str) -> None:
        began.set()
        assert go.wait(20)

    builds = [Build(store, Workers(work)) for _ in range(2)]
    threads = [threading.Thread(target=build.solve, args=(run("make a"),)) for build in builds]
    threads[0].start()
    assert began.wait(20)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join()
    assert [build.workers.done for build in builds] == [["make a"], []]


def test_only_what_the_target_needs_is_solved(store: Store) -> None:
    workers = Workers()
    run("make unneeded")
    Build(store, workers).solve(run("make a"))
    assert workers.done == ["make a"]


def test_a_deep_chain_is_solved_without_deep_recursion(store: Store) -> None:
    (result,) = Build(store, Workers()).solve(chain(*["nothing"] * 1500, "make a"))
    assert len(result.layers) == 1


def fails(error: Exception) -> Callable[[str], None]:
    def work(text: str) -> None:
        if "bad" in text:
            raise error

    return work


def test_a_failed_program_is_an_error_with_step_line_and_exit_code(store: Store) -> None:
    build = Build(store, Workers(fails(ProgramFailed('process "x" exit code: 3', code=3))))
    with pytest.raises(StepFailed, match=r'^Dockerfile:1: make bad: process "x" exit code: 3$') as failed:
        build.solve(run("make bad", run("make a")))
    assert (failed.value.code, failed.value.label, failed.value.exit_code) == (3, "make bad", 1)
    assert isinstance(build.events[-1], VertexDone)
    assert build.events[-1].error == 'process "x" exit code: 3'


def test_the_exit_code_of_another_error_stays(store: Store) -> None:
    with pytest.raises(StepFailed) as failed:
        Build(store, Workers(fails(NotFound("no file", hint="look")))).solve(run("bad"))
    assert (failed.value.code, failed.value.exit_code, failed.value.hint) == (None, 3, "look")


def test_after_a_failure_the_next_build_goes_on_from_the_last_finished_step(store: Store) -> None:
    with pytest.raises(StepFailed):
        Build(store, Workers(fails(ProgramFailed("no", code=1)))).solve(
            chain("make a", "make b", "make bad", "make c")
        )
    build = Build(store, Workers())
    build.solve(chain("make a", "make b", "make bad", "make c"))
    assert build.workers.done == ["make bad", "make c"]


def test_a_failure_stops_what_runs_beside_it(store: Store) -> None:
    build = Build(store, Workers())
    began, stopped = threading.Event(), threading.Event()

    def work(text: str) -> None:
        if text == "make bad":
            assert began.wait(20)
            raise ProgramFailed("no", code=1)
        began.set()
        try:
            build.cancel.wait(20)
        except Cancelled:
            stopped.set()
            raise

    build.workers = Workers(work)
    with pytest.raises(StepFailed, match="make bad"):
        build.solve(run("make slow"), run("make bad", stage="t"))
    assert stopped.is_set()
    assert {event.error for event in build.events if isinstance(event, VertexDone)} == {"no", "CANCELED"}


def test_a_cancelled_build_starts_nothing_more(store: Store) -> None:
    build = Build(store, Workers())
    build.workers = Workers(lambda text: build.cancel.set())
    with pytest.raises(Cancelled):
        build.solve(chain("make a", "make b"))
    assert build.workers.done == ["make a"]
    assert files_in(store, "locks") == []


def test_prune_keeps_the_layers_of_the_cache(store: Store) -> None:
    (result,) = Build(store, Workers()).solve(chain("make a", "make b"))
    prune(store, all=True, grace=0)
    assert all(store.blobs.has(layer.descriptor) for layer in result.layers)
    build = Build(store, Workers())
    build.solve(chain("make a", "make b"))
    assert build.workers.done == []


def test_without_the_cache_its_layers_are_removed_and_the_steps_run_again(store: Store) -> None:
    (result,) = Build(store, Workers()).solve(chain("make a", "make b"))
    freed = Cache(store).clear()
    assert freed == sum(layer.descriptor.size for layer in result.layers)
    prune(store, grace=0)
    assert not any(store.blobs.has(layer.descriptor) for layer in result.layers)
    build = Build(store, Workers())
    build.solve(chain("make a", "make b"))
    assert build.workers.done == ["make a", "make b"]


def test_a_record_without_its_layer_does_not_count(store: Store) -> None:
    (result,) = Build(store, Workers()).solve(chain("make a", "make b"))
    os.unlink(store.blobs.path(result.layers[0].descriptor.digest))
    build = Build(store, Workers())
    assert build.solve(chain("make a", "make b")) == [result]
    assert build.workers.done == ["make a"]
    assert build.ran[0].reason == "its layer is not in the store any more"


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"\xff", b'{"parts":{}}', b"[" * 5000, None])
def test_a_damaged_record_is_a_miss_with_a_warning(store: Store, damage: bytes | None) -> None:
    Build(store, Workers()).solve(run("make a"))
    (name,) = files_in(store, "records")
    path = Path(store.paths.build, "records", name)
    if damage is None:  # of another key
        damage = path.read_bytes().replace(b"make a", b"make b")
    path.write_bytes(damage)
    build = Build(store, Workers())
    build.solve(run("make a"))
    assert build.workers.done == ["make a"]
    assert build.warnings == [f"the record {name[:12]} of the build cache is damaged, and was removed"]


def test_records_that_nobody_uses_are_removed_and_so_are_the_oldest_of_too_many(store: Store) -> None:
    (result,) = Build(store, Workers()).solve(chain("make a", "make b", "make c"))
    cache = Cache(store)
    size = result.layers[0].descriptor.size
    by_label = {record.label: record for record in cache}
    for number, label in enumerate(("make b", "make a")):
        os.utime(os.path.join(store.paths.build, "records", by_label[label].key), (2_000_000 - number,) * 2)
    assert cache.keep(max_age=float("inf"), max_size=2 * size + 1) == size
    assert {record.label for record in cache} == {"make b", "make c"}
    assert cache.keep(max_age=3600) == size
    assert {record.label for record in cache} == {"make c"}
    assert [pin.pin for pin in store.roots.pins()] == ["build-cache"]
    cache.clear()
    assert store.roots.pins() == []


def test_the_pin_grows_with_each_build_and_old_records_are_looked_for_now_and_then(store: Store) -> None:
    def pinned() -> frozenset[Digest]:
        return frozenset().union(*(pin.digests for pin in store.roots.pins()))

    (first,) = Build(store, Workers()).solve(run("make a"))
    lock = Path(store.paths.build, "lock")
    before = lock.stat().st_mtime_ns
    (second,) = Build(store, Workers()).solve(run("make b"))
    assert lock.stat().st_mtime_ns == before
    layers = (*first.layers, *second.layers)
    assert pinned() == {one for layer in layers for one in (layer.descriptor.digest, layer.diff_id)}
    records = {record.label: record.key for record in Cache(store)}
    os.utime(os.path.join(store.paths.build, "records", records["make a"]), (1, 1))
    os.utime(lock, (1, 1))
    (third,) = Build(store, Workers()).solve(run("make c"))
    assert {record.label for record in Cache(store)} == {"make b", "make c"}
    layers = (*second.layers, *third.layers)
    assert pinned() == {one for layer in layers for one in (layer.descriptor.digest, layer.diff_id)}


def content_of(step: Step, source: FromStep | RunMount, stack: Stack | None) -> str:
    assert stack is not None
    tree = stack.tree()
    patterns = source.patterns if isinstance(source, FromStep) else (source.source.strip("/"),)
    return "|".join(f"{name}:{tree.find(name.encode())}" for name in patterns)


def test_copy_from_a_stage_looks_at_what_it_copies(store: Store) -> None:
    """The stage made other layers, but the file is the same."""
    build = Build(store, Workers())
    build.content = content_of
    (first,) = build.solve(copy("copy a", of=run("make b", run("make a"))))
    for _ in range(2):
        again = Build(store, Workers())
        again.content = content_of
        assert again.solve(copy("copy a", of=run("make c", run("make a")))) == [first]
        assert "copy a" not in again.workers.done


def test_a_stage_is_not_solved_where_the_copy_from_it_is_in_the_cache(store: Store) -> None:
    def step(**words: bool) -> Step:
        return copy("copy a", run("make x"), of=run("make b", run("make a", stage="t", **words), stage="t"))

    Build(store, Workers()).solve(step())
    for record in Cache(store):
        if record.label in ("make a", "make b"):
            os.unlink(os.path.join(store.paths.build, "records", record.key))
    build = Build(store, Workers())
    build.solve(step())
    assert build.workers.done == []
    assert [one.label for one in build.ran] == ["make x", "copy a"]
    without_cache = Build(store, Workers())
    without_cache.solve(step(no_cache=True))
    assert without_cache.workers.done == ["make a", "make b"]


def test_a_stage_is_solved_after_all_where_the_layer_of_the_copy_has_gone(store: Store) -> None:
    """The layer goes after the cache was asked."""
    step = copy("copy a", run("make x"), of=run("make b", stage="t"))
    (result,) = Build(store, Workers()).solve(step)
    path = store.blobs.path(result.layers[-1].descriptor.digest)
    build = Build(store, Workers())

    def lose(event: object) -> None:
        if isinstance(event, VertexStarted) and event.label == "make x":
            os.unlink(path)

    build.on_event = lose
    assert build.solve(step) == [result]
    assert build.workers.done == ["copy a"]


def test_a_bind_of_a_stage_looks_at_what_it_binds(store: Store) -> None:
    def bound(other: Step) -> RunStep:
        return run("make z", mounts=(RunMount("bind", "/m", source="/a", origin=other),))

    for other, done in ((run("make b", run("make a")), 3), (run("make c", run("make a")), 1)):
        build = Build(store, Workers())
        build.content = content_of
        build.solve(bound(other))
        assert len(build.workers.done) == done


def test_secrets_and_hidden_variables_are_not_in_the_key_nor_in_the_record(store: Store) -> None:
    def step(proxy: str) -> RunStep:
        secret = RunMount("secret", "/run/secrets/s", id="s")
        return run("make a", mounts=(secret,), hidden=(("http_proxy", proxy),))

    Build(store, Workers()).solve(step("http://one"))
    build = Build(store, Workers())
    build.solve(step("http://two"))
    assert build.workers.done == []
    for name in files_in(store, "records"):
        assert b"http://" not in Path(store.paths.build, "records", name).read_bytes()


def test_a_linked_copy_does_not_depend_on_what_is_below(store: Store) -> None:
    Build(store, Workers()).solve(copy("copy a", run("make b"), link=True))
    build = Build(store, Workers())
    build.solve(copy("copy a", run("make c"), link=True))
    assert build.workers.done == ["make c"]


def test_output_of_a_step_reaches_the_listener_under_its_number(store: Store) -> None:
    build = Build(store, Workers())
    build.solve(chain("make a", "make b"))
    assert [(event.number, event.data) for event in build.events if isinstance(event, VertexLog)] == [
        (1, b"make a"),
        (2, b"make b"),
    ]


def test_here_documents_count_by_their_content(store: Store) -> None:
    Build(store, Workers()).solve(inline("text one"))
    build = Build(store, Workers())
    build.solve(inline("text one"), inline("text two"))
    assert build.workers.done == ["text two"]


def test_squash_joins_the_new_layers_and_keeps_their_files(store: Store) -> None:
    build = Build(store, Workers())
    step = chain("make a", "make b", "nothing", "make c")
    history = [History(created_by=text) for text in ("make a", "make b", "nothing", "make c")]
    planned, results, tree = build.squashed(step, history)
    assert planned.step is not None
    assert len(results[planned.step].layers) == 1
    assert sorted(tree.children(0)) == [b"a", b"b", b"c"]
    assert [(one.created_by, one.empty_layer) for one in planned.history[:-1]] == [
        (text.created_by, True) for text in history
    ]
    assert planned.history[-1].comment == "3 layers joined by --squash"
    again = Build(store, Workers()).squashed(step, history)
    assert list(again[1].values())[-1] == list(results.values())[-1]


def test_squash_of_one_layer_changes_nothing(store: Store) -> None:
    planned, results, _ = Build(store, Workers()).squashed(run("make a"), [History(created_by="make a")])
    assert [one.empty_layer for one in planned.history] == [False]
    assert len(results) == 1
