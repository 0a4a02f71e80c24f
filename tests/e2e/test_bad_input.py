"""Every verb that takes an image or a path gets every kind of bad input. It must print one clear line, end with the
documented exit code, send no control sequence to a terminal, and print valid JSON.

Run in this process (``cli.run``): a traceback would come through as the exception that it is.
"""

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e2e.test_cli_insight import load_artifact
from lamina.cli import run
from lamina.cli.verbs import VERBS
from lamina.run.container.life import create
from lamina.run.options import ContainerOptions
from lamina.spec.platform import Platform
from lamina.store.store import Store
from support import Member, lamina, require_root, write_layout

TOKEN = b"ghp_" + b"a1B2" * 9
BASE: list[Member] = [
    ("etc/", None),
    ("etc/conf", b"one\n"),
    ("etc/\x1b[31mred\n", b"one\x1b[2J\ttab\n"),
    ("etc/caf\udce9", b"old"),
    ("etc/\u202egnp.exe", TOKEN + b"\n"),
    ("etc/link", "-> \x1b]0;title\x07\udcff"),
    ("etc/hard\x9b", "= etc/conf"),
    ("d\x9b\udcfe/", None),
    ("d\x9b\udcfe/x\x7f", b"content"),
    ("bin", b"\x7fELF\0\x1b[31m"),
    ("copy\x1b", b"twice the same"),
    ("copy\x1b2", b"twice the same"),
    ("fifo\x07", "fifo"),
    ("device\x07", "c 1 3"),
    ("attributes", b"", {"pax_headers": {"SCHILY.xattr.user.\x1b[0m": "\x1b"}}),
    ("var/lib/dpkg/status.d/\x1b\udcff", b"Package: evil\nVersion: 1\nMaintainer: \x1b[1m\n\n"),
]
TOP: list[Member] = [
    ("etc/conf", b"two\n"),
    ("etc/\x1b[31mred\n", b"two\x1b[2J\ttab\n"),
    ("etc/caf\udce9", b"new"),
    ("etc/link", "-> \x1b[0m"),
    ("etc/.wh.\u202egnp.exe", b""),
    ("d\x9b\udcfe/.wh.x\x7f", b""),
    ("bin", b"\x7fELF\0\x1b[32m"),
    ("copy\x1b", b"twice the same", {"mode": 0o600}),
]
CONFIG = {
    "author": "\x1b[1ma",
    "config": {
        "Env": ["\x1b[31mX=\x07", "TAB=a\tb", "SECRET=hunter22"],
        "Labels": {"\u202e": "\x1b\x9b\xa0\U000e0001\x7f", "tab": "a\tb\\t\\x1b"},
        "Cmd": ["\x1b[0m"],
    },
    "history": [{"created_by": "\x1b[31mone \x9b"}, {"created_by": "two\x07", "comment": "\x1b", "author": "\x1b"}],
}

OTHER = {"config": {"Env": ["\x1b[31mX=\x1b"], "Labels": {"\u202e": "\x1b["}, "WorkingDir": "/\x1b"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with "one" (one layer), "app" (two layers, with hostile names and texts), and an artifact."""
    top = tmp_path_factory.mktemp("hostile")
    write_layout(top / "l", "one", [BASE])
    write_layout(top / "l", "app", [BASE, TOP], config=CONFIG)
    write_layout(top / "l", "other", [[*BASE, ("etc/conf", b"three\n")]], config=OTHER)
    done = lamina("load", "-i", str(top / "l"), root=top / "s")
    assert done.returncode == 0, done.stderr
    load_artifact(top / "s", top)
    return top / "s"


class Said(NamedTuple):
    code: int
    out: bytes
    err: bytes


Call = Callable[..., Said]


@pytest.fixture
def call(
    root: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Call the command line in this process, in an empty directory, without any registry."""
    (tmp_path / "registries.conf").write_text(
        '[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:1"\ninsecure = true\n'
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*words: str) -> Said:
        capfdbinary.readouterr()
        code = run(["--root", str(root), *words])
        sys.stdout.flush()
        return Said(code, *capfdbinary.readouterr())

    return call


def is_plain(data: bytes) -> bool:
    """Decode UTF-8, and check that it has no control characters."""
    return all(character.isprintable() or character in "\n\t" for character in data.decode())


def check_refusal(said: Said, code: int) -> str:
    """Check an error: one line on stderr, nothing on stdout, the exit code of docs/exit-codes.md. Returns the
    line."""
    assert said.code == code, said
    assert said.out == b""
    assert is_plain(said.err), said
    (line,) = said.err.decode().splitlines()
    assert line.startswith("lamina: ")
    assert len(line) > 20
    assert "Traceback" not in line
    return line


# Verbs that look into an image, wherever it is
LOOK = [
    "ls {image} {path}",
    "ls -lR {image} {path}",
    "ls --format json {image} {path}",
    "cat {image} {path}",
    "stat {image} {path}",
    "stat -L --format json {image} {path}",
    "tree {image} {path}",
    "tree --format json {image} {path}",
    "blame {image} {path}",
    "blame -r --format json {image} {path}",
    "du {image} {path}",
    "du --hidden --format json {image} {path}",
    "diff {image} one {path}",
    "diff one {image} {path} -u --json",
    "ghosts {image} --recover {path}",
    "ghosts {image}",
    "ghosts --format json {image}",
    "waste {image}",
    "packages {image}",
    "packages --format spdx {image}",
    "packages --format cyclonedx {image}",
    "layers {image}",
    "history {image}",
    "inspect {image}",
    "export {image} -o out.tar",
    "unpack {image} out",
]
# Verbs that make an image of one of the store's
EDIT = [
    "squash {image} --from 1 -t new",
    "flatten {image} -t new",
    "erase {image} {path} -t new",
    "rebase {image} --onto one --old-base one -t new",
    "rebase app --onto {image} --old-base one -t new",
    "rebase app --onto one --old-base {image} -t new",
    "config {image} -e A=1 -t new",
    "append {image} --remove {path} -t new",
    "pack sh --base {image} -t new",
    "find --in {image} conf",
]
# Verbs that take whole images as they are; an artifact is as good as any
WHOLE = [
    "copy {image} oci:out:x",
    "save {image} -o out.tar",
    "save --type docker-archive {image} -o out.tar",
    "tag {image} new",
    "rmi {image}",
    "push {image} 127.0.0.1:1/app",
    "config --local {image}",
    "manifest --local {image}",
    "digest --local {image}",
    "index create new {image}",
    "vm-disk -o vm {image}",
]
# Verbs that want an image of the store, and to be root
PLACE = ["mount {image} out"]
CONTAINER = [
    "run --pull never {image} true",
    "create --pull never {image} true",
    "boot --pull never {image} true",
]
NO_IMAGE = {
    # registries, which tests/e2e/test_cli_registry.py asks
    *("blob", "delete", "login", "logout", "plan", "pull", "search", "sync", "tags", "validate"),
    "build",  # below
    # they name no image
    *("compose", "pod"),
    # the store as a whole, this program, what is mounted
    *("completion", "df", "fsck", "help", "images", "info", "mounts", "prune", "ps", "serve", "umount", "version"),
    "passwd",  # tests/integration/serve/test_users_and_tls.py
    # archives and containers, below
    *("commit", "cp", "exec", "explore", "import", "kill", "load", "pause", "rename", "rm", "stop", "unpause"),
    *("stats", "top", "update", "attach", "healthcheck", "logs", "port", "restart", "start", "wait"),
    *("events", "generate", "network", "volume"),
    # runs until Ctrl-C: tests/integration/serve/test_explorer.py
    "ui",
}
GRID = [*LOOK, *EDIT, *WHOLE, *PLACE, *CONTAINER]


def test_no_verb_is_left_out() -> None:
    assert {line.split()[0] for line in GRID} | NO_IMAGE == set(VERBS)


UNKNOWN, RANGE, ARTIFACT = "nothing:1", "app~99", "artifact"
IMAGES = {
    UNKNOWN: 3,
    "sha256:" + "0" * 64: 3,
    "oci:nowhere:x": 3,
    "oci-archive:nowhere.tar": 3,
    RANGE: 2,
    "app~2:1": 2,
    "UPPER": 2,
    "": 2,
    "a\x1b[31mb\x9b": 2,
    "caf\udce9": 2,
    "docker-daemon:app": 7,
    ARTIFACT: 7,
}
"""Images that are none, and what is said of them."""


def code_for(line: str, image: str) -> int:
    if line in CONTAINER:
        return 125
    if image.startswith("oci:") and (line in EDIT or line.startswith(("tag", "push", "rmi"))):
        return 2  # only what is in the store
    if image.startswith("oci-archive:") and (line in EDIT or line.startswith(("tag", "push"))):
        return 2
    if image == "docker-daemon:app" and line.startswith("rmi"):
        return 3  # which takes it for a name with a tag
    return IMAGES[image]


def words_of(line: str, image: str = "app", path: str = "/etc/conf") -> list[str]:
    return [word.format(image=image, path=path) for word in line.split(" ")]


@pytest.mark.parametrize(
    ("line", "image"),
    [(line, image) for line in GRID for image in IMAGES if image != ARTIFACT or line not in WHOLE],
    ids=ascii,
)
def test_an_invalid_image_is_refused(call: Call, tmp_path: Path, line: str, image: str) -> None:
    if line in CONTAINER + PLACE:
        require_root()
    check_refusal(call(*words_of(line, image)), code_for(line, image))
    assert os.listdir(tmp_path / "here") == []


@pytest.mark.parametrize("path", ["/nope\x1b[2J\x9b", "/etc/caf\udce9/x\udcff", "/etc/conf/below"], ids=ascii)
@pytest.mark.parametrize("line", [line for line in GRID if "{path}" in line])
def test_a_missing_path_is_refused(call: Call, line: str, path: str) -> None:
    said = check_refusal(call(*words_of(line, path=path)), 3)
    assert "/nope\\x1b[2J" in said or "/etc/caf\\xe9" in said or "/etc/conf" in said


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("copy app oci:out:x --format {{", "closed"),
        ("tree app --format {{end}}", "unexpected"),
        ("erase app /etc/conf -t new --format {{.}}", "'json', 'table'"),
        ("rmi app --format yaml", "'json', 'table'"),
        ("fsck --format yaml", "'json', 'table'"),
        ("cat app /etc", "directory"),
        ("cat app /fifo\x07", "fifo"),
        ("cat app /device\x07", "char"),
        ("ghosts app --recover /etc", "directory"),
        ("ghosts app --recover 9 /etc/conf", "layers 1 to 2"),
        ("ghosts app --recover -- -1 /etc/conf", "needs a path"),
        ("squash app --from 2 --to 9 -t new", "1 to 2"),
        ("squash app --from 0 -t new", "1 to 2"),
        ("squash app --from x -t new", "'x'"),
        ("erase app / -t new", "root"),
        ("append app --remove / -t new", "root"),
        ("append app --env A -t new", "NAME=VALUE"),
        ("config app -e =x -t new", "NAME=VALUE"),
        ("config app -e A=1", "-t"),
        ("config app -t new", "nothing"),
        ("flatten app -t UPPER", "lower case"),
        ("flatten app -t \x1b[31m", "repository name"),
        ("tree app --depth 0", "0"),
        ("du app --depth x", "'x'"),
        ("find --size x", "'x'"),
        ("find --perm 9", "'9'"),
        ("find --owner root", "'root'"),
        ("find --type z", "'z'"),
        ("find --digest sha256:00", "digest"),
        ("find -E (", "("),
        ("find", "no pattern"),
        ("diff app one --ignore \x1b[1m", "ignored"),
        ("waste app --min-efficiency nan", "nan"),
        ("packages app --kind \x1b", "kind"),
        ("history app --format {{.Nope}}", ".Nope"),
        ("ls app --format {{", "closed"),
        ("ls app --format {{.Name", "closed"),
        ("inspect app --format {{.Config.Nope}}", ".Nope"),
        ("inspect app --format {{range .Config.Env}}", "end"),
        ("rebase app --onto one", "-t"),
        ("ls app --platform \x1b[1m", "platform"),
        ("explore app", "terminal"),
        ("nonsense\x1b[1m", "verb"),
        ("ls --no-such\x1b[1m app", "option"),
    ],
    ids=ascii,
)
def test_an_invalid_command_line_is_refused(call: Call, tmp_path: Path, line: str, word: str) -> None:
    words = line.split(" ") if "range" not in line else [*line.split(" ")[:3], " ".join(line.split(" ")[3:])]
    assert word in check_refusal(call(*words), 2)
    assert os.listdir(tmp_path / "here") == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("import {file} new", 4),
        ("load -i {file}", 4),
        ("ls oci-archive:{file}", 4),
        ("sync {file} oci:o", 2),
        ("run --pull never --env-file {file} app true", 125),
    ],
)
def test_binary_input_instead_of_an_archive_or_a_list_is_refused(
    call: Call, tmp_path: Path, line: str, code: int
) -> None:
    file = tmp_path / "binary\x1b[1m"
    file.write_bytes(b"\x7fELF\0\xff\x1b[31m" * 200)
    check_refusal(call(*(word.format(file=file) for word in line.split(" "))), code)


def test_diff_shows_size_and_digest_of_binary_files(call: Call) -> None:
    said = call("diff", "-u", "one", "app", "/bin")
    assert said.code == 1
    assert is_plain(said.out)
    assert said.out.count(b"sha256:") == 2
    found = json.loads(call("diff", "-u", "--json", "one", "app", "/bin").out)
    assert found["changes"][0]["text"] is None
    assert json.loads(call("ghosts", "app", "--format", "json").out)["read"]["binary"] == 2


def on_a_terminal(root: Path, *words: str) -> tuple[int, bytes]:
    """Return the exit code, and the output on the terminal."""
    head, end = pty.openpty()
    env = {**os.environ, "LAMINA_ROOT": str(root), "PYTHONWARNINGS": "error", "TERM": "xterm"}
    command = [sys.executable, "-m", "lamina", *words]
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=env, start_new_session=True) as process:
        os.close(end)
        got = b""
        try:
            while data := os.read(head, 65536):
                got += data
        except OSError:  # Linux reports so that no process has the other end open
            pass
    os.close(head)
    return process.returncode, got.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("words", [("cat", "app", "/bin"), ("ghosts", "app", "--recover", "/bin")])
def test_binary_content_is_not_written_to_a_terminal(root: Path, call: Call, words: tuple[str, ...]) -> None:
    assert b"\0" in call(*words).out  # but where it is piped to
    code, got = on_a_terminal(root, *words)
    assert code == 2
    assert got.startswith(b"lamina: /bin ")
    assert is_plain(got)


def test_control_characters_are_escaped_on_a_terminal(root: Path, call: Call) -> None:
    path = "/etc/\x1b[31mred\n"
    assert call("cat", "app", path).out == b"two\x1b[2J\ttab\n"
    assert on_a_terminal(root, "cat", "app", path) == (0, b"two\\x1b[2J\ttab\n")
    assert on_a_terminal(root, "cat", "app", "/etc/caf\udce9", "/etc/conf") == (0, b"newtwo\n")


def test_raw_names_are_not_written_to_a_terminal(root: Path, call: Call) -> None:
    assert b"\x1b[31mred\n\0" in call("ls", "-0", "app", "/etc").out
    code, got = on_a_terminal(root, "ls", "-0", "app", "/etc")
    assert code == 2
    assert is_plain(got)


@pytest.mark.parametrize(("image", "code"), [(UNKNOWN, 3), (RANGE, 2), (ARTIFACT, 7), ("a\x1b[31m", 2)])
def test_explore_reports_errors_before_it_draws(root: Path, image: str, code: int) -> None:
    pytest.importorskip("textual")
    said, got = on_a_terminal(root, "explore", image)
    assert said == code
    check_refusal(Said(said, b"", got), code)


TOLD = [
    "ls {options} app /etc",
    "ls -lR {options} app",
    "stat {options} app /etc/caf\udce9 /etc/link /attributes /d\x9b\udcfe /device\x07",
    "tree {options} app",
    "tree --sizes {options} app",
    "blame {options} app /etc/caf\udce9 /etc/link",
    "blame -r {options} app /",
    "du -a {options} app",
    "du -a --hidden {options} app",
    "diff {options} one app",
    "diff -u {options} one app",
    "diff --stat {options} one app",
    "ghosts {options} app",
    "ghosts --paths {options} app",
    "waste --top 0 {options} app",
    "find --ghosts {options} *",
    "find {options} --in app *",
    "packages {options} app",
    "layers {options} app",
    "layers --no-trunc {options} app",
    "history {options} app",
    "history --no-trunc {options} app",
    "inspect {options} app",
    "images {options}",
    "df {options}",
    "erase {options} -t new app /etc/caf\udce9 /copy\x1b",
    "rebase --dry-run --force {options} app --onto other --old-base one",
    "fsck {options}",
]


@pytest.mark.parametrize("line", TOLD)
def test_hostile_names_and_texts_in_tables(call: Call, line: str) -> None:
    said = call(*words_with(line))
    assert said.code == (line.startswith("diff")), said.err
    assert said.out
    assert is_plain(said.out)
    assert is_plain(said.err)


def words_with(line: str, *options: str) -> list[str]:
    words: list[str] = []
    for word in line.split(" "):
        words += options if word == "{options}" else [word]
    return words


@pytest.mark.parametrize("line", [line for line in TOLD if "-u" not in line])
def test_hostile_names_and_texts_in_json(call: Call, line: str) -> None:
    said = call(*words_with(line, "--format", "json"))
    assert said.code == (line.startswith("diff")), said.err
    assert is_plain(said.out)
    check_paths(json.loads(said.out))


def check_paths(value: Any) -> None:
    """Check that each text of JSON for bytes that are not UTF-8 has a field with the bytes."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("path", "target", "by") and isinstance(item, str):
                raw = value.get(f"{key}_b64")
                assert (raw is not None) == any(escape in item for escape in ("\\xe9", "\\xfe", "\\xff")), value
                if raw is not None:
                    assert base64.b64decode(raw).decode("utf-8", "backslashreplace") == item
            check_paths(item)
    elif isinstance(value, list):
        for item in value:
            check_paths(item)


NO_TEMPLATE = ("erase", "rebase", "fsck", "df")


@pytest.mark.parametrize("line", [line for line in TOLD if line.split()[0] not in NO_TEMPLATE and "-u" not in line])
def test_hostile_names_and_texts_in_templates(call: Call, line: str) -> None:
    """``{{json .}}`` is valid JSON for any text."""
    said = call(*words_with(line, "--format", "{{json .}}"))
    assert said.code == (line.startswith("diff")), said.err
    assert is_plain(said.out)
    rows = [json.loads(row) for row in said.out.decode().splitlines()]
    assert rows
    said = call(*words_with(line, "--format", "{{.}}"))
    assert is_plain(said.out)
    said = call(*words_with(line, "--format", "table {{json .}}"))
    assert is_plain(said.out)


def test_json_in_a_template_has_the_value_of_a_label(call: Call) -> None:
    labels = json.loads(call("inspect", "app", "--format", "{{json .Config.Labels}}").out)
    assert labels == CONFIG["config"]["Labels"]  # type: ignore[index]
    (env, *_) = call("inspect", "app", "--format", "{{range .Config.Env}}{{.}}\n{{end}}").out.decode().splitlines()
    assert env == "\\x1b[31mX=\\x07"


def test_characters_that_the_terminal_lacks_are_escaped(root: Path) -> None:
    done = lamina("tree", "app", root=root, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert rb"\u251c\u2500\u2500 bin  [2]" in done.stdout
    assert done.stderr == b""


def test_containers_and_their_paths(root: Path, call: Call, tmp_path: Path) -> None:
    require_root()
    store = Store.open(str(root))
    one = create(store, store.stack("app", Platform.host()), ContainerOptions(name="web"))
    try:
        for line in (
            "export {}",
            "diff {}",
            "cp {}:/etc/conf .",
            "commit {} new",
            "exec {} true",
            "rm {}",
            "stop {}",
            "kill {}",
            "attach {}",
            "generate systemd {}",
            "healthcheck run {}",
            "logs {}",
            "network connect bridge {}",
            "pause {}",
            "port {}",
            "rename {} new",
            "restart {}",
            "start {}",
            "stats --no-stream {}",
            "top {}",
            "unpause {}",
            "update --restart no {}",
            "wait {}",
        ):
            for name in ("nothing", "a\x1b[31mb\x9b", "caf\udce9", "UPPER"):
                code = 2 if line.startswith("export") and name != "nothing" else 3
                check_refusal(call(*line.format(name).split(" ")), code)
        assert "nope\\x1b" in check_refusal(call("cp", "web:/nope\x1b[2J", "."), 3)
        assert "but an image (compare it with another one: lamina diff app" in check_refusal(call("diff", "app"), 3)
        upper = Path(store.containers.path(one.id, "upper"))
        (upper / "new\x1b[1m").write_bytes(b"")
        (upper / os.fsdecode(b"caf\xff")).write_bytes(b"")
        for options in ((), ("--format", "{{json .}}"), ("--format", "json")):
            said = call("diff", "web", *options)
            assert said.code == 0
            assert is_plain(said.out)
        assert {change.get("path_b64") for change in json.loads(said.out)} == {None, "L2NhZv8="}
        call("cp", "web:/etc/\x1b[31mred\n", "copied")
        assert (tmp_path / "here/copied").read_bytes() == b"two\x1b[2J\ttab\n"
    finally:
        call("rm", "-f", "web")


@pytest.mark.parametrize(
    ("words", "closed", "code", "said"),
    [
        (
            ("run", "-it", "app"),
            (0,),
            1,
            (b"", b"lamina: standard input is not a terminal (leave out -t or -i)\n"),
        ),
        (("ls", "nothing"), (2,), 3, (b"", b"")),
        (("run", "--pull", "never", "nothing"), (2,), 125, (b"", b"")),
        (("ls", "app", "/etc/conf"), (1,), 0, (b"", b"")),
        (("ls", "app", "/etc/conf"), (0, 2), 0, (b"/etc/conf\n", b"")),
    ],
)
def test_closed_standard_streams_do_no_harm(
    root: Path, words: tuple[str, ...], closed: tuple[int, ...], code: int, said: tuple[bytes, bytes]
) -> None:
    """The output is lost; it does not go to another stream."""
    shut = "".join(f"{number}>&- " for number in closed)
    command = ["sh", "-c", f'exec "$@" {shut}', "sh", sys.executable, "-m", "lamina", "--root", str(root), *words]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.returncode, (done.stdout, done.stderr)) == (code, said)
