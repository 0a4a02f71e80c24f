"""The table of names against a plain dictionary, and the records of the log of names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import StoreDamaged
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.reference import REF_NAME
from lamina.store.name_log import (
    ANNOTATION,
    HEAD_SIZE,
    Included,
    ident_of,
    new_head,
    read_records,
    record,
    sealed,
    sealed_as,
)
from lamina.store.name_table import Change, NameTable, name_of, split_name

TYPE = "application/vnd.oci.image.manifest.v1+json"
DOCUMENTS = [Descriptor.of(TYPE, b"%d" % number) for number in range(4)]
NAMES = ["docker.io/library/a:1", "docker.io/library/a:2", "host:5000/b/c:1", f"host:5000/b/c@{DOCUMENTS[0].digest}"]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(["", *NAMES]), st.integers(0, 3)),
        st.tuples(st.just("untag"), st.sampled_from(NAMES), st.booleans()),
        st.tuples(st.just("delete"), st.integers(0, 3), st.none()),
    ),
    max_size=20,
)


def decide(table: NameTable, step: tuple[str, object, object]) -> Change:
    kind, one, two = step
    if kind == "set":
        return table.setting(str(one), DOCUMENTS[int(str(two))], lambda *_: "")
    if kind == "untag":
        return table.removing([str(one)], keep_untagged=bool(two))
    digest = DOCUMENTS[int(str(one))].digest
    return table.removing([name_of(entry) for entry in table.of(digest)], keep_untagged=False, untagged=digest)


def model(steps: list[tuple[str, object, object]]) -> tuple[dict[str, Digest], set[Digest]]:
    """The names, and the documents without one."""
    names: dict[str, Digest] = {}
    bare: set[Digest] = set()

    def lose(name: str, keep: bool) -> None:
        old = names.pop(name, None)
        if keep and old is not None and old not in names.values():
            bare.add(old)

    for kind, one, two in steps:
        if kind == "set":
            digest = DOCUMENTS[int(str(two))].digest
            if not one:
                if digest not in names.values():
                    bare.add(digest)
            else:
                if names.get(str(one)) != digest:
                    lose(str(one), True)
                names[str(one)] = digest
                bare.discard(digest)
        elif kind == "untag":
            lose(str(one), bool(two))
        else:
            digest = DOCUMENTS[int(str(one))].digest
            names = {name: there for name, there in names.items() if there != digest}
            bare.discard(digest)
    return names, bare


def seen(table: NameTable) -> tuple[dict[str, Digest], set[Digest]]:
    entries = table.entries()
    assert len({(name_of(one), one.digest if not name_of(one) else None) for one in entries}) == len(entries)
    return (
        {name_of(one): one.digest for one in entries if name_of(one)},
        {one.digest for one in entries if not name_of(one)},
    )


@given(STEPS, st.booleans())
def test_changes_have_the_result_of_a_dictionary_and_so_has_the_log(
    steps: list[tuple[str, object, object]], indexed: bool
) -> None:
    table, ident, log = NameTable([]), new_head()[0], b""
    if indexed:  # what is looked up is kept up to date
        table.repositories(), table.named("x"), table.of(DOCUMENTS[0].digest), table.bare(DOCUMENTS[0].digest)
    for step in steps:
        change = decide(table, step)
        table.apply(change)
        log += record(ident, log.count(b"\n") + 1, change)
    assert seen(table) == model(steps)
    for name, digest in seen(table)[0].items():
        assert [one.digest for one in table.named(name)] == [digest]
        place = split_name(name)
        assert place is not None
        assert (place[1], digest) in [(tag, one.digest) for tag, one in table.in_repository(place[0])]
    assert table.repositories() == sorted({split_name(name)[0] for name in seen(table)[0]})  # type: ignore[index]
    for document in DOCUMENTS:
        own = [one for one in table.entries() if one.digest == document.digest]
        assert table.of(document.digest) == own
        assert table.bare(document.digest) == [one for one in own if not name_of(one)]
        for place in table.repositories():
            there = [one for one in own if (split_name(name_of(one)) or ("",))[0] == place]
            assert list(table.named_in(place, document.digest)) == there
    tail = read_records(log, ident, at=HEAD_SIZE, after=0, what="log")
    for _ in range(2):  # a change that is applied again changes nothing
        again = NameTable([])
        for change in tail.changes:
            again.apply(change)
            again.apply(change)
        assert seen(again) == seen(table)
    assert (tail.serial, tail.end) == (len(steps), HEAD_SIZE + len(log))


@given(st.integers(0, 400), st.binary(max_size=40))
def test_an_interrupted_append_is_no_record(cut: int, garbage: bytes) -> None:
    ident, _ = new_head()
    first = record(ident, 1, Change(added=(DOCUMENTS[0],)))
    second = record(ident, 2, Change(names=(NAMES[0],)))
    torn = second[: min(cut, len(second) - 1)]
    tail = read_records(first + torn + garbage.replace(b"\n", b""), ident, at=0, after=0, what="log")
    assert tail.changes == (Change(added=(DOCUMENTS[0],)),)
    assert (tail.serial, tail.end) == (1, len(first))


def test_a_damaged_record_before_a_whole_one_is_reported_and_not_taken_for_the_end() -> None:
    ident, _ = new_head()
    lines = [record(ident, number, Change(names=(NAMES[0],))) for number in (1, 2, 3)]
    damaged = lines[0] + lines[1].replace(b"library", b"librarx") + lines[2]
    with pytest.raises(StoreDamaged, match=f"byte {len(lines[0])}"):
        read_records(damaged, ident, at=0, after=0, what="log")
    assert read_records(damaged, ident, at=0, after=0, what="log", strict=False).serial == 3
    again = read_records(lines[1] + lines[0], ident, at=0, after=0, what="log")
    assert (again.serial, again.end) == (2, len(lines[1]))


def test_records_of_another_log_do_not_count() -> None:
    ident, head = new_head()
    other, _ = new_head()
    assert read_records(record(other, 1, Change(names=("a",))), ident, at=0, after=0, what="log").changes == ()
    assert ident_of(head) == ident
    assert ident_of(head[:-1]) == ident_of(b"x" + head) == ident_of(b"") == ""


def test_what_index_json_contains_is_skipped() -> None:
    ident, _ = new_head()
    log = b"".join(record(ident, number, Change(names=(str(number),))) for number in range(1, 6))
    tail = read_records(log, ident, at=0, after=0, what="log", included=3)
    assert [change.names for change in tail.changes] == [("4",), ("5",)]
    assert Included.parse(str(Included(ident, 3))) == Included(ident, 3)
    assert Included.parse(str(Included(ident, 3).next())).serial == 4
    document = b'{"schemaVersion":2}'
    whole = sealed(document, Included(ident, 3, "0123abcd"))
    assert json.loads(whole)["annotations"] == {ANNOTATION: whole.decode().split('"')[-2]}
    found = Included.parse(json.loads(whole)["annotations"][ANNOTATION])
    assert found == sealed_as(whole) == Included(ident, 3, "0123abcd")
    for other in (document, whole[:-1], whole + b"\n", whole.replace(b"2", b"1", 1), whole.replace(b" 3 ", b" x ")):
        assert sealed_as(other) in (None, Included())
    for text in ("", "x 1", f"{ident} -1", f"{ident} x", f"{ident}"):
        assert Included.parse(text) == Included()


LOOKS: list[Callable[[NameTable], object]] = [
    lambda table: table.named(NAMES[1]),
    lambda table: table.of(DOCUMENTS[1].digest),
    lambda table: table.tagged("docker.io/library/a", "2"),
    lambda table: table.repositories(),
]


@pytest.mark.parametrize("look", LOOKS)
def test_a_thread_does_not_see_an_index_that_another_one_is_building(
    look: Callable[[NameTable], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's threads look things up while one of them decides on a change."""
    entries = [document.with_annotations({REF_NAME: name}) for name, document in zip(NAMES, DOCUMENTS, strict=True)]
    table = NameTable(entries)
    rows, seen_meanwhile = table._rows, list[object]()

    class Interrupted(dict[int, Descriptor]):
        def items(self) -> Any:
            for number, item in enumerate(rows.items()):
                if number == 1:
                    monkeypatch.setattr(table, "_rows", rows)
                    seen_meanwhile.append(look(table))
                yield item

    monkeypatch.setattr(table, "_rows", Interrupted(rows))
    found = look(table)
    assert found
    assert seen_meanwhile == [found]
