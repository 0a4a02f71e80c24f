"""The command line as a newcomer uses it, with images from programs of this host and small generated images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import lamina, loaded, made_once, write_layout

BASE = [
    ("etc/", None),
    ("etc/conf", b"one\n"),
    ("bin/", None),
    ("bin/sh", b"#!", {"mode": 0o755}),
    ("gone", b"ghost"),
]
TOP = [("etc/conf", b"two\n"), (".wh.gone", b""), ("new", b"new\n")]


def make(top: Path) -> None:
    write_layout(top / "layout", "app", [BASE, TOP])
    done = lamina("load", "-i", str(top / "layout"), root=top / "store")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made_once(make, tmp_path)
    return tmp_path / "store"


def out(done: object) -> str:
    assert done.returncode == 0, done.stderr.decode()  # type: ignore[attr-defined]
    return done.stdout.decode()  # type: ignore[attr-defined,no-any-return]


def test_ls_cat_stat_and_tree_show_the_union(root: Path) -> None:
    assert out(lamina("ls", "app", root=root)).split() == ["bin", "etc", "new"]
    assert out(lamina("cat", "app", "/etc/conf", root=root)) == "two\n"
    assert out(lamina("cat", "app~1", "/etc/conf", "/gone", root=root)) == "one\nghost"
    assert out(lamina("ls", "app~2:2", root=root)).split() == ["etc", "new"]
    assert out(lamina("ls", "app", "/etc/conf", root=root)) == "/etc/conf\n"  # as it was asked for
    assert out(lamina("ls", "-d", "app", "etc", "/", root=root)).split() == ["etc", "/"]
    assert "/etc/conf" in out(lamina("ls", "app", "/etc", "bin", root=root)).split()
    stat = json.loads(out(lamina("stat", "app", "/bin/sh", "--format", "json", root=root)))[0]
    assert (stat["kind"], stat["mode"], stat["size"], stat["layer"]) == ("file", "0755", 2, 1)
    assert "└── new  [2]" in out(lamina("tree", "app", root=root))


def test_layers_counts_what_each_layer_adds_and_hides(root: Path) -> None:
    rows = json.loads(out(lamina("layers", "app", "--format", "json", root=root)))
    assert [(r["adds"], r["replaces"], r["hides"], r["step"]) for r in rows] == [
        (5, 0, 0, "step 1"),
        (1, 1, 1, "step 2"),
    ]


def test_blame_shows_the_visible_entry_and_the_whiteout(root: Path) -> None:
    found = json.loads(out(lamina("blame", "app", "/gone", "/etc/conf", "--format", "json", root=root)))
    assert found[0]["hidden"]
    assert found[0]["states"][0]["ended"] == {"how": "whiteout", "layer": 2, "by": "/gone"}
    assert [s["step"] for s in found[1]["states"]] == ["step 2", "step 1"]
    assert "content" in found[1]["states"][0]["changed"]


def test_symlinks_on_the_way_to_a_path_are_followed(tmp_path: Path) -> None:
    """As in images with /bin -> usr/bin. A path that a layer has or had is never looked up elsewhere."""
    usr = [("usr/bin/", None), ("usr/bin/sh", b"#!"), ("usr/bin/cat", b"c"), ("bin", "-> usr/bin")]
    write_layout(tmp_path / "l", "new", [[*usr, ("loop", "-> loop"), ("bad", "-> no/where")]])
    write_layout(tmp_path / "l", "old", [[("bin/sh", b"old")], usr])
    root = tmp_path / "s"
    out(lamina("load", "-i", str(tmp_path / "l"), root=root))
    assert out(lamina("blame", "new", "/bin/sh", root=root)).startswith("/usr/bin/sh\n  * layer 1 ")
    for flags in ([], ["-r"]):
        (found,) = json.loads(out(lamina("blame", *flags, "new", "bin/sh", "--format", "json", root=root)))
        assert (found["path"], found["states"][0]["entry"]["size"]) == ("/usr/bin/sh", 2)
    assert out(lamina("blame", "-r", "new", "/bin/sh", "--format", "{{.Path}}", root=root)) == "/usr/bin/sh\n"
    assert out(lamina("blame", "old", "/bin/sh", root=root)).startswith("/bin/sh (hidden in the union)\n")
    assert out(lamina("blame", "new", "/bin", "--format", "{{.Path}} {{.State}}", root=root)) == "/bin symlink\n"
    missing = lamina("blame", "new", "/bin/none", root=root)
    assert (missing.returncode, b"/bin/none was not found in any layer" in missing.stderr) == (3, True)

    words = ("--remove", "/bin/cat", "--remove", "/usr/bin/cat", "--remove", "/bad")
    out(lamina("append", "new", *words, "-t", "less", root=root))
    assert out(lamina("ls", "less", "/", "/bin", root=root)).split() == ["/bin", "/loop", "/usr", "/bin/sh"]
    for path, target in (("/bad", "no/where"), ("/loop", "loop")):
        assert out(lamina("ls", "-l", "new", path, root=root)).endswith(f" {path} -> {target}\n")
        assert out(lamina("ls", "new", path, root=root)) == f"{path}\n"
    assert lamina("ls", "new", "/bad/more", root=root).returncode == 3


def test_images_templates_and_filters(root: Path) -> None:
    out(lamina("tag", "app", "team/app:1", root=root))
    assert out(lamina("images", "--format", "{{.Repository}}:{{.Tag}}", root=root)).split() == [
        "app:latest",
        "team/app:1",
    ]
    assert out(lamina("images", "team/*", "-q", root=root)) == out(lamina("images", "app", "-q", root=root))
    assert out(lamina("images", "-f", "dangling=true", "-q", root=root)) == ""
    assert out(lamina("inspect", "app", "-f", "{{.Os}}", root=root)) == "linux\n"
    table = out(lamina("images", "--format", "table {{.Repository}}\t{{.Tag}}", root=root)).splitlines()
    assert table[0].split() == ["REPOSITORY", "TAG"]


def test_rmi_dry_run_shows_what_rmi_frees(root: Path) -> None:
    def used() -> int:
        return sum(
            f.stat().st_blocks * 512 for d in ("blobs", "layers") for f in (root / d).rglob("*") if f.is_file()
        )

    plan = json.loads(out(lamina("rmi", "--dry-run", "app", "--format", "json", root=root)))
    before = used()
    done = json.loads(out(lamina("rmi", "app", "--format", "json", root=root)))
    assert plan["freed"] == done["freed"] == before - used() > 0
    assert out(lamina("images", "-q", root=root)) == ""


def test_save_and_load_keep_names_and_digests(root: Path, tmp_path: Path) -> None:
    out(lamina("tag", "app", "host.example:5000/a/b:2", root=root))
    for kind in ("oci-archive", "docker-archive"):
        file, other = tmp_path / f"{kind}.tar", tmp_path / f"{kind}-store"
        out(lamina("save", "--type", kind, "-o", str(file), "app", "host.example:5000/a/b:2", root=root))
        out(lamina("load", "-i", str(file), root=other))
        mine = json.loads(out(lamina("images", "--format", "json", root=root)))
        theirs = json.loads(out(lamina("images", "--format", "json", root=other)))
        assert [i["name"] for i in mine] == [i["name"] for i in theirs]
        assert [i["id"] for i in mine] == [i["id"] for i in theirs]
        if kind == "oci-archive":
            assert [i["digest"] for i in mine] == [i["digest"] for i in theirs]


def test_second_copy_fetches_one_layer(root: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.write_text("x")
    out(lamina("append", "app", f"{extra}:/srv/extra", "-t", "app2", "-q", root=root))
    first = lamina("copy", "app", "app", "--to-root", str(tmp_path / "b"), "--format", "json", root=root)
    second = lamina("copy", "app2", "app2", "--to-root", str(tmp_path / "b"), "--format", "json", root=root)
    layers = [b for b in json.loads(out(first))[0]["blobs"] if b["what"] == "layer"]
    assert [b["reused"] for b in layers] == [False, False]
    layers = [b for b in json.loads(out(second))[0]["blobs"] if b["what"] == "layer"]
    assert [b["reused"] for b in layers] == [True, True, False]


def test_packed_programs_run_with_only_the_files_of_the_image(tmp_path: Path) -> None:
    root = tmp_path / "store"
    out(lamina("pack", "sh", "ls", "-t", "tools", root=root))
    out(lamina("unpack", "tools", str(tmp_path / "rootfs"), root=root))
    assert os.path.exists(tmp_path / "rootfs/bin/sh") or os.path.islink(tmp_path / "rootfs/bin")
    if os.geteuid() == 0:
        import subprocess

        done = subprocess.run(
            ["chroot", str(tmp_path / "rootfs"), "sh", "-c", "ls /"], capture_output=True, check=True
        )
        assert b"etc" in done.stdout


def test_append_is_reproducible_and_keeps_the_base(root: Path, tmp_path: Path) -> None:
    before = out(lamina("images", "app", "--digests", "--format", "{{.Digest}}", root=root))
    (tmp_path / "f").write_text("x")
    words = ("append", "app", f"{tmp_path}/f:/f", "--remove", "/new", "--env", "A=b", "-q", "-t")
    one = out(lamina(*words, "x1", root=root, SOURCE_DATE_EPOCH="1700000000"))
    two = out(lamina(*words, "x2", root=root, SOURCE_DATE_EPOCH="1700000000"))
    assert one == two
    assert out(lamina("images", "app", "--digests", "--format", "{{.Digest}}", root=root)) == before
    assert out(lamina("ls", "x1", root=root)).split() == ["bin", "etc", "f"]
    assert "A=b" in out(lamina("inspect", "x1", "--format", "{{json .Config.Env}}", root=root))


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("ls", "nothing"), 3, "nothing"),
        (("ls", "app", "/nope"), 3, "/nope"),
        (("cat", "app", "/etc"), 2, "/etc"),
        (("ls", "app~9"), 2, "layers 1 to 2"),
        (("ls", "UPPER"), 2, "lower case"),
        (("bogus",), 2, "bogus"),
        (("images", "--filter", "x=y"), 2, "x=y"),
        (("images", "--format", "{{.Nope}}"), 2, ".Nope"),
        (("load", "-i", "/nonexistent.tar"), 3, "/nonexistent.tar"),
        (("load", "-i", "/etc/passwd"), 4, "/etc/passwd"),
        (("append", "app", "--remove", "/none", "-t", "x"), 3, "/none"),
        (("pack", "no-such-program", "-t", "x"), 3, "no-such-program"),
        (("unpack", "app", "/etc"), 5, "/etc"),
        (("--root", "/proc/nope", "pack", "sh", "-t", "x"), 6, "/proc/nope"),
    ],
)
def test_bad_input_is_one_line_and_a_documented_code(
    root: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    done = lamina(*words, root=root)
    assert done.returncode == code, done.stderr
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lamina: ")
    assert text in lines[0]
    assert b"Traceback" not in done.stderr


def test_every_verb_has_help_with_an_example(root: Path) -> None:
    from lamina.cli.verbs import VERBS

    code = (
        "import sys\n"
        "from lamina.cli import run\n"
        "for verb in sys.argv[1:]:\n"
        "    assert run([verb, '--help']) == 0\n"
        "    print('\\0', end='')"
    )
    env = {**os.environ, "LAMINA_ROOT": str(root)}
    done = subprocess.run([sys.executable, "-c", code, *VERBS], capture_output=True, text=True, env=env, check=True)
    for verb, text in zip(VERBS, done.stdout.split("\0")[:-1], strict=True):
        assert f"lamina {verb}" in text.split("Example:")[1]


def test_control_sequences_in_names_are_escaped(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", "evil", [[("a\x1b[31mred\n", b""), ("caf\udce9", b"")]])
    root = tmp_path / "s"
    out(lamina("load", "-i", str(tmp_path / "l"), root=root))
    shown = lamina("ls", "evil", root=root).stdout
    assert b"\x1b" not in shown
    assert shown.splitlines() == [rb"a\x1b[31mred\n", rb"caf\xe9"]
    rows = json.loads(out(lamina("ls", "evil", "--format", "json", root=root)))
    assert rows[1]["path_b64"] == "L2NhZuk="
    assert lamina("ls", "-0", "evil", root=root).stdout == b"a\x1b[31mred\n\0caf\xe9\0"


@pytest.mark.parametrize("words", [("images",), ("ls", "app"), ("blame", "app", "/etc/conf")])
def test_reading_verbs_import_fewer_than_140_modules(tmp_path: Path, words: tuple[str, ...]) -> None:
    make(tmp_path)  # what is derived in a copy is proved first
    assert len(loaded(tmp_path / "store", *words)) < 140


def test_works_without_fcntl_and_getxattr(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys, os\n"
        "sys.modules['fcntl'] = None\n"
        "for name in ('getxattr', 'listxattr', 'setxattr'): delattr(os, name)\n"
        "from lamina.cli import run\n"
        f"assert run(['ls', 'app']) == 0\n"
        f"assert run(['append', 'app', {str(__file__)!r} + ':/t.py', '-t', 'b', '-q']) == 0\n"
        f"assert run(['copy', 'b', 'oci:' + {str(tmp_path / 'o')!r} + ':b', '-q']) == 0\n"
    )
    import subprocess

    env = {**os.environ, "LAMINA_ROOT": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr


def test_completion_scripts_and_names(root: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_LAMINA_COMPLETE" in out(lamina("completion", shell, root=root))
    done = lamina(root=root, _LAMINA_COMPLETE="bash_complete", LAMINA_LINE="lamina ls a")
    assert done.stdout == b"app:latest \n"
