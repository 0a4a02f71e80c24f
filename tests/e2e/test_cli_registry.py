"""The verbs about registries from the command line: output, exit codes, help, progress, and answers without click."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lamina.archive.layout import LayoutReader
from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, load
from lamina.serve.server import RegistryServer
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.transfer.copy import copy
from support import lamina, loaded, write_layout
from unruly import Answer, Seen, Unruly

CONTENT = random.Random(11).randbytes(400_000)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    write_layout(tmp_path / "l", "app", [[("a", CONTENT)], [("b", b"top")]])
    store = Store.open(str(tmp_path / "served"))
    copy(LayoutReader(str(tmp_path / "l")), store, [("app", "app:1"), ("app", "app:2"), ("app", "team/web:1.0")])
    with RegistryServer(store, writable=True) as server:
        yield server.name


def ok(*words: str, root: Path, **environment: str) -> str:
    done = lamina(*words, root=root, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


NEW = [verb for verb, (module, _, _) in VERBS.items() if module.partition(".")[0] in ("registry", "move")]


@pytest.mark.parametrize("verb", NEW)
def test_help_has_an_example(verb: str, tmp_path: Path) -> None:
    assert verb in VERBS
    said = ok(verb, "--help", root=tmp_path)
    assert f"lamina {verb}" in said
    assert "Example:" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["pull", "oci:x"], 3, "is not an OCI layout"),
        (["push", "oci:x"], 2, "`lamina copy`"),
        (["pull", "a/UPPER"], 2, "not a reference"),
        (["pull", "127.0.0.1:1/x"], 8, "can't be reached"),
        (["pull", "--tls-verify=maybe", "x"], 2, "neither true nor false"),
        (["push", "nothing"], 3, "no store at"),
        (["digest", "127.0.0.1:1/x:1"], 8, "can't be reached"),
        (["delete", "127.0.0.1:1/x"], 2, "has no tag and no digest"),
        (["blob", "127.0.0.1:1/x:1", "-o", "f"], 2, "no digest"),
        (["search", "a/b"], 2, "not a host"),
        (["sync", "missing.yaml"], 6, "missing.yaml"),
        (["login", "127.0.0.1:1", "-u", "x"], 2, "password"),
        (["login", "127.0.0.1:1", "-u", "x", "-p", "y", "--password-stdin"], 2, "give one of them"),
        (["logout", "nowhere.example.com"], 3, "not logged in"),
        (["serve", "--host", "0.0.0.0"], 3, "no store"),
        (["serve", "docker://x"], 2, "can't serve"),
        (["index", "create", "x"], 2, "IMAGE"),
    ],
)
def test_failures_are_one_clear_line(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    done = lamina(*words, root=tmp_path / "s", DOCKER_CONFIG=str(tmp_path), HOME=str(tmp_path))
    lines = done.stderr.decode().strip().split("\n")
    assert done.returncode == code, lines
    assert said in lines[-1]
    assert lines[-1].startswith("lamina: ")
    assert done.stdout == b""


def test_plan_then_pull_then_plan(host: str, tmp_path: Path) -> None:
    root = tmp_path / "s"
    plan = json.loads(ok("plan", "pull", f"{host}/app:1", "--format", "json", root=root))
    assert plan["here"] == 0
    assert {blob["state"] for blob in plan["blobs"]} == {"to fetch"}
    assert plan["fetch"] == sum(blob["size"] for blob in plan["blobs"])
    assert not list((root / "blobs/sha256").iterdir())  # nothing was moved
    ok("pull", "-q", f"{host}/app:1", root=root)
    plan = json.loads(ok("plan", "pull", f"{host}/app:2", "--format", "json", root=root))
    assert (plan["fetch"], plan["disk"]) == (0, 0)
    assert {tuple(blob["shared_with"]) for blob in plan["blobs"] if blob["what"] == "layer"} == {(f"{host}/app:1",)}
    assert "to fetch: 0B" in ok("plan", "pull", f"{host}/app:2", root=root)


def test_all_tags_quiet_and_json(host: str, tmp_path: Path) -> None:
    root = tmp_path / "s"
    digests = ok("pull", "-a", "-q", f"{host}/app", root=root).split()
    assert len(digests) == 2
    assert digests[0].startswith("sha256:")
    value = json.loads(ok("pull", f"{host}/app:1", "--format", "json", root=root))
    assert all(blob["reused"] for blob in value[0]["blobs"])
    assert lamina("pull", "-a", f"{host}/app:1", root=root).returncode == 2
    ok("push", f"{host}/app:1", f"{host}/copy:1", "--digestfile", str(tmp_path / "d"), root=root)
    assert (tmp_path / "d").read_text() == digests[0]


def test_tags_as_json_are_the_same_as_in_skopeo(host: str, tmp_path: Path) -> None:
    expected = {"Repository": f"{host}/app", "Tags": ["1", "2"]}
    for words in (("tags", "--format", "json"), ("list-tags",), ("list-tags", "--format", "json")):
        assert json.loads(ok(*words, f"docker://{host}/app", root=tmp_path)) == expected
    assert ok("list-tags", f"docker://{host}/app", "--format", "{{.Tag}}", root=tmp_path) == "1\n2\n"


@pytest.mark.parametrize(
    ("verb", "words", "image", "given"),
    [
        ("digest", ["--tls-verify", "app"], "app", "true"),
        ("digest", ["app", "--tls-verify"], "app", "true"),
        ("digest", ["--tls-verify=true", "app"], "app", "true"),
        ("digest", ["--tls-verify=false", "app"], "app", "false"),
        ("digest", ["--tls-verify=False", "app"], "app", "False"),
        ("digest", ["--tls-verify=0", "app"], "app", "0"),
        ("digest", ["--tls-verify", "false"], "false", "true"),
        ("digest", ["--authfile", "--tls-verify", "app"], "app", None),
        ("plan pull", ["--tls-verify", "app"], "app", "true"),
        ("pull", ["--tls-verify", "--", "--tls-verify"], ("--tls-verify",), "true"),
        ("import", ["--tls-verify", "file"], "file", "true"),
    ],
)
def test_tls_verify_takes_no_value_from_the_next_word(
    verb: str, words: list[str], image: str | tuple[str, ...], given: str | None
) -> None:
    name, *rest = verb.split()
    found = load(name)
    if isinstance(found, click.Group):
        found = found.commands[rest[0]]
    session = Session({})
    context = found.make_context(verb, list(words), obj=session)
    assert session.flags.get("tls_verify") == given
    assert image in context.params.values()


def test_each_side_of_a_copy_has_its_own_tls_verify() -> None:
    session = Session({})
    words = ["--src-tls-verify", "docker://a/a", "--dest-tls-verify=false", "docker://b/b"]
    context = load("copy").make_context("copy", words, obj=session)
    assert session.access == {"src": {"tls_verify": "true"}, "dest": {"tls_verify": "false"}}
    assert (context.params["source"], context.params["target"]) == ("docker://a/a", "docker://b/b")


def test_sync_from_yaml(host: str, tmp_path: Path) -> None:
    listed = tmp_path / "images.yaml"
    images, patterns = '\n    app: ["1"]\n    team/web: []', '\n    app: "^2$"'
    listed.write_text(f"{host}:\n  images:{images}\n  images-by-tag-regex:{patterns}\n  tls-verify: false\n")
    root = tmp_path / "s"
    rows = json.loads(ok("sync", str(listed), f"docker://{host}/m", "--scoped", "--format", "json", root=root))
    place = host.replace(":", "-")
    assert [row["target"].removeprefix(f"docker://{host}/m/{place}/") for row in rows] == [
        "app:1",
        "team/web:1.0",
        "app:2",
    ]
    assert {row["state"] for row in rows} == {"copied"}
    again = json.loads(ok("sync", str(listed), f"docker://{host}/m", "--scoped", "--format", "json", root=root))
    assert {row["state"] for row in again} == {"already there"}
    ok("sync", str(listed), f"oci:{tmp_path}/air", "-q", root=root)
    names = [name for name, _ in LayoutReader(str(tmp_path / "air")).names()]
    assert len(names) == 3
    listed.write_text(f"- {host}/app:1\n- {host}/none:1\n- {host}/app:2\n")
    done = lamina("sync", str(listed), "--keep-going", "--format", "json", root=root)
    assert done.returncode == 1
    assert [row["state"].split(":")[0] for row in json.loads(done.stdout)] == ["copied", "failed", "copied"]
    assert lamina("sync", str(listed), root=tmp_path / "t").returncode == 3
    for text, said in (("a: {b: 1}", "unknown 'b'"), ("5", "neither"), ("{", "not YAML"), ("- 5", "not a string")):
        listed.write_text(text)
        done = lamina("sync", str(listed), root=root)
        assert (done.returncode, said in done.stderr.decode()) == (2, True), done.stderr


def test_validate_finds_what_is_wrong(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [[("a", CONTENT)]])
    assert lamina("validate", f"oci:{tmp_path}/l:app", root=tmp_path / "s").returncode == 0
    large = max((tmp_path / "l/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(large.read_bytes())
    data[1000] ^= 1
    large.write_bytes(data)
    done = lamina("validate", f"oci:{tmp_path}/l:app", "--format", "json", root=tmp_path / "s")
    assert done.returncode == 4
    assert [one["what"] for one in json.loads(done.stdout) if one["problem"]] == ["layer"]


def test_index_of_two_platforms(host: str, tmp_path: Path) -> None:
    root = tmp_path / "s"
    write_layout(tmp_path / "arm", "app", [[("x", b"arm")]], config={"architecture": "arm64"})
    target = f"docker://{host}/multi:1"
    ok("index", "create", target, f"docker://{host}/app:1", "--annotation", "a=b", "-q", root=root)
    made = ok("index", "add", target, f"oci:{tmp_path}/arm:app", "-q", root=root).strip()
    value = json.loads(ok("manifest", f"{host}/multi:1", root=root))
    assert [entry["platform"]["architecture"] for entry in value["manifests"]] == [
        Platform.host().architecture,
        "arm64",
    ]
    assert value["annotations"] == {"a": "b"}
    assert ok("digest", f"{host}/multi:1", root=root).strip() == made
    ok("pull", "-q", f"{host}/multi:1", "--platform", "linux/arm64", root=root)
    assert ok("cat", f"{host}/multi:1", "/x", "--platform", "linux/arm64", root=root) == "arm"
    assert lamina("index", "add", f"docker://{host}/app:1", f"oci:{tmp_path}/arm:app", root=root).returncode == 2


def terminal(*words: str, root: Path, output: bool = False, **environment: str) -> str:
    """Return what a terminal would show. ``output``: standard output goes to the terminal too."""
    parent, child = pty.openpty()
    env = {**os.environ, "LAMINA_ROOT": str(root), "TERM": "xterm", **environment}
    env.pop("CI", None)
    out = child if output else subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-m", "lamina", *words], stdout=out, stderr=child, env=env)
    os.close(child)
    shown = b""
    while True:
        try:
            data = os.read(parent, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(parent)
    assert process.wait() == 0
    return shown.decode()


def test_progress_bars_are_drawn_only_on_a_terminal(host: str, tmp_path: Path) -> None:
    shown = terminal("pull", f"{host}/app:1", root=tmp_path / "a")
    assert "layer" in shown
    assert "━" in shown
    plain = terminal("pull", f"{host}/app:1", root=tmp_path / "b", NO_COLOR="1")
    assert "\x1b[3" not in plain  # no colours
    done = lamina("pull", f"{host}/app:1", root=tmp_path / "c")
    assert b"\x1b" not in done.stderr
    assert b"fetched" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["tags", "app"],
        ["digest", "app:1"],
        ["digest", "--full-ref", "app:1"],
        ["digest", "library/app:2"],
        ["digest", "app:missing"],
        ["digest", "UPPER"],
        ["digest", "--local", "app:1"],
        ["manifest", "app:1"],
        ["manifest", "app"],
        ["tags", "missing"],
    ],
)
def test_output_with_and_without_click_is_the_same(host: str, tmp_path: Path, words: list[str]) -> None:
    """An option that only click parses selects the other parser."""
    *first, name = words
    short, long = (lamina(*first, f"{host}/{name}", *more, root=tmp_path) for more in ([], ["--tls-verify=false"]))
    assert (short.returncode, short.stdout, short.stderr) == (long.returncode, long.stdout, long.stderr)
    assert bool(short.stdout) == (short.returncode == 0)


def test_no_tag_of_a_truncated_list_is_printed(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [[("a", b"1")]])

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        if "tags/list" not in seen.path:
            return None
        if "last" in seen.path:
            return Answer(404)
        return Answer(200, {"Link": '</v2/app/tags/list?last=a>; rel="next"'}, b'{"tags": ["a"]}')

    with Unruly(tmp_path / "l", rule=rule) as server:
        done = lamina("tags", f"{server.name}/app", root=tmp_path)
    assert (done.returncode != 0, done.stdout) == (True, b"")


def test_control_characters_of_a_manifest_are_escaped(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [[("a", b"1")]])
    with Unruly(tmp_path / "l") as server:
        media_type, raw = server.manifests["1"]
        raw = json.dumps({**json.loads(raw), "annotations": {"a": "\x9b31mred"}}, ensure_ascii=False).encode()
        headers = {"Content-Type": media_type, "Docker-Content-Digest": f"sha256:{hashlib.sha256(raw).hexdigest()}"}
        server.rule = lambda server, seen: Answer(200, headers, raw)
        assert lamina("manifest", server.image, root=tmp_path).stdout == raw
        shown = terminal("manifest", server.image, root=tmp_path, output=True, HOME=str(tmp_path), XDG_CONFIG_HOME="")
    assert "\\x9b31mred" in shown
    assert "\x9b" not in shown


def test_control_characters_of_a_tag_are_escaped(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "app", [[("a", b"1")]])

    def rule(server: Unruly, seen: Seen) -> Answer | None:
        return Answer(200, {}, b'{"tags": ["a\\u001b[31m"]}') if "tags/list" in seen.path else None

    with Unruly(tmp_path / "l", rule=rule) as server:
        assert b"\x1b" not in lamina("tags", f"{server.name}/app", root=tmp_path).stdout


@pytest.mark.parametrize("words", [("tags", "app"), ("digest", "app:1"), ("manifest", "app:1")])
def test_tags_digest_and_manifest_import_few_modules(host: str, tmp_path: Path, words: tuple[str, str]) -> None:
    verb, name = words
    found = loaded(tmp_path, verb, f"{host}/{name}")
    assert found & {"click", "dataclasses", "inspect", "subprocess", "rich", "lamina.store.store"} == set()
