"""Ids of images, inside and outside of a user namespace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.host.privileges import MAX_ID
from lamina.run.userns import add_caller, auto, keep_id_ranges
from lamina.view.owners import AS_STATED, Owners, kept_mode


@pytest.mark.parametrize(
    ("own", "further", "expected"),
    [
        (1000, 65536, ((0, 1, 1000), (1000, 0, 1), (1001, 1001, 64536))),
        (0, 10, ((0, 0, 1), (1, 1, 10))),
        (10, 10, ((0, 1, 10), (10, 0, 1))),
        (5000, 10, ((0, 1, 10), (5000, 0, 1))),  # more than there are: a gap
    ],
)
def test_the_callers_id_is_kept(own: int, further: int, expected: object) -> None:
    assert keep_id_ranges(own, further) == expected


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_mapping_of_ids_is_one_to_one(own: int, further: int) -> None:
    ranges = keep_id_ranges(own, further)
    pairs = [(inside + n, outside + n) for inside, outside, count in ranges for n in range(count)]
    assert sorted(outside for _, outside in pairs) == list(range(further + 1))
    assert len({inside for inside, _ in pairs}) == further + 1
    owners = Owners(ranges, ranges)
    for inside, outside in pairs:
        assert owners.outside(inside, 0) == (outside, owners.root[1])
        assert owners.inside(outside, owners.root[1]) == (inside, 0)


def test_an_id_that_can_not_be_mapped_becomes_root() -> None:
    owners = Owners(((0, 100, 10),), ((0, 200, 10),))
    assert owners.root == owners.outside(10, 4711) == (100, 200)
    assert owners.inside(5, 205) == (0, 5)
    assert (owners.has(9, 9), owners.has(10, 9), owners.has(9, 10)) == (True, False, False)
    assert AS_STATED.outside(7, 8) == AS_STATED.inside(7, 8) == (7, 8)
    assert not AS_STATED
    assert AS_STATED.word == ""
    assert owners.word not in ("", Owners(owners.users, owners.users).word)


def test_an_id_beyond_the_largest_one_becomes_root() -> None:
    assert AS_STATED.outside(MAX_ID, MAX_ID) == AS_STATED.inside(MAX_ID, MAX_ID) == (MAX_ID, MAX_ID)
    assert AS_STATED.has(MAX_ID, MAX_ID)
    for uid, gid, expected in ((MAX_ID + 1, 7, (0, 7)), (7, MAX_ID + 1, (7, 0))):
        assert AS_STATED.outside(uid, gid) == AS_STATED.inside(uid, gid) == expected
        assert not AS_STATED.has(uid, gid)


def test_which_ids_of_the_host_are_mapped() -> None:
    owners = Owners(((0, 100, 10),), ((0, 200, 10),))
    assert owners.has_outside(109, 209) == (True, True)
    assert owners.has_outside(110, 200) == (False, True)
    assert owners.has_outside(100, 199) == (True, False)
    assert AS_STATED.has_outside(MAX_ID, MAX_ID + 1) == (True, False)


@pytest.mark.parametrize(
    ("user", "group", "expected"),
    [(True, True, 0o7755), (False, True, 0o3755), (True, False, 0o5755), (False, False, 0o1755)],
)
def test_a_set_id_bit_stays_with_the_owner_alone(user: bool, group: bool, expected: int) -> None:
    assert kept_mode(0o7755, user=user, group=group) == expected


def test_ids_of_its_own_are_high_up() -> None:
    ((first, outside, count),) = auto("0f3" + "0" * 61).users
    assert (first, outside, count) == (0, 0x70000000 + 0xF3 * 65536, 65536)


def test_the_caller_gets_a_line_in_passwd_and_group() -> None:
    passwd, group = b"root:x:0:0::/root:/bin/sh\nann:x:7:8::/:/bin/sh", b"root:x:0:\n"
    assert add_caller(passwd, group, (1000, 100), "bob", "/w") == (
        passwd + b"\nbob:*:1000:100::/w:/bin/sh\n",
        group + b"bob:*:100:\n",
    )
    assert add_caller(passwd, group, (7, 0), "bob", "/") == (passwd, group)
    # another user of the image has the name
    assert add_caller(passwd, group, (1000, 100), "ann", "/")[0].endswith(b"1000:*:1000:100::/:/bin/sh\n")
    assert add_caller(b"", b"", (1, 1), "", "/") == (b"1:*:1:1::/:/bin/sh\n", b"1:*:1:\n")
