"""Completion in a real shell on a terminal: press the key and compare the line."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamina.cli.completion import answer_lines, script, split
from lamina.cli.session import Session
from lamina.run.container.life import create
from lamina.run.options import ContainerOptions
from lamina.spec.platform import Platform
from lamina.store.store import Store
from lamina.store.volumes import new_volume
from support import Member, lamina, require_tool, write_layout
from unruly import Unruly

LAYER: list[Member] = [
    ("etc/", None),
    ("etc/hosts", b""),
    ("etc/passwd", b""),
    ("etc/passwd-", b""),
    ("usr/", None),
    ("usr/bin/", None),
    ("usr/bin/env", b""),
    ("sbin", "-> usr/bin"),
    ("odd/", None),
    ("odd/a b$(touch pwned)", b""),
    ("odd/\x1b[31mred", b""),
    ("odd/\udcff", b""),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("completion")
    for name in ("debian:12", "debian:13", "host.example:5000/team/app:1", "zoo"):
        write_layout(top / "l", name, [LAYER])
    assert lamina("load", "-i", str(top / "l"), root=top / "s").returncode == 0
    store = Store.open(str(top / "s"))
    for name in ("data", "cache"):
        store.volumes.make(new_volume(name))
    assert lamina("pod", "create", "--infra=false", "--share=", "site", root=top / "s").returncode == 0
    (top / "s" / "networks").mkdir()
    (top / "s" / "networks" / "front.json").write_text("{}")
    for name in ("web", "worker"):
        create(store, store.stack("zoo", Platform.host()), ContainerOptions(name=name))
    return top / "s"


def candidates(
    root: Path, line: str, *, breaks: str = " \t\n\"'><=;|&(:", shell: str = "bash", input: bytes | None = None
) -> list[str]:
    """Return the candidates for a shell."""
    words, word, _ = split(line)
    environment = {
        "LAMINA_LINE": line,
        "LAMINA_BREAKS": breaks,
        "LAMINA_WORDS": "\n".join(words),
        "LAMINA_WORD": word,
    }
    done = lamina(root=root, input=input, _LAMINA_COMPLETE=f"{shell}_complete", **environment)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


CASES = [
    # (the line, the candidates in bash)
    ("lamina imag", ["image ", "images "]),
    ("lamina image l", ["list ", "load ", "ls "]),
    ("lamina help hist", ["history "]),
    ("lamina run de", ["debian:12 ", "debian:13 "]),
    ("lamina run debian:", ["12 ", "13 "]),
    ("lamina run --rm -it debian:13", ["13 "]),
    ("lamina image inspect zo", ["zoo:latest "]),
    ("lamina ls host.example:5000/te", ["5000/team/app:1 "]),
    ("lamina rmi debian:12 z", ["zoo:latest "]),
    ("lamina tag zo", ["zoo:latest "]),
    ("lamina ls debian:12 /us", ["/usr/"]),
    ("lamina ls debian:12 /usr/bin/", ["/usr/bin/env "]),
    ("lamina ls debian:12 us", ["usr/"]),
    ("lamina ls debian:12 /sb", ["/sbin/"]),
    ("lamina cat debian:12 /sbin/e", ["/sbin/env "]),
    ("lamina cat debian:12 /etc/hosts /etc/pa", ["/etc/passwd ", "/etc/passwd- "]),
    ("lamina blame -r zoo /et", ["/etc/"]),
    ("lamina ls zoo /odd/", [r"/odd/a\ b\$\(touch\ pwned\) "]),
    ("lamina ls zoo /nowhere/", []),
    ("lamina ls nothing /et", []),
    ("lamina run zoo /usr/bin/e", ["/usr/bin/env "]),
    ("lamina rm w", ["web ", "worker "]),
    ("lamina container rm we", ["web "]),
    ("lamina exec w", []),  # none of them runs
    ("lamina cp wo", ["worker:"]),
    ("lamina cp web:/etc/ho", ["/etc/hosts "]),
    ("lamina cp zoo:/etc/ho", ["/etc/hosts "]),
    ("lamina inspect w", ["web ", "worker "]),
    ("lamina diff we", ["web "]),
    ("lamina images --filter da", ["dangling="]),
    ("lamina images --filter dangling=t", ["true "]),
    ("lamina images --filter=dangling=t", ["true "]),
    ("lamina images -f before=deb", ["debian:12 ", "debian:13 "]),
    ("lamina ps --filter status=e", ["exited "]),
    ("lamina run --network h", ["host "]),
    ("lamina run --network=h", ["host "]),
    ("lamina run --cap-add SYS_P", ["SYS_PACCT ", "SYS_PTRACE "]),
    ("lamina run --pull a", ["always "]),
    ("lamina images --format j", ["json "]),
    ("lamina pull --platform linux/ar", ["linux/arm64 ", "linux/arm/v6 ", "linux/arm/v7 "]),
    ("lamina completion b", ["bash "]),
    ("lamina load -i ", ["#file"]),
    ("lamina mount zoo ", ["#dir"]),
    ("lamina images --no-tr", ["--no-trunc "]),
    ("lamina nonsense x", []),
    ("lamina volume rm da", ["data "]),
    ("lamina volume inspect data c", ["cache "]),
    ("lamina volume ls --filter dang", ["dangling="]),
    ("lamina volume ls --filter dangling=t", ["true "]),
    ("lamina volume ls -f name=c", ["cache "]),
    ("lamina run --volumes-from wo", ["worker "]),
    ("lamina boot --kernel debian:13", ["13 "]),
    ("lamina boot --kernel /proc/versi", ["/proc/version "]),
    ("lamina boot --machine mi", ["microvm "]),
    ("lamina boot debian:13", ["13 "]),
    ("lamina vm-disk --kernel debian:13", ["13 "]),
    ("lamina pack --kernel /proc/versi", ["/proc/version "]),
    ("lamina rebase debian:12 --old-base scr", ["scratch "]),
    ("lamina run -v ca", ["cache:"]),
    ("lamina logs ", ["web ", "worker "]),
    ("lamina logs nothing", []),
    ("lamina start w", ["web ", "worker "]),
    ("lamina attach w", []),
    ("lamina unpause w", []),
    ("lamina network rm ", ["front "]),
    ("lamina network remove fr", ["front "]),
    ("lamina network connect ", ["front "]),
    ("lamina network connect front we", ["web "]),
    ("lamina network create ", []),
    ("lamina network ls --filter ty", ["type="]),
    ("lamina network create --driver m", ["macvlan "]),
    ("lamina pod rm ", ["site "]),
    ("lamina pod stop s", ["site "]),
    ("lamina pod create s", []),
    ("lamina volume create da", []),
    ("lamina run --pod ", ["site "]),
    ("lamina run --network fr", ["front "]),
    ("lamina run --network con", ["container:"]),
    ("lamina run --network container:wo", ["worker "]),
    ("lamina run --restart on", ["on-failure "]),
    ("lamina update --restart un", ["unless-stopped "]),
    ("lamina run --log-driver j", ["journald ", "json-file "]),
    ("lamina wait --condition h", ["healthy "]),
    ("lamina ps --filter health=h", ["healthy "]),
    ("lamina ps --filter restart-policy=al", ["always "]),
    ("lamina ps -f network=fr", ["front "]),
    ("lamina ps -f pod=s", ["site "]),
    ("lamina stop --sig", ["--signal "]),
    ("lamina stop --signal H", ["HUP "]),
]


@pytest.mark.parametrize(("line", "wanted"), CASES)
def test_bash_gets_the_candidates(root: Path, line: str, wanted: list[str]) -> None:
    assert candidates(root, line) == wanted


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_whole_words(root: Path, shell: str) -> None:
    assert candidates(root, "lamina run debian:", shell=shell) == ["debian:12", "debian:13"]
    assert candidates(root, "lamina images --filter=dangling=t", shell=shell) == ["--filter=dangling=true"]
    assert candidates(root, "lamina ls zoo /odd/", shell=shell) == ["/odd/a b$(touch pwned)"]


def test_completion_opens_only_local_images(root: Path, tmp_path: Path) -> None:
    """Completion asks no registry and reads nothing from the terminal."""
    write_layout(tmp_path / "l", "app", [LAYER])
    assert lamina("copy", f"oci:{tmp_path}/l:app", f"oci-archive:{tmp_path}/a.tar", root=root).returncode == 0
    assert candidates(root, f"lamina ls oci-archive:{tmp_path}/a.tar /us") == ["/usr/"]
    archive = (tmp_path / "a.tar").read_bytes()
    assert candidates(root, "lamina ls oci-archive:- /us", input=archive) == []
    with Unruly(tmp_path / "l") as server:
        assert lamina("ls", f"docker://{server.image}", "/usr", root=root).stdout == b"bin\n"
        asked = len(server.seen)
        assert candidates(root, f"lamina ls docker://{server.image} /us") == []
        assert len(server.seen) == asked


def test_completion_without_a_store_is_silent(tmp_path: Path) -> None:
    assert candidates(tmp_path / "none", "lamina run de") == []
    assert candidates(tmp_path / "none", "lamina rm w") == []
    assert candidates(tmp_path / "none", "lamina ls a /e") == []


@pytest.mark.parametrize(
    ("line", "words", "word", "quote"),
    [
        ("lamina ls", ["lamina"], "ls", ""),
        ("lamina ls ", ["lamina", "ls"], "", ""),
        (r"lamina ls a\ b", ["lamina", "ls"], "a b", ""),
        ("lamina ls 'a b' c", ["lamina", "ls", "a b"], "c", ""),
        ('lamina ls "a b', ["lamina", "ls"], "a b", '"'),
        ("lamina ls 'a\\", ["lamina", "ls"], "a\\", "'"),
        ("lamina '' x", ["lamina", ""], "x", ""),
        ("", [], "", ""),
    ],
)
def test_words_of_a_line(line: str, words: list[str], word: str, quote: str) -> None:
    assert split(line) == (words, word, quote)


def test_inside_quotes_only_safe_candidates_are_offered() -> None:
    assert list(answer_lines("bash", ["safe", "$(x)", 'a"b', "~x"], "", '"', "")) == ["safe "]
    assert list(answer_lines("bash", ["$(x)", "a'b", "~x", "-x"], "", "", "")) == [
        r"\$\(x\) ",
        r"a\'b ",
        r"\~x ",
        "-x ",
    ]


def test_the_number_of_candidates_is_limited() -> None:
    assert len(list(answer_lines("fish", map(str, range(9999)), "", "", ""))) == 2000


class Terminal:
    """A shell that runs on a terminal."""

    def __init__(self, command: list[str], environment: dict[str, str], cwd: Path) -> None:
        self._head, end = pty.openpty()
        self._process = subprocess.Popen(
            command, stdin=end, stdout=end, stderr=end, env=environment, cwd=cwd, start_new_session=True
        )
        os.close(end)
        self._seen = ""

    def send(self, text: str) -> None:
        os.write(self._head, text.encode())

    def await_text(self, pattern: str) -> re.Match[str]:
        """Wait until the output matches; return the match and drop the output before it."""
        until = time.monotonic() + 60
        while (found := re.search(pattern, self._seen)) is None:
            ready, _, _ = select.select([self._head], [], [], max(0, until - time.monotonic()))
            assert ready, self._seen
            self._seen += os.read(self._head, 65536).decode(errors="replace")
        self._seen = self._seen[found.end() :]
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._head)


BASH = """\
{script}
PS1='ready> '
bind 'set enable-bracketed-paste off'
bind 'set bell-style none'
bind -x '"\\C-x": printf "<<%s>>" "$READLINE_LINE"'
"""
ZSH = """\
autoload -Uz compinit
compinit -u -d {place}/dump
{script}
PS1='ready> '
unsetopt beep
setopt no_auto_menu
answer_lines() {{ print -rn -- "<<$BUFFER>>" }}
zle -N answer_lines
bindkey '^X' answer_lines
bindkey '^U' kill-whole-line
bindkey '^I' complete-word
"""


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    """A directory with a few files, and lamina on PATH."""
    (tmp_path / "here/sub").mkdir(parents=True)
    (tmp_path / "here/file.tar").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/lamina").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lamina "$@"\n')
    (tmp_path / "bin/lamina").chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "LAMINA_ROOT": str(root), "TERM": "dumb", "INPUTRC": "/dev/null"}


def pressed(command: list[str], environment: dict[str, str], place: Path, lines: list[str]) -> list[str]:
    """Type each line and press the key for completion; return the lines. Another key prints the line."""
    terminal = Terminal(command, environment, place)
    found = []
    try:
        terminal.await_text("ready> ")
        for line in lines:
            terminal.send(f"{line}\t\x18")
            found.append(terminal.await_text("<<(.*?)>>")[1])
            terminal.send("\x15")
    finally:
        terminal.close()
    return found


LINES = [
    # (what is typed, what it is behind the key)
    ("lamina imp", "lamina import "),
    ("lamina run deb", "lamina run debian:1"),
    ("lamina run debian:", "lamina run debian:1"),
    ("lamina run debian:12", "lamina run debian:12 "),
    ("lamina rmi host", "lamina rmi host.example:5000/team/app:1 "),
    ("lamina ls debian:12 /us", "lamina ls debian:12 /usr/"),
    ("lamina cat debian:12 /usr/bin/", "lamina cat debian:12 /usr/bin/env "),
    ("lamina ls zoo /odd/a", r"lamina ls zoo /odd/a\ b\$\(touch\ pwned\) "),
    ("lamina cp web:/etc/h", "lamina cp web:/etc/hosts "),
    ("lamina cp worker:/etc/hosts su", "lamina cp worker:/etc/hosts sub/"),
    ("lamina images --filter=dang", "lamina images --filter=dangling="),
    ("lamina images --filter dangling=f", "lamina images --filter dangling=false "),
    ("lamina load -i fi", "lamina load -i file.tar "),
    ("lamina mount zoo su", "lamina mount zoo sub/"),
    ("lamina rm wo", "lamina rm worker "),
]


def test_a_real_bash(environment: dict[str, str], tmp_path: Path) -> None:
    require_tool("bash")
    (tmp_path / "rc").write_text(BASH.format(script=script("bash")))
    command = ["bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"]
    found = pressed(command, environment, tmp_path / "here", [line for line, _ in LINES])
    assert found == [completed for _, completed in LINES]


def test_a_real_zsh(environment: dict[str, str], tmp_path: Path) -> None:
    require_tool("zsh")
    (tmp_path / ".zshrc").write_text(ZSH.format(script=script("zsh"), place=tmp_path))
    command = ["zsh", "-d", "-i"]
    environment = {**environment, "ZDOTDIR": str(tmp_path)}
    found = pressed(command, environment, tmp_path / "here", [line for line, _ in LINES[1::2]])
    assert found == [completed for _, completed in LINES[1::2]]


def test_a_real_fish(environment: dict[str, str], tmp_path: Path) -> None:
    require_tool("fish")
    (tmp_path / "script").write_text(script("fish"))
    lines = [line for line, _ in LINES if "odd" not in line]
    ask = "; ".join(f"complete -C '{line}'; echo ." for line in lines)
    command = ["fish", "--no-config", "-c", f"source {tmp_path}/script; {ask}"]
    environment = {**environment, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path / "here", env=environment, check=True, timeout=120
    )
    for line, answer in zip(lines, done.stdout.split("\n.\n"), strict=False):
        completed = dict(LINES)[line].split()[-1]
        offered = [word.partition("\t")[0] for word in answer.splitlines()]
        assert offered, line
        assert all(word.startswith(completed) for word in offered), (line, offered)


def test_session_of_no_flags() -> None:
    assert Session().flags == {}
