"""The user of a container: names and numbers in the image's passwd and group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import LaminaError, NotFound, UsageError
from lamina.host.privileges import MAX_ID
from lamina.run.options import Userns, parse_userns
from lamina.run.user import User, misnamed, parse_id, resolve_group, resolve_user

PASSWD = b"""# comment
  # comment too
root:x:0:0::/root:/bin/sh
broken
web:x:33:44::/srv:/bin/sh
1000:x:0:0::/root:
odd:x:1000:1001::/odd:
late:x:1000:1002::/late:
4294967295:x:0:0::/root:
4294967296:x:0:0::/root:
99999999999:x:0:0::/root:
+7:x:0:0::/root:
-1:x:0:0::/root:
1e3:x:12:13::/name:
four:x:50:51
five:x:52:53:
six:x:54:55:gecos:/six
eight:x:56:57:gecos:/eight:/bin/sh:more
  indented:x:58:59::/in:  \r
nohome:x:60:61:::
bare
no-id:x
no-gid:x:62
empty-id:x::62::/:
named-id:x:zero:62::/:
signed:x:-3:62::/:
spaced:x: 5:62::/:
high:x:4294967294:4294967294::/high:
over:x:4294967295:0::/over:
over-group:x:63:4294967295::/over:
far:x:99999999999999999999999:0::/far:
caf\xe9:x:64:65::/latin:
last:x:66:67::/last"""

GROUP = b"""# comment
  # 55:x:0:web
root:x:0:
web:x:44:
extra:x:55:web,other
56:x:0:
more:x:56:other,web
own:x:44:web
high:x:4294967294:web
over:x:4294967295:web
4294967296:x:0:
three:x:70
part:x:71:webber,w,eb
odd:x:72:odd
late:x:73:late
wheel:x:0:late
numbers:x:74:1000
bad:x:y:web
nobodys:x:75:
bare
"""


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", User(0, 0, (), "/root")),
        ("root", User(0, 0, (), "/root")),
        ("0", User(0, 0, (), "/root")),
        ("-0", User(0, 0, (), "/root")),
        ("web", User(33, 44, (55, 56, MAX_ID), "/srv")),
        ("web:", User(33, 44, (55, 56, MAX_ID), "/srv")),  # an empty group is none
        ("33", User(33, 44, (55, 56, MAX_ID), "/srv")),
        ("0033", User(33, 44, (55, 56, MAX_ID), "/srv")),
        ("+33", User(33, 44, (55, 56, MAX_ID), "/srv")),
        ("web:extra", User(33, 55, (), "/srv")),
        ("web:99", User(33, 99, (), "/srv")),
        ("web:56", User(33, 56, (), "/srv")),  # the group with the name 56 is root's
        ("web:+56", User(33, 56, (), "/srv")),
        ("web:three", User(33, 70, (), "/srv")),
        ("4711", User(4711, 0, (), "/")),
        ("4711:5", User(4711, 5, (), "/")),
        ("4711:web", User(4711, 44, (), "/")),
        ("1000", User(1000, 1001, (72,), "/odd")),  # the first line with this uid; the name 1000 is root's
        ("1000:56", User(1000, 56, (), "/odd")),
        ("late", User(1000, 1002, (0, 73), "/late")),
        ("+7", User(7, 0, (), "/")),
        ("1e3", User(12, 13, (), "/name")),  # no number: a name
        ("four", User(50, 51, (), "/")),
        ("50", User(50, 51, (), "/")),
        ("five", User(52, 53, (), "/")),
        ("six", User(54, 55, (), "/six")),
        ("eight", User(56, 57, (), "/eight")),
        ("indented", User(58, 59, (), "/in")),
        ("nohome", User(60, 61, (), "/")),
        ("62", User(62, 0, (), "/")),  # ids without a group are nobody's
        ("high", User(MAX_ID, MAX_ID, (), "/high")),
        ("4294967294", User(MAX_ID, MAX_ID, (), "/high")),
        ("4294967294:4294967294", User(MAX_ID, MAX_ID, (), "/high")),
        ("caf\udce9", User(64, 65, (), "/latin")),  # as the command line has bytes that are not UTF-8
        ("last", User(66, 67, (), "/last")),
    ],
)
def test_users(wanted: str, expected: User) -> None:
    assert resolve_user(wanted, PASSWD, GROUP) == expected


OUT_OF_RANGE = ["4294967295", "4294967296", "99999999999", "9" * 5000, "-1", "-33", "+4294967295"]


@pytest.mark.parametrize("number", OUT_OF_RANGE)
def test_a_numeric_user_out_of_range_is_refused_even_if_the_image_has_such_a_name(number: str) -> None:
    for wanted in (number, f"{number}:0", f"web:{number}", f"33:{number}"):
        with pytest.raises(UsageError, match="out of range") as caught:
            resolve_user(wanted, PASSWD, GROUP)
        assert "4294967294" in str(caught.value)
        assert len(caught.value.message) < 200
    with pytest.raises(UsageError, match="out of range"):
        parse_userns(f"keep-id:uid={number}")


@pytest.mark.parametrize("name", ["over", "over-group"])
def test_an_id_out_of_range_in_the_image_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name!r} of the image is out of range"):
        resolve_user(name, PASSWD, GROUP)
    with pytest.raises(UsageError, match="'over' of the image is out of range"):
        resolve_user("web:over", PASSWD, GROUP)


@pytest.mark.parametrize(
    "wanted",
    [
        "nobody",
        "we",
        "webb",
        "web:no",
        "#",
        "bare",
        "no-id",
        "no-gid",
        "empty-id",
        "named-id",
        "signed",
        "spaced",
        "far",
        "web:bare",
        "web:bad",
        "1 000",
        "1000 ",
        "0x0",
        "1_000",
        "\u0661\u0660",  # digits, but not ASCII's
        "\u00b2",
        "+",
        "-",
        "--1",
        "33:#",
    ],
)
def test_unknown_users_and_groups_are_refused(wanted: str) -> None:
    with pytest.raises(NotFound, match=r"the image has no (user|group)"):
        resolve_user(wanted, PASSWD, GROUP)


@pytest.mark.parametrize(("wanted", "gid"), [(":1", 1), (":web", 44), (":", 0)])
def test_a_group_alone_is_for_root(wanted: str, gid: int) -> None:
    found = resolve_user(wanted, PASSWD, GROUP)
    assert (found.uid, found.gid, found.home) == (0, gid, resolve_user("0", PASSWD, GROUP).home)


def test_users_of_an_image_without_passwd_and_group() -> None:
    assert resolve_user("", b"", b"") == User(0, 0, (), "/root")
    assert resolve_user("0:7", b"", b"") == User(0, 7, (), "/root")
    assert resolve_user("5", b"", b"") == User(5, 0, (), "/")
    # root's line may say something else
    assert resolve_user("", b"admin:x:0:3::/admin:", b"wheel:x:4:admin") == User(0, 3, (4,), "/admin")


def test_groups() -> None:
    assert [resolve_group(word, GROUP) for word in ("web", "56", "more", "three", "4294967294")] == [
        44,
        56,
        56,
        70,
        MAX_ID,
    ]
    with pytest.raises(NotFound, match="no group 'nobody'"):
        resolve_group("nobody", GROUP)


@given(st.integers(0, MAX_ID), st.sampled_from(["", "+", "0", "000"]))
def test_a_numeric_user_is_that_id_in_any_image(number: int, before: str) -> None:
    lines = f"{before}{number}:x:0:0::/root:\nx{number}:x:{number}:9::/home:\n".encode()
    user = resolve_user(f"{before}{number}:{before}{number}", lines, b"%d:x:0:\n" % number)
    assert (user.uid, user.gid) == (number, number)
    if number:
        assert user.home == "/home"


@given(st.binary(max_size=60), st.binary(max_size=60), st.text(max_size=12))
def test_any_bytes_are_a_user_or_one_of_our_errors(passwd: bytes, group: bytes, wanted: str) -> None:
    try:
        user = resolve_user(wanted, passwd, group)
    except LaminaError:
        return
    assert all(0 <= number <= MAX_ID for number in (user.uid, user.gid, *user.groups))


def test_ids_are_mapped_to_a_user_namespace() -> None:
    assert parse_userns("keep-id:uid=4294967294,gid=007") == Userns("keep-id", MAX_ID, 7)
    for word in ("keep-id:uid=", "keep-id:uid=\u00b2", "keep-id:uid=web", "keep-id:ids=1", "keep-id:uid"):
        with pytest.raises(UsageError, match="unknown option of keep-id"):
            parse_userns(word)
    assert parse_id("web", "user") is None


@pytest.mark.parametrize(
    ("table", "lost"),
    [
        (b"", set()),
        (b"web:x:44:\n", set()),
        (b"44:x:44:\n", set()),
        (b"44:x:0:\n", {44}),
        (b"44:x:44:\n44:x:0:\n55:x:44:\n", {44, 55}),
        (b"044:x:0:\n+44:x:0:\n", set()),
    ],
)
def test_numeric_groups_that_the_image_uses_as_names_of_others_are_refused(table: bytes, lost: set[int]) -> None:
    assert misnamed([44, 55], table) == lost
