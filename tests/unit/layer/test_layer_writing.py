"""Written layers: the same entries give the same bytes, and lamina, Python and GNU tar read them alike."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import InvalidLayer, UsageError
from lamina.host.privileges import MAX_ID
from lamina.layer.build_layer import build_layer
from lamina.layer.codec import COMPRESSIONS
from lamina.layer.decode import LayerReader
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import LayerWriter, write_layer
from support import index_of, rounds

component = st.binary(min_size=1, max_size=60).filter(
    lambda b: b"/" not in b and b"\0" not in b and b not in (b".", b"..") and not b.startswith(b".wh.")
)
path = st.lists(component, min_size=1, max_size=4).map(b"/".join)
big = st.integers(0, MAX_ID)
entry: Any = st.builds(
    Entry,
    path=path,
    kind=st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.CHAR, Kind.FIFO, Kind.WHITEOUT]),
    mode=st.integers(0, 0o7777),
    uid=big,
    gid=big,
    mtime=st.integers(-(10**18), 10**19),
    link=st.binary(min_size=1, max_size=200).filter(lambda b: b"\0" not in b),
    xattrs=st.dictionaries(
        st.binary(min_size=1, max_size=20).filter(
            lambda b: b"=" not in b and b"\0" not in b and b".overlay." not in b
        ),
        st.binary(max_size=50),
        max_size=2,
    ),
)


@settings(max_examples=rounds(300), deadline=None)
@given(st.lists(entry, max_size=8, unique_by=lambda e: (e.path, e.kind == Kind.WHITEOUT)), st.binary(max_size=600))
def test_written_entries_are_read_back(entries: list[Entry], content: bytes) -> None:
    items: list[Any] = []
    for one in entries:
        values = {f: getattr(one, f) for f in ("path", "kind", "mode", "uid", "gid", "mtime", "xattrs")}
        if one.kind == Kind.SYMLINK:
            values["link"] = one.link
        elif one.kind == Kind.CHAR:
            values["rdev"] = (4, 64)
        elif one.kind == Kind.FILE:
            values["size"] = len(content)
        elif one.kind == Kind.WHITEOUT:
            values = {"path": one.path, "kind": one.kind, "mode": 0}
        items.append((Entry(**values), content if one.kind == Kind.FILE else None))
    out = io.BytesIO()
    write_layer(items, out.write)
    again = io.BytesIO()
    write_layer(list(reversed(items)), again.write)
    assert out.getvalue() == again.getvalue()
    index = index_of(out.getvalue())

    def told(found: Entry) -> tuple[object, ...]:
        numbers = (found.kind, found.mode, found.uid, found.gid, found.size, found.mtime, found.rdev)
        return (found.path, *numbers, found.link, sorted(found.xattrs.items()))

    kept = [one for one, _ in items]
    assert sorted(map(repr, map(told, index))) == sorted(map(repr, map(told, kept)))


ITEMS: list[Any] = [
    (Entry(b"z", Kind.FILE, size=3), b"abc"),
    (Entry(b"a", Kind.HARDLINK, link=b"z"), None),
    (Entry(b"d", Kind.DIRECTORY, 0o755), None),
    (Entry(b"d/" + b"long" * 60, Kind.FILE, size=1, uid=1 << 30, xattrs={b"user.x": b"\xff\n="}), b"!"),
    (Entry(b"d/gone", Kind.WHITEOUT), None),
    (Entry(b"d", Kind.OPAQUE), None),
    (Entry(b"\xff", Kind.SYMLINK, 0o777, link=b"z"), None),
]


def test_order_puts_whiteouts_before_siblings_and_targets_before_links() -> None:
    out = io.BytesIO()
    write_layer(ITEMS, out.write, epoch=1000)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue()), encoding="utf-8", errors="surrogateescape") as tar:
        names = [m.name for m in tar]
    assert names.index("d/.wh..wh..opq") < names.index("d/.wh.gone") < names.index("d/" + "long" * 60)
    assert names.index("z") < names.index("a")
    done = subprocess.run(["tar", "-tf", "-"], input=out.getvalue(), capture_output=True, check=True)
    assert len(done.stdout.splitlines()) == 7


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_build_layer_digests_are_those_of_its_bytes(compression: str) -> None:
    one, two = io.BytesIO(), io.BytesIO()
    built = build_layer(ITEMS, one, compression=compression, epoch=5)
    assert build_layer(ITEMS, two, compression=compression, epoch=5) == built
    built.descriptor.check(one.getvalue())
    reader = LayerReader(compression)
    tar = b"".join(reader.feed(one.getvalue()))
    assert (reader.finish().diff_id, len(tar)) == (built.diff_id, built.tar_size)


def test_epoch_clamps_only_newer_times() -> None:
    out = io.BytesIO()
    write_layer([(Entry(b"old", Kind.FIFO, mtime=5 * 10**9), None), (Entry(b"new", Kind.FIFO, mtime=10**19), None)],
                out.write, epoch=1000)  # fmt: skip
    assert {e.path: e.mtime for e in index_of(out.getvalue())} == {b"old": 5 * 10**9, b"new": 1000 * 10**9}


def test_content_that_is_not_as_long_as_stated_is_refused() -> None:
    for content in (b"12", b"1234"):
        with pytest.raises(UsageError, match="'f'"):
            write_layer(
                [(Entry(b"f", Kind.FILE, size=3), lambda content=content: io.BytesIO(content))], io.BytesIO().write
            )
    with pytest.raises(InvalidLayer, match="twice"):
        write_layer([(Entry(b"f", Kind.FIFO), None), (Entry(b"f", Kind.DIRECTORY), None)], io.BytesIO().write)


@settings(max_examples=rounds(300), deadline=None)
@given(
    st.builds(
        Entry,
        path=st.one_of(path, st.just(b""), st.integers(95, 105).map(lambda size: b"x" * size)),
        kind=st.sampled_from([Kind.FILE, Kind.DIRECTORY]),
        mode=st.integers(0, 0o17777),
        uid=st.one_of(st.sampled_from([0, 1000, 0o7777777, 0o10000000]), big),
        gid=st.one_of(st.just(0), big),
        mtime=st.one_of(
            st.integers(-10, 10**10).map(lambda seconds: seconds * 10**9), st.integers(-(10**18), 10**19)
        ),
        size=st.sampled_from([0, 1, 511, 512, 8 << 30, (8 << 30) - 1]),
    ),
    st.sampled_from([None, 0, 1_700_000_000]),
)
def test_a_header_of_one_block_is_the_same_as_one_that_is_made_step_by_step(one: Entry, epoch: int | None) -> None:
    class StepByStep(LayerWriter):
        def _plain_header(self, entry: Entry, size: int) -> bool:
            return False

    written = []
    for writer in (LayerWriter, StepByStep):
        out = io.BytesIO()
        writer(out.write, epoch=epoch)._header(one, one.size)
        written.append(out.getvalue())
    assert written[0] == written[1]
