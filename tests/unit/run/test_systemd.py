"""Units of systemd: what `generate systemd` prints, and that systemd reads it so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.errors import UsageError
from lamina.run.systemd import Service, boot_unit, command_line, container_unit, quoted

_PROGRAM = ("/usr/bin/env", "lamina")


def _values(unit: str, key: str) -> list[str]:
    return [line.removeprefix(f"{key}=") for line in unit.splitlines() if line.startswith(f"{key}=")]


def test_a_unit_of_a_container_that_exists() -> None:
    unit = container_unit(
        Service("container-web", "web", _PROGRAM, restart="always", restart_seconds=3, stop_seconds=7, env=("A=b c",))
    )
    assert _values(unit, "ExecStart") == ["/usr/bin/env lamina start web"]
    assert _values(unit, "ExecStop") == ["/usr/bin/env lamina stop --ignore -t 7 web"]
    assert _values(unit, "Restart") == ["always"]
    assert _values(unit, "RestartSec") == ["3"]
    assert _values(unit, "TimeoutStopSec") == ["67"]
    assert _values(unit, "Environment") == ['"A=b c"']
    assert _values(unit, "Type") == ["notify"]
    assert unit.startswith("# container-web.service\n")
    assert container_unit(Service("x", "x", _PROGRAM, header=False)).startswith("[Unit]\n")


def test_a_unit_that_makes_a_container_each_time() -> None:
    create = ("run", "--detach", "--rm", "--restart=always", "--cidfile=/x", "--env=A=$B %h", "app", "sh", "--rm")
    unit = container_unit(Service("c", "web", _PROGRAM, create=create))
    start = "/usr/bin/env lamina run --cidfile=%t/%n.ctr-id --replace -d --rm --name=web"
    assert _values(unit, "ExecStart") == [f'{start} "--env=A=$$B %%h" app sh --rm']
    assert _values(unit, "ExecStartPre") == ["/bin/rm -f %t/%n.ctr-id"]
    assert _values(unit, "ExecStop") == ["/usr/bin/env lamina stop --ignore -t 10 --cidfile=%t/%n.ctr-id"]
    assert _values(unit, "ExecStopPost") == ["/usr/bin/env lamina rm -f --ignore -t 10 --cidfile=%t/%n.ctr-id"]
    named = container_unit(Service("c", "web", _PROGRAM, create=("run", "--name=mine", "app")))
    assert named.count("--name=") == 1


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("plain-1", "plain-1"),
        ("", '""'),
        ("a b", '"a b"'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("two\nlines", '"two\\nlines"'),
        ("50%", "50%%"),
        ("$HOME", '"$$HOME"'),
        ("%t/%n.ctr-id/x", "%%t/%%n.ctr-id/x"),
        (";", '";"'),
        ("größe", '"größe"'),
    ],
)
def test_words(word: str, shown: str) -> None:
    assert quoted(word) == shown


@pytest.mark.parametrize("word", ["a\0b", "\udcff"])
def test_words_that_a_unit_cannot_hold(word: str) -> None:
    with pytest.raises(UsageError):
        command_line(["x", word])


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    odd = ("run", "--env=A=$B %h", '--label=x="y" \\z', "app", "sh", "-c", "echo 'one'; echo two\nthree")
    units = {
        "one": container_unit(Service("one", "web", ("/bin/true",), wants=("a.target",), root="/var/lib/la mina")),
        "two": container_unit(Service("two", "web", ("/bin/true",), create=odd, env=("X=%h",))),
        "lamina-start": boot_unit(("/bin/true", "--root", "/x y")),
    }
    for name, text in units.items():
        path = tmp_path / f"{name}.service"
        path.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
        )
        about_it = [line for line in done.stderr.splitlines() if f"{name}.service" in line]
        assert about_it == []
