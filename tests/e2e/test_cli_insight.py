"""diff, ghosts, waste, du and history from the command line; `diff` is compared with diff(1)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lamina.run.container.life import create
from lamina.run.options import ContainerOptions
from lamina.spec.platform import Platform
from lamina.store.store import Store
from support import Member, lamina, made_once, require_root, require_tool, write_layout

TOKEN = "ghp_" + "a1B2" * 9
BASE: list[Member] = [
    ("etc/", None),
    ("etc/conf", b"one\ntwo\nthree\n"),
    ("etc/secret", f"token: {TOKEN}\n".encode()),
    ("bin/", None),
    ("bin/tool", b"\x7fELF\0one", {"mode": 0o755}),
    ("bin/alias", "= bin/tool"),
    ("data/", None),
    ("data/kept", b"kept"),
    ("data/old-name", b"moved content"),
    ("link", "-> etc/conf"),
    ("kind", b"a file"),
    ("gone/", None),
    ("gone/a", b"aaaa"),
    ("gone/b", b"bbbb"),
]
TOP: list[Member] = [
    ("etc/conf", b"one\n2\nthree\n"),
    ("etc/.wh.secret", b""),
    ("bin/tool", b"\x7fELF\0two", {"mode": 0o700}),
    ("data/.wh.old-name", b""),
    ("data/new-name", b"moved content"),
    ("data/kept", b"kept", {"uid": 7}),
    ("link", "-> etc"),
    ("kind/", None),
    ("kind/inside", b"x"),
    (".wh.gone", b""),
    ("new", b"new"),
    ("copy", b"new"),
    ("var/cache/apk/x", b"cached"),
]


def make(top: Path) -> None:
    write_layout(top / "layout", "old", [BASE])
    config = {"config": {"Env": ["PASSWORD=hunter22", "A=1"], "Cmd": ["x"]}}
    write_layout(top / "layout", "app", [BASE, TOP], config=config)
    done = lamina("load", "-i", str(top / "layout"), root=top / "store")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made_once(make, tmp_path)
    return tmp_path / "store"


def out(done: subprocess.CompletedProcess[bytes], code: int = 0) -> str:
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode()


FILES = """\
D /bin/alias
C /bin/tool   content, mode (0755 to 0700)
A /copy
C /data/kept   owner (0:0 to 7:0)
R /data/old-name -> /data/new-name
C /etc/conf   content (14 to 12 bytes)
D /etc/secret
D /gone
D /gone/a
D /gone/b
C /kind   kind (file to directory)
A /kind/inside
C /link   target (etc/conf to etc)
A /new
A /var
A /var/cache
A /var/cache/apk
A /var/cache/apk/x
"""


def test_diff_shows_every_kind_of_change(tmp_path: Path) -> None:
    top = [
        (".wh.link", b""),
        *[member for member in TOP if member[0] != "link"],
        ("link", "-> etc"),
        ("bin/.wh.alias", b""),
    ]
    write_layout(tmp_path / "l", "old", [BASE])
    write_layout(tmp_path / "l", "new", [BASE, top])
    root = tmp_path / "s"
    out(lamina("load", "-i", str(tmp_path / "l"), root=root))
    told = out(lamina("diff", "old", "new", root=root), 1)
    assert told == FILES + "history\n  + 2024-01-01T00:00:00Z  step 2\n"
    plain = out(lamina("diff", "old", "new", "--no-renames", "--ignore", "history,owner", root=root), 1).splitlines()
    assert "D /data/old-name" in plain
    assert "A /data/new-name" in plain
    assert not [line for line in plain if "kept" in line or "step" in line]
    assert out(lamina("diff", "-q", "old", "new", "/etc", root=root), 1) == ""
    assert out(lamina("diff", "old", "new", "/data", "--ignore", "owner", root=root), 1) == (
        "R /data/old-name -> /data/new-name\n"
    )
    assert out(lamina("diff", "new~1", "old", root=root)) == ""  # the range does not include the step of layer 2
    assert out(lamina("diff", "new~2:2", "new", "/etc/conf", root=root)) == ""
    steps = out(lamina("diff", "new~1", "new", root=root), 1).splitlines()[-2:]
    assert steps == ["history", "  + 2024-01-01T00:00:00Z  step 2"]
    assert out(lamina("diff", "new", "new", root=root)) == ""


def test_diff_shows_contents_sizes_config_and_json(root: Path) -> None:
    lines = out(lamina("diff", "-u", "old", "app", root=root), 1).splitlines()
    at = lines.index("--- a/etc/conf")
    assert lines[at + 1 : at + 7] == ["+++ b/etc/conf", "@@ -1,3 +1,3 @@", " one", "-two", "+2", " three"]
    binary = lines[lines.index("C /bin/tool   content, mode (0755 to 0700), links") + 1]
    assert re.fullmatch(r"  8 bytes sha256:[0-9a-f]{64} -> 8 bytes sha256:[0-9a-f]{64}", binary)
    assert '  + config.Env.PASSWORD: "hunter22"' in lines
    stat = out(lamina("diff", "--stat", "old", "app", "/etc", root=root), 1).splitlines()
    assert stat[1].split() == ["C", "/etc/conf", "14", "12", "-2"]
    assert stat[-1] == "1 removed (-48B), 1 changed (-2B): -50B"
    found = json.loads(out(lamina("diff", "--json", "-u", "old", "app", root=root), 1))
    assert found["differ"] is True
    assert found["summary"]["renamed"] == 1
    by_path = {change["path"]: change for change in found["changes"]}
    assert by_path["/data/new-name"]["before"]["path"] == "/data/old-name"
    assert by_path["/etc/conf"]["after"]["layer"] == 2
    assert by_path["/etc/conf"]["text"][-2:] == ["+2", " three"]
    assert by_path["/bin/tool"]["text"] is None
    assert by_path["/bin/tool"]["before"]["digest"] != by_path["/bin/tool"]["after"]["digest"]
    assert {"field": "config.Env.A", "before": None, "after": "1"} in found["config"]
    template = out(lamina("diff", "--format", "{{.Letter}} {{.Path}} {{.Delta}}", "old", "app", "/etc", root=root), 1)
    assert template.splitlines() == ["C /etc/conf -2", "D /etc/secret -48"]
    same = json.loads(out(lamina("diff", "--json", "app", "app", root=root)))
    assert (same["differ"], same["changes"]) == (False, [])


def real_diff(one: Path, other: Path) -> set[tuple[str, str]]:
    done = subprocess.run(
        ["diff", "-rq", "--no-dereference", one, other],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert done.returncode in (0, 1), done.stderr
    found = set()
    for line in done.stdout.decode().splitlines():
        if only := re.fullmatch(r"Only in (.*): (.*)", line):
            directory, name = only.groups()
            top = one if Path(directory).is_relative_to(one) else other
            found.add(("removed" if top == one else "added", f"/{Path(directory, name).relative_to(top)}"))
        else:
            changed = re.match(rf"(?:Files|Symbolic links|File) {re.escape(str(one))}(\S*) ", line)
            assert changed, line
            found.add(("changed", changed[1]))
    return found


def our_diff(root: Path, one: str, other: str) -> set[tuple[str, str]]:
    """Remove changes that diff(1) does not compare, and changes below a path that it reports."""
    ignore = "mode,owner,mtime,xattrs,links,device,config,history"
    done = lamina("diff", "--json", "--no-renames", "--ignore", ignore, one, other, root=root)
    assert done.returncode in (0, 1), done.stderr
    changes = json.loads(done.stdout)["changes"]
    covering = {c["path"] for c in changes if c["change"] != "changed" or "kind" in c["fields"]}
    return {
        (c["change"], c["path"])
        for c in changes
        if not any(str(parent) in covering for parent in Path(c["path"]).parents)
    }


def test_diff_agrees_with_diff_of_unpacked_trees(root: Path, tmp_path: Path) -> None:
    require_tool("diff")
    for name in ("old", "app"):
        out(lamina("unpack", name, str(tmp_path / name), root=root))
    expected = real_diff(tmp_path / "old", tmp_path / "app")
    assert ("changed", "/etc/conf") in expected
    assert our_diff(root, "old", "app") == expected
    assert our_diff(root, str(tmp_path / "old"), str(tmp_path / "app")) == expected
    assert our_diff(root, "old", str(tmp_path / "app")) == expected
    (tmp_path / "app/etc/conf").write_bytes(b"one\nTWO\nthree\n")
    (tmp_path / "app/new").unlink()
    assert our_diff(root, "app", str(tmp_path / "app")) == real_diff_of_unpacked(root, tmp_path)


def real_diff_of_unpacked(root: Path, tmp_path: Path) -> set[tuple[str, str]]:
    out(lamina("unpack", "app", str(tmp_path / "again"), root=root))
    found = real_diff(tmp_path / "again", tmp_path / "app")
    assert found == {("changed", "/etc/conf"), ("removed", "/new")}
    return found


def test_an_unpacked_image_equals_the_image(root: Path, tmp_path: Path) -> None:
    """Including owners, modes, times and links. The root is excluded, because the image does not state it."""
    require_root()
    out(lamina("unpack", "app", str(tmp_path / "app"), root=root))
    assert out(lamina("diff", "app", str(tmp_path / "app"), root=root)) == ""
    os.chown(tmp_path / "app/new", 5, 6)
    os.utime(tmp_path / "app/copy", (1, 1))
    os.link(tmp_path / "app/new", tmp_path / "app/linked")
    assert out(lamina("diff", "app", str(tmp_path / "app"), root=root), 1).splitlines() == [
        "C /copy   time",
        "A /linked",
        "C /new   owner (0:0 to 5:6)",
    ]


def test_diff_of_an_image_and_its_container_shows_the_changes(root: Path) -> None:
    require_root()
    store = Store.open(str(root))
    one = create(store, store.stack("app", Platform.host()), ContainerOptions(name="web"))
    assert out(lamina("diff", "app", "web", root=root)) == ""
    upper = Path(store.containers.path(one.id, "upper"))
    (upper / "etc").mkdir(mode=0o755)
    (upper / "etc/conf").write_bytes(b"one\n2\nthree\n")  # the same content, written again
    (upper / "new").write_bytes(b"newer")
    os.mknod(upper / "copy", 0o600 | 0o20000, 0)
    ignore = ("--ignore", "mtime,history")
    assert out(lamina("diff", "app", "web", *ignore, root=root), 1).splitlines() == [
        "D /copy",
        "C /new   content (3 to 5 bytes)",
    ]
    assert "D /copy" in out(lamina("diff", "web", root=root)).splitlines()
    assert out(lamina("diff", "web", "web", root=root)) == ""
    assert out(lamina("diff", one.id[:12], "old", "/data/kept", root=root), 1) == (
        "C /data/kept   owner (7:0 to 0:0)\n"
    )


def test_ghosts_shows_and_recovers_hidden_files_and_suspects_secrets(root: Path) -> None:
    told = out(lamina("ghosts", "app", root=root))
    assert TOKEN not in told
    assert "hunter22" not in told
    rows = [line.split() for line in told.splitlines()]
    assert ["8B", "3", "1", "whiteout", "in", "2", "/gone"] in rows
    assert ["github-token", "layer", "1,", "hidden", "by", "2", "/etc/secret:1", "ghp_********"] in rows
    found = json.loads(out(lamina("ghosts", "app", "--format", "json", "--check", root=root), 1))
    ghost = next(ghost for ghost in found["ghosts"] if ghost["path"] == "/bin/tool")
    assert ghost == {
        "path": "/bin/tool",
        "kind": "file",
        "size": 0,  # /bin/alias is the same file still
        "paths": 1,
        "layers": [1],
        "hidden_by": 2,
        "how": "replaced",
    }
    assert {(one["pattern"], one["where"], one["name"]) for one in found["secrets"]} == {
        ("password", "env", "PASSWORD"),
        ("github-token", "file", None),
    }
    visible = out(lamina("ghosts", "old", "--no-hidden", "--check", root=root), 1)
    assert visible.count("visible, layer 1") == 1
    assert visible.startswith("SUSPECTED")
    whole = json.loads(out(lamina("ghosts", "app", "--paths", "--no-secrets", "--format", "json", root=root)))
    assert {g["path"] for g in whole["ghosts"]} >= {"/gone", "/gone/a", "/gone/b"}
    assert whole["hidden"] == found["hidden"]
    secret = f"token: {TOKEN}\n"
    assert out(lamina("ghosts", "app", "--recover", "1", "/etc/secret", root=root)) == secret
    assert out(lamina("ghosts", "app", "--recover", "/etc/secret", root=root)) == secret
    assert out(lamina("ghosts", "--recover", "app~1", "/etc/secret", root=root)) == secret
    assert out(lamina("ghosts", "--recover", "app~1", "/bin/alias", root=root)) == "\x7fELF\0one"
    assert out(lamina("ghosts", "app", "--recover", "/etc/conf", root=root)) == "one\ntwo\nthree\n"
    assert out(lamina("ghosts", "app", "--recover", "2", "/etc/conf", root=root)) == "one\n2\nthree\n"


def test_waste_shows_copies_rewrites_and_caches(root: Path) -> None:
    found = json.loads(out(lamina("waste", "app", "--format", "json", root=root)))
    assert found["rewrites"] == [{"path": "/data/kept", "size": 4, "layer": 2, "below": 1, "changed": ["owner"]}]
    assert found["copies"] == [{"size": 3, "wasted": 3, "paths": [{"path": "/copy"}, {"path": "/new"}]}]
    assert found["caches"] == [{"name": "apk", "size": 6, "files": 1, "layers": [2]}]
    hidden = json.loads(out(lamina("ghosts", "app", "--no-secrets", "--format", "json", root=root)))["hidden"]
    assert found["hidden"] == {"size": hidden["size"], "layers": {"2": hidden["size"]}}
    assert 0 < found["efficiency"] < 1
    told = out(lamina("waste", "app", "--min-efficiency", "0.99", root=root), 1)
    assert "layer 2 as 1   changed only owner   /data/kept" in told
    assert out(lamina("waste", "old", "--min-efficiency", "1", root=root)).startswith("efficiency: 100.00 %")


def test_du_has_one_column_for_each_layer(root: Path) -> None:
    rows = [line.split() for line in out(lamina("du", "app", root=root)).splitlines()]
    assert rows[0] == ["SIZE", "LAYER", "1", "LAYER", "2", "PATH"]
    assert rows[-1] == ["58", "8", "50", "/"]
    assert ["16", "8", "8", "/bin"] in rows
    found = json.loads(out(lamina("du", "-s", "--hidden", "app", "--format", "json", root=root)))
    layers = json.loads(out(lamina("layers", "app", "--format", "json", root=root)))
    assert found[0]["layers"] == {str(layer["number"]): layer["content_size"] for layer in layers}
    assert out(lamina("du", "-h", "-d", "0", "app", "/data", root=root)).split()[-1] == "/data"


def test_history_assigns_steps_to_layers(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [
        {"created_by": "arg", "empty_layer": True},
        {"created_by": "one"},
        {"created_by": "env", "empty_layer": True},
        {"created_by": "two"},
        {"created_by": "surplus"},
        {"created_by": "cmd", "empty_layer": True},
    ]
    layers: list[list[Member]] = [[("a", b"")], [("b", b"")]]
    write_layout(tmp_path / "l", "many", layers, config={"history": steps})
    write_layout(tmp_path / "l", "few", layers, config={"history": steps[:3]})
    root = tmp_path / "s"
    out(lamina("load", "-i", str(tmp_path / "l"), root=root))

    def told(image: str) -> list[tuple[int | None, str | None]]:
        rows = json.loads(out(lamina("history", image, "--format", "json", root=root)))
        return [(row["layer"], row["created_by"]) for row in reversed(rows)]

    assert told("many") == [(None, "arg"), (1, "one"), (None, "env"), (2, "two"), (None, "cmd")]
    assert told("many~2:2") == [(2, "two"), (None, "cmd")]
    assert told("few") == [(None, "arg"), (1, "one"), (None, "env"), (2, None)]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("diff", "app", "nothing"), 3, "nothing"),
        (("diff", "app", "./nothing"), 3, "nothing"),
        (("diff", "nothing"), 3, "nothing"),
        (("diff", "app", "old", "/nope"), 3, "/nope"),
        (("diff", "app", "app~9"), 2, "layers 1 to 2"),
        (("diff", "app", "UPPER"), 2, "lower case"),
        (("diff", "app", "old", "--ignore", "kind"), 2, "kind"),
        (("diff", "app", "--stat"), 2, "need two sides"),
        (("diff", "app", "artifact"), 7, "artifact"),
        (("ghosts", "artifact"), 7, "artifact"),
        (("ghosts", "app", "--recover"), 2, "--recover"),
        (("ghosts", "app", "/etc"), 2, "--recover"),
        (("ghosts", "app", "--recover", "9", "/etc/conf"), 2, "layers 1 to 2"),
        (("ghosts", "app", "--recover", "1", "/new"), 3, "layer 1 has no /new"),
        (("ghosts", "app", "--recover", "/nope"), 3, "/nope"),
        (("ghosts", "app", "--recover", "/etc"), 2, "directory"),
        (("ghosts", "app", "--max-file", "x"), 2, "'x'"),
        (("waste", "artifact"), 7, "artifact"),
        (("waste", "app", "--min-efficiency", "2"), 2, "2"),
        (("du", "app", "/nope"), 3, "/nope"),
        (("du", "app", "/gone"), 3, "/gone"),
        (("du", "artifact"), 7, "artifact"),
        (("history", "artifact"), 7, "artifact"),
    ],
)
def test_bad_input_is_one_line_and_a_documented_code(
    root: Path, tmp_path: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    if "artifact" in words:
        load_artifact(root, tmp_path)
    done = lamina(*words, root=root)
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("lamina: ")
    assert text in line
    assert done.stdout == b""


def load_artifact(root: Path, tmp_path: Path) -> None:
    from lamina.archive.layout import LayoutWriter
    from lamina.source.verify import BytesBlob
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.manifest import build_manifest

    writer = LayoutWriter(str(tmp_path / "a"))
    with writer.session("test") as session:
        empty, text = Descriptor.of("application/vnd.oci.empty.v1+json", b"{}"), Descriptor.of("text/plain", b"hi")
        for descriptor, data in ((empty, b"{}"), (text, b"hi")):
            session.put_blob(descriptor, BytesBlob(descriptor, data))
        manifest = build_manifest(empty, [text], artifact_type="text/plain")
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag("artifact", manifest.descriptor)
    out(lamina("load", "-i", str(tmp_path / "a"), root=root))


def test_hostile_names_are_escaped_and_json_stays_valid(tmp_path: Path) -> None:
    evil: list[Member] = [
        ("a\x1b[31mred\n", b"one\x1b[2J\ttab\n"),
        ("caf\udce9", b"x"),
        ("link", "-> \x1b]0;title\x07"),
        ("\u202egnp.exe", f"{TOKEN}\n".encode()),
    ]
    other: list[Member] = [
        ("a\x1b[31mred\n", b"two\x1b[2J\ttab\n"),
        ("link", "-> \udcff"),
        (".wh.\u202egnp.exe", b""),
    ]
    write_layout(tmp_path / "l", "one", [evil])
    write_layout(
        tmp_path / "l",
        "two",
        [evil, other, [(".wh.caf\udce9", b"")]],
        config={"config": {"Env": ["\x1b[31mX=\x07"], "Labels": {"\u202e": "\x1b"}}},
    )
    root = tmp_path / "s"
    out(lamina("load", "-i", str(tmp_path / "l"), root=root))
    for words in (
        ("diff", "-u", "one", "two"),
        ("diff", "--stat", "one", "two"),
        ("diff", "--format", "{{.Path}}", "one", "two"),
        ("diff", "--json", "-u", "one", "two"),
        ("ghosts", "two"),
        ("ghosts", "two", "--format", "json"),
        ("waste", "two"),
        ("waste", "two", "--format", "json"),
        ("du", "-a", "two"),
        ("du", "-a", "two", "--format", "json", "--hidden"),
    ):
        done = lamina(*words, root=root)
        assert done.returncode == (words[0] == "diff"), done.stderr
        text = done.stdout.decode()
        assert text
        assert all(character.isprintable() or character in "\n\t" for character in text), words
        assert b"Traceback" not in done.stderr
        if "json" in words or "--json" in words:
            json.loads(text)
    found = json.loads(out(lamina("diff", "--json", "one", "two", root=root), 1))
    assert {change.get("path_b64") for change in found["changes"]} == {None, "L2NhZuk="}


def test_an_image_in_a_registry_is_compared_without_a_pull(root: Path, tmp_path: Path) -> None:
    from lamina.archive.layout import LayoutReader
    from lamina.serve.server import RegistryServer

    with RegistryServer(LayoutReader(str(tmp_path / "layout"))) as server:
        assert out(lamina("diff", "app", f"docker://{server.name}/app", root=root)) == ""
        assert "A /new" in out(
            lamina("diff", f"oci:{tmp_path}/layout:old", f"docker://{server.name}/app", root=root), 1
        )
        ranged = lamina("ls", f"docker://{server.name}/app~9", root=root)
        assert f"{server.name}/app has layers 1 to 2" in ranged.stderr.decode()
        missing = lamina("diff", "app", f"docker://{server.name}/none", root=root)
        assert missing.returncode == 3
        assert b"MANIFEST_UNKNOWN" in missing.stderr  # the registry's own word
