"""The flags of RUN, by BuildKit's rules."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build.run_mounts import context_pattern, is_insecure, network, origin_of, run_mounts
from lamina.build.steps import RunMount
from lamina.errors import UsageError


def as_written(text: str) -> str:
    return text


def one(value: str, workdir: str = "/w") -> RunMount:
    (found,) = run_mounts([value], as_written, workdir)
    return found


def read_only(kind: str, target: str, *more: Any, **named: Any) -> RunMount:
    return RunMount(kind, target, *more, read_only=True, **named)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("target=/a", read_only("bind", "/a", "/")),
        ("type=bind,target=/a", read_only("bind", "/a", "/")),
        ("type=BIND,dst=a/b", read_only("bind", "/w/a/b", "/")),
        ("destination=/a/../b/,src=x//y/,from=stage", read_only("bind", "/b", "/x/y", "stage")),
        ("target=/a,source=../..", read_only("bind", "/a", "/")),
        ("target=/a,rw", RunMount("bind", "/a", "/")),
        ("target=/a,readwrite=true", RunMount("bind", "/a", "/")),
        ("target=/a,rw=false", read_only("bind", "/a", "/")),
        ("target=/a,ro=0", RunMount("bind", "/a", "/")),
        ("type=cache,target=/c", RunMount("cache", "/c", "/", id="/c")),
        ("type=cache,target=c/../d", RunMount("cache", "/w/d", "/", id="d")),
        ("type=cache,target=/c,readonly", read_only("cache", "/c", "/", id="/c")),
        (
            "type=cache,id=x,target=/c,sharing=LOCKED,mode=0700,uid=33,gid=44,from=base,source=/s",
            RunMount("cache", "/c", "/s", "base", "x", "locked", mode=0o700, uid=33, gid=44),
        ),
        ("type=tmpfs,target=/t", RunMount("tmpfs", "/t")),
        ("type=tmpfs,target=/t,size=64m", RunMount("tmpfs", "/t", size=64 << 20)),
        ("type=tmpfs,target=/t,size=1 MiB", RunMount("tmpfs", "/t", size=1 << 20)),
        ("type=tmpfs,target=/t,from=nowhere", RunMount("tmpfs", "/t")),
        ("type=secret,id=s", read_only("secret", "/run/secrets/s", id="s")),
        ("type=secret,id=a/s", read_only("secret", "/run/secrets/s", id="a/s")),
        ("type=secret,source=s", read_only("secret", "/run/secrets/s", id="s")),
        ("type=secret,target=/etc/key", read_only("secret", "/etc/key", id="key")),
        (
            "type=secret,id=s,target=k,required,mode=440,uid=1,gid=2",
            read_only("secret", "/w/k", id="s", required=True, mode=0o440, uid=1, gid=2),
        ),
        ("type=secret,id=s,required=false", read_only("secret", "/run/secrets/s", id="s")),
        ("type=secret,id=s,env=TOKEN", read_only("secret", "", id="s", variable="TOKEN")),
        ("type=secret,id=s,env=T,target=/t", read_only("secret", "/t", id="s", variable="T")),
        ("type=ssh", read_only("ssh", "/run/buildkit/ssh_agent.0", id="default")),
        ("type=ssh,id=git,target=/s,required", read_only("ssh", "/s", id="git", required=True)),
        ('"target=/a,b"', read_only("bind", "/a,b", "/")),
        ('type=bind,"source=a""b",target=/a', read_only("bind", "/a", '/a"b')),
    ],
)
def test_a_mount_is_read_as_buildkit_reads_it(value: str, expected: RunMount) -> None:
    assert one(value) == expected


@pytest.mark.parametrize(
    ("value", "says", "hint"),
    [
        ("", "no value", "cache"),
        ("type=bindd,target=/a", "no type of mount 'bindd'", "did you mean bind?"),
        ("type=volume,target=/a", "no type of mount 'volume'", "bind, cache, tmpfs, secret, ssh"),
        ("tagret=/a", "no option of --mount 'tagret'", "did you mean target?"),
        ("type=cache,target=/a,", "no option of --mount ''", "use one of"),
        ("target", "'target' has no value", "target=VALUE"),
        ("type=cache,target=/a,sharing=lockd", "no sharing 'lockd'", "did you mean locked?"),
        ("type=bind,target=/a,sharing=locked", "sharing is not an option of type=bind", "type=cache"),
        ("required,type=secret,id=a", "required is not an option of type=bind", "comes after it"),
        ("type=secret,id=a,required=perhaps", "required='perhaps'", "required=true"),
        ("target=/a,ro=yes", "readonly='yes'", "readonly=true"),
        ("type=cache,target=/a,size=1m", "size is not an option of type=cache", "type=tmpfs"),
        ("type=tmpfs,target=/a,size=big", "'big' is not a size", "512m"),
        ("target=/a,mode=0755", "mode is not an option of type=bind", "type=cache"),
        ("type=tmpfs,target=/a,uid=1", "uid is not an option of type=tmpfs", "type=cache"),
        ("type=cache,target=/a,mode=0799", "mode='0799'", "0755"),
        ("type=cache,target=/a,mode=0o755", "mode='0o755'", "0755"),
        ("type=cache,target=/a,mode=7_5", "mode='7_5'", "0755"),
        ("type=cache,target=/a,uid=-1", "uid='-1'", "1000"),
        ("type=cache,target=/a,gid=4294967296", "gid='4294967296'", "1000"),
        ("type=secret,id=a,from=b", "a secret has no from", "id"),
        ("type=secret", "the secret has no name", "id=NAME"),
        ("type=secret,id=a,source=b", "both source and id", "source"),
        ("type=secret,id=a,env=", "env is empty", "env=NAME"),
        ("type=ssh,source=/a", "type=ssh has no source", "id"),
        ("target=/", "nothing can be mounted at '/'", "target=PATH"),
        ("target=/a/..", "nothing can be mounted at '/a/..'", "target=PATH"),
        ("target=/a,from=$BASE", "from is not expanded", "FROM $NAME"),
        ('"target=/a', "is not closed", "close"),
        ('"target=/a"b', "after a quoted field", "quote the whole"),
        ('target="/a"', "a quote within", "quote the whole field"),
        ("target=/a\0b", "a NUL", "remove"),
    ],
)
def test_a_wrong_mount_is_one_error_with_a_way_out(value: str, says: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        one(value)
    text = f"{caught.value.message} {caught.value.hint}"
    assert says in text
    assert hint in (caught.value.hint or "")


def test_a_relative_target_begins_at_the_working_directory() -> None:
    assert one("target=a", "/srv/app").target == "/srv/app/a"
    assert one("target=a", "/").target == "/a"
    with pytest.raises(UsageError):
        one("target=.", "/")


def test_variables_are_expanded_in_values_after_the_line_is_split() -> None:
    values = {"$T": "cache", "$P": "/a,readonly", "$R": "true"}
    (found,) = run_mounts(["type=$T,target=$P,ro=$R"], lambda text: values.get(text, text))
    assert found == read_only("cache", "/a,readonly", "/", id="/a,readonly")


def test_each_agent_has_its_own_place() -> None:
    found = run_mounts(["type=ssh", "type=tmpfs,target=/t", "type=ssh,id=b"], as_written)
    assert [mount.target for mount in found] == ["/run/buildkit/ssh_agent.0", "/t", "/run/buildkit/ssh_agent.1"]


def test_the_origin_is_known_before_anything_is_expanded() -> None:
    assert origin_of("type=$T,From=stage,target=/a") == "stage"
    assert origin_of("type=cache,target=/a") == ""
    assert origin_of("from=a$,target=/a") == "a$"
    with pytest.raises(UsageError, match="holds a variable"):
        origin_of("from=${A},target=/a")


@pytest.mark.parametrize(("word", "expected"), [("", ""), ("default", ""), ("none", "none"), ("host", "host")])
def test_networks(word: str, expected: str) -> None:
    assert network(word) == expected


def test_unknown_networks_and_security_modes_are_refused() -> None:
    with pytest.raises(UsageError, match="no network 'nnoe'") as caught:
        network("nnoe")
    assert caught.value.hint == "did you mean none?"
    assert (is_insecure(""), is_insecure("sandbox"), is_insecure("insecure")) == (False, False, True)
    with pytest.raises(UsageError, match="no security mode 'insecur'"):
        is_insecure("insecur")


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        ("", "."),
        ("/", "."),
        ("/a/b", "a/b"),
        ("/a\\b", "a\\b"),  # without a wildcard a backslash is itself
        ("/a*b", "a[*]b"),
        ("/a?[b]\\c", "a[?][[]b]\\\\c"),
    ],
)
def test_the_source_of_a_bind_is_a_path_and_no_pattern(source: str, pattern: str) -> None:
    assert context_pattern(source) == pattern


_WORD = st.text(string.ascii_lowercase + string.digits + '/.,="$_- ', max_size=12)
_KEYS = st.sampled_from(["type", "target", "source", "id", "rw", "ro", "mode", "uid", "size", "env", "x", ""])


@given(st.lists(st.tuples(_KEYS, st.one_of(st.none(), _WORD)), max_size=5))
def test_any_line_is_a_mount_or_one_error(pairs: list[tuple[str, Any]]) -> None:
    line = ",".join(key if value is None else f"{key}={value}" for key, value in pairs)
    try:
        found = one(line)
    except UsageError:
        return
    assert found.kind in ("bind", "cache", "tmpfs", "secret", "ssh")
    assert found.target.startswith("/") or found.variable
    assert found.target != "/"
