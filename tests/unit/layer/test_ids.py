"""The limits of user and group ids in a tar, in each form that a tar can store them."""

from __future__ import annotations

import tarfile

import pytest

from lamina.errors import InvalidLayer
from lamina.host.privileges import MAX_ID
from support import index_of, make_tar

FORMS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]
MEMBERS = [("file", b"x"), ("dir/", None), ("link", "-> file"), ("char", "c 1 3"), ("fifo", "fifo"), ("h" * 200, b"")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member[0][:5])
def test_the_id_that_chown_takes_as_unchanged_is_refused(form: int, member: tuple[str, object]) -> None:
    for uid, gid in ((MAX_ID, 0), (0, MAX_ID), (MAX_ID, MAX_ID)):
        (entry,) = index_of(make_tar([(*member, {"uid": uid, "gid": gid})], form))
        assert (entry.uid, entry.gid) == (uid, gid)
    beyond = [MAX_ID + 1, MAX_ID + 2, (1 << 33) + 5]
    if form == tarfile.GNU_FORMAT:
        beyond += [-1, -2]  # base-256 has them
    for number in beyond:
        for uid, gid in ((number, 0), (0, number)):
            with pytest.raises(InvalidLayer, match=rf"has the invalid owner {uid}:{gid}\b") as caught:
                index_of(make_tar([(*member, {"uid": uid, "gid": gid})], form))
            assert "use ids from 0 to 4294967294" in str(caught.value)


@pytest.mark.parametrize("key", ["uid", "gid"])
def test_negative_ids_of_pax_records(key: str) -> None:
    for text in ("-1", "-4294967294"):
        with pytest.raises(InvalidLayer, match="has the invalid owner"):
            index_of(make_tar([("file", b"x", {"pax_headers": {key: text}})]))


def test_device_numbers_are_not_limited_like_ids() -> None:
    (entry,) = index_of(make_tar([("c", f"c {MAX_ID + 1} {MAX_ID + 1}")], tarfile.GNU_FORMAT))
    assert entry.rdev == (MAX_ID + 1, MAX_ID + 1)
    with pytest.raises(InvalidLayer, match="has the invalid device number"):
        index_of(make_tar([("c", f"c 1 {MAX_ID + 2}")], tarfile.GNU_FORMAT))
