"""Run sequences of verbs of containers by one engine, and tell what it answered: the judge of
interop/test_containers.py.

A line of a sequence is a command line. ``@a`` is the name of a container, volume or network, one of its own for each
sequence; ``{d}`` is a directory with files (``FILES``). A container without a word about networks has none. An answer
is the exit code, standard output, and whether something is on standard error; what differs from run to run (names,
IDs, times, ports, directories) is replaced.

Lines that begin with one of these words are not verbs:

- ``state @a``: what inspect says of its state.
- ``show @a TEMPLATE``: inspect with this template.
- ``until TEXT @a TEMPLATE``: the same, until the output is TEXT. Without a template: ``{{.State.Status}}``.
- ``until-log TEXT @a``, ``until-ps TEXT @a``, ``until-restarts @a``, ``until-gone @a``: wait until the log or `top`
  has TEXT, until it was restarted, until `ps` does not show it.
- ``code WORDS``: only the exit code is compared. ``sorted WORDS``: the lines may have any order. ``in TEXT WORDS``:
  with this standard input. ``columns WORDS``: only the titles. ``words WORDS``: any number of spaces is one.
- ``keys TEXT WORDS``: at a terminal; TEXT is typed when the program has said "ready". ``typed TEXT WORDS``: TEXT is
  typed after a moment.
- ``later WORDS``: start it, and go on; ``then`` waits for it.
- ``fields WORDS``: the output is JSON: a line for each field, and its value. Objects in lists are in the order of
  their names; paths in the directories of an engine are ``<path>``.
- ``log-file @a``: the file of its log, without the times.
- ``commands @a``: the commands that top shows. ``port-count @a``: port, without the numbers of this host.
- ``volume-of @a``: remember the name of its volume; ``volume-there``: whether that is there.
- ``same-namespace KIND @a @b``: whether they are in the same one. ``by-prefix @a``: inspect by parts of its ID.
- ``cat FILE``: a file below ``{d}``. ``sleep SECONDS``.
- ``alone``: the sequence has an engine of its own (it concerns all containers).
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PATIENCE = 20.0  # seconds
_NEVER = "0001-"  # docker's time of what did not happen
_STATE = (
    "{{.State.Status}} running={{.State.Running}} paused={{.State.Paused}} restarting={{.State.Restarting}} "
    "oom={{.State.OOMKilled}} dead={{.State.Dead}} code={{.State.ExitCode}} error={{json .State.Error}} "
    "pid={{if .State.Pid}}yes{{else}}no{{end}} restarts={{.RestartCount}} "
    "started={{slice .State.StartedAt 0 4}} finished={{slice .State.FinishedAt 0 4}}"
)
_INSPECT = ("inspect", "--type", "container", "-f")
FILES = {
    "env": "# a comment\nA=file\nB=with spaces \nTAKEN\n",
    "labels": "# a comment\nfrom=file\nalone\n",
    "in": "of the host\n",
}
"""What is below ``{d}``."""
PROGRAMS = {
    "live": 'trap "echo TERM; exit 3" TERM\necho ready\nwhile :; do sleep 0.05; done\n',
    "deaf": 'trap "" TERM\necho ready\nwhile :; do sleep 0.05; done\n',
    # fails so often, then succeeds
    "late": 'echo run >>/runs\n[ "$(wc -l </runs)" -gt "$1" ] && { echo fine; exit 0; }\necho bad; exit ${2:-1}\n',
}
"""Shell scripts that the image "app" has in /bin."""
_PROGRAMS_CODES = frozenset({"run", "exec", "start", "attach"})
"""Verbs that return the exit code of a program."""
_DOCKERS_RACE = re.compile(r'time="[^"]*" level=error msg="error waiting for container: context canceled"\n')
"""What docker 20.10 says now and then, on a busy machine, when `run -d` has done its work."""
_NETWORKS = ("--network", "--net", "-p", "-P", "--publish", "--publish-all", "--pod", "--ip")
_REPLACED = (
    (r"\b[0-9a-f]{64}\b", "<ID>"),
    (r"\b[0-9a-f]{12}\b", "<id>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4} [A-Z]+", "<time>"),
    (r"\bUp (Less than a second|About a minute|\d+ (seconds?|minutes?))", "Up <time>"),
    (
        r"(Exited|Restarting) (\(\d+\)) (Less than a second|About a minute|\d+ (seconds?|minutes?)) ago",
        r"\1 \2 <time> ago",
    ),
)


@dataclass(frozen=True)
class Engine:
    """``command``: the words before a verb. ``places``: how paths begin in its own directories."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """``code`` None: it did not end in time. ``told``: whether something is on stderr."""

    line: str
    code: int | None
    out: str
    told: bool
    stderr: str = field(default="", compare=False)

    def __str__(self) -> str:
        out = "".join(f"\n    {line}" for line in self.out.splitlines())
        error = "".join(f"\n    ! {line}" for line in self.stderr.splitlines())
        return f"{self.line}\n    -> {self.code}{out}{error}"


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a document of JSON, and their values: what holds no further fields."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _fields(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(sorted(value, key=_name)):
            yield from _fields(item, f"{name}.{number}")
    else:
        yield name, value


def _name(value: Mapping[str, Any]) -> str:
    return next((str(value[key]) for key in ("Destination", "Target", "Name", "Subnet") if key in value), "")


def sequences(text: str) -> dict[str, dict[str, str]]:
    """The sections of a file (``## NAME``), and their sequences by name (``=== NAME``). ``#`` begins a comment."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            section = found.setdefault(line[3:], {})
        elif line.startswith("=== "):
            lines = section.setdefault(line[4:], [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return {
        section: {name: "\n".join(lines) for name, lines in members.items()} for section, members in found.items()
    }


def play(engine: Engine, number: int, script: str, files: Path) -> list[Answer]:
    """The answers of an engine to the lines of a sequence. What it made is removed at the end."""
    player = _Player(engine, number, files)
    try:
        for line in script.strip().splitlines():
            player.line(line.strip())
    finally:
        player.clean()
    return player.answers


def played(engine: Engine, number: int, script: str, place: Path) -> list[Answer]:
    """As `play`, with the files of ``FILES`` in ``place``/files, a path that is the same for each engine."""
    files = place / "files"
    files.mkdir(parents=True)
    for name, text in FILES.items():
        (files / name).write_text(text)
    answers = play(engine, number, script, files)
    files.rename(place / f"files-{len(list(place.iterdir()))}")
    return answers


class _Player:
    def __init__(self, engine: Engine, number: int, files: Path) -> None:
        self.engine = engine
        self.prefix = f"s{number}x"
        self.files = files
        self.answers: list[Answer] = []
        self._later: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._volume = ""
        self._names: set[str] = set()

    def line(self, line: str) -> None:
        if not line or line == "alone":
            return
        words = [self._named(word) for word in shlex.split(line)]
        special = getattr(self, "do_" + words[0].replace("-", "_"), None)
        if special:
            special(line, words[1:])
        else:
            self._verb(line, words)

    # what is not a verb

    def do_state(self, line: str, words: list[str]) -> None:
        self._verb(line, [*_INSPECT, _STATE, *words])

    def do_show(self, line: str, words: list[str]) -> None:
        self._verb(line, [*_INSPECT, words[1], words[0]])

    def do_code(self, line: str, words: list[str]) -> None:
        given = _bytes(words[1]) if words[0] == "in" else None
        self._verb(line, words[2:] if words[0] == "in" else words, lambda out: "", given)

    def do_fields(self, line: str, words: list[str]) -> None:
        done = self._run(words)
        out = ""
        if done.returncode == 0:
            found = json.loads(done.stdout)[0]
            out = "".join(f"{key}: {json.dumps(value)}\n" for key, value in _fields(self._same(found)))
        error = self._clean(done.stderr.decode(errors="replace"))
        self.answers.append(Answer(line, min(done.returncode, 1), out, bool(error), error))

    def _same(self, value: Any) -> Any:
        """A value of JSON without what differs from run to run. Names in it are not IDs."""
        if isinstance(value, dict):
            return {self._clean(name): self._same(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._same(item) for item in value]
        if not isinstance(value, str) or value.startswith(_NEVER):
            return value
        if value.startswith(self.engine.places):
            return "<path>"
        return self._clean(value)

    def do_sorted(self, line: str, words: list[str]) -> None:
        if words[0] == "show":
            words = [*_INSPECT, words[2], words[1]]
        self._verb(line, words, lambda out: "\n".join(sorted(filter(None, out.splitlines()))))

    def do_columns(self, line: str, words: list[str]) -> None:
        self._verb(line, words, lambda out: " ".join(out.partition("\n")[0].split()))

    def do_words(self, line: str, words: list[str]) -> None:
        self._verb(line, words, lambda out: "\n".join(" ".join(one.split()) for one in out.splitlines()))

    def do_in(self, line: str, words: list[str]) -> None:
        self._verb(line, words[1:], input=_bytes(words[0]))

    def do_until(self, line: str, words: list[str]) -> None:
        text, name, template = (*words, "{{.State.Status}}")[:3]
        self._poll(line, [*_INSPECT, template, name], lambda out: out.strip() == text)

    def do_until_log(self, line: str, words: list[str]) -> None:
        text = words[0].replace("\\n", "\n")
        self._poll(line, ["logs", words[1]], lambda out: text in out)

    def do_until_restarts(self, line: str, words: list[str]) -> None:
        words = [*_INSPECT, "{{.RestartCount}}", words[0]]
        self._poll(line, words, lambda out: out.strip().isdigit() and int(out) > 0)

    def do_until_gone(self, line: str, words: list[str]) -> None:
        words = ["ps", "-a", "-q", "-f", f"name={words[0]}"]
        self._poll(line, words, lambda out: not out.strip())

    def do_until_ps(self, line: str, words: list[str]) -> None:
        self._poll(line, ["top", words[1]], lambda out: words[0] in out)

    def do_top_code(self, line: str, words: list[str]) -> None:
        self._verb(line, ["top", *words], lambda out: "")

    def do_commands(self, line: str, words: list[str]) -> None:
        def shown(out: str) -> str:
            return "\n".join(" ".join(one.split()[1:]) for one in out.splitlines())

        self._verb(line, ["top", words[0], "-eo", "pid,args"], shown)

    def do_later(self, line: str, words: list[str]) -> None:
        self._later.append((line, self._started(words)))

    def do_then(self, line: str, words: list[str]) -> None:
        said, process = self._later.pop(0)
        try:
            out, err = process.communicate(timeout=_PATIENCE)
            self._answered(f"then: {said}", said.split()[1:], process.returncode, out, err)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            self._answered(f"then: {said}", said.split()[1:], None, out, err)

    def do_log_file(self, line: str, words: list[str]) -> None:
        done = self._run([*_INSPECT, "{{.LogPath}}", words[0]])
        path = Path(done.stdout.decode().strip())
        out = path.read_bytes() if path.is_file() else b"(no file)"
        self._answered(line, ["cat"], 0, out, b"")

    def do_sleep(self, line: str, words: list[str]) -> None:
        time.sleep(float(words[0]))

    def do_cat(self, line: str, words: list[str]) -> None:
        path = self.files / words[0]
        out = path.read_bytes() if path.exists() else b"(no file)"
        self._answered(line, ["cat"], 0, out, b"")

    def do_keys(self, line: str, words: list[str]) -> None:
        self._terminal(line, words[1:], _bytes(words[0]), b"ready\r\n")

    def do_typed(self, line: str, words: list[str]) -> None:
        self._terminal(line, words[1:], _bytes(words[0]), b"")

    def do_volume_of(self, line: str, words: list[str]) -> None:
        template = '{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}}{{end}}{{end}}'
        done = self._run([*_INSPECT, template, words[0]])
        self._volume = done.stdout.decode().strip()

    def do_volume_there(self, line: str, words: list[str]) -> None:
        self._verb(line, ["volume", "inspect", self._volume or "none"], lambda out: "")

    def do_port_count(self, line: str, words: list[str]) -> None:
        self._verb(
            line,
            ["port", *words],
            lambda out: "\n".join(sorted(re.sub(r":\d+$", ":PORT", out, flags=re.M).splitlines())),
        )

    def do_same_namespace(self, line: str, words: list[str]) -> None:
        told = {self._run(["exec", name, "readlink", f"/proc/self/ns/{words[0]}"]).stdout for name in words[1:]}
        self._answered(line, ["cat"], 0, f"{len(told)} {all(told)}".encode(), b"")

    def do_by_prefix(self, line: str, words: list[str]) -> None:
        whole = self._run([*_INSPECT, "{{.Id}}", words[0]]).stdout.decode().strip()
        for length in (64, 12, 6):
            self._verb(f"{line} {length}", [*_INSPECT, "{{.Name}}", whole[:length] or "x"])

    # running

    def _named(self, word: str) -> str:
        def replaced(match: re.Match[str]) -> str:
            self._names.add(self.prefix + match[1])
            return self.prefix + match[1]

        word = re.sub(r"(?<![\w.])@([a-z]*)", replaced, word)
        return word.replace("{d}", str(self.files))

    def _words(self, words: list[str]) -> list[str]:
        if words[0] in ("run", "create") and not any(word.partition("=")[0] in _NETWORKS for word in words):
            words = [words[0], "--network", "none", *words[1:]]
        return [*self.engine.command, *words]

    def _started(self, words: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._words(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.engine.environment,
            cwd=self.files,
        )

    def _run(self, words: list[str], input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        given = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        try:
            return subprocess.run(
                self._words(words),
                capture_output=True,
                env=self.engine.environment,
                cwd=self.files,
                check=False,
                timeout=_PATIENCE,
                **given,  # type: ignore[call-overload]
            )
        except subprocess.TimeoutExpired as error:
            return subprocess.CompletedProcess(words, -99, error.stdout or b"", (error.stderr or b"") + b"(no end)")

    def _verb(
        self,
        line: str,
        words: list[str],
        change: Callable[[str], str] = lambda out: out,
        input: bytes | None = None,
    ) -> None:
        done = self._run(words, input)
        self._answered(line, words, done.returncode, done.stdout, done.stderr, change)

    def _answered(
        self,
        line: str,
        words: list[str],
        code: int | None,
        out: bytes,
        err: bytes,
        change: Callable[[str], str] = lambda out: out,
    ) -> None:
        ours = err.startswith(b"lamina: ") and (code < 125 or words[0] == "start") if code else False
        if code and (ours or words[0] not in _PROGRAMS_CODES):
            code = 1  # lamina's exit codes say more (docs/exit-codes.md)
        text = change(out.decode(errors="surrogateescape"))
        error = _DOCKERS_RACE.sub("", self._clean(err.decode(errors="replace")))
        self.answers.append(Answer(line, code, self._clean(text), bool(error), error))

    def _clean(self, text: str) -> str:
        text = text.replace(str(self.files), "{d}").replace(self.prefix, "@")
        for pattern, by in _REPLACED:
            text = re.sub(pattern, by, text)
        return text

    def _poll(self, line: str, words: list[str], enough: Callable[[str], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            done = self._run(words)
            if enough(done.stdout.decode(errors="replace")):
                self.answers.append(Answer(line, 0, "", False))
                return
            if time.monotonic() > end:
                seen = self._clean((done.stdout + done.stderr).decode(errors="replace"))
                self.answers.append(Answer(line, None, f"waited in vain: {seen}", False))
                return
            time.sleep(0.05)

    def _terminal(self, line: str, words: list[str], typed: bytes, after: bytes) -> None:
        mine, theirs = pty.openpty()
        fcntl.ioctl(mine, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
        process = subprocess.Popen(
            self._words(words),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**self.engine.environment, "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(theirs)
        os.set_blocking(mine, False)
        shown, code = b"", None
        begin = time.monotonic()
        while time.monotonic() < begin + _PATIENCE:
            try:
                part = os.read(mine, 1 << 16)
                if not part:
                    break
                shown += part
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break
            if typed and (after in shown if after else time.monotonic() > begin + 1.5):
                os.write(mine, typed)
                typed = b""
        try:
            code = process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(mine)
        self._answered(line, words, code, shown, b"")

    def clean(self) -> None:
        for _, process in self._later:
            process.kill()
            process.communicate()
        names = sorted(self._names)
        if names:
            self._run(["rm", "-fv", *names])
            for noun in ("volume", "network"):
                self._run([noun, "rm", *names])


def _bytes(text: str) -> bytes:
    return text.encode().decode("unicode_escape").encode("latin-1")
