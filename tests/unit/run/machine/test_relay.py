"""The relay, with a program in the place of QEMU: a machine may say anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lamina.run.machine.relay import QEMU_LOG

RELAY = """
import os, sys
from lamina.run.machine.relay import Launch, Relay
bundle, guest = sys.argv[1:]
words = lambda streams, place: [f"{name}={number}" for name, number in streams]
launch = Launch((sys.executable, "-c", guest), words, bundle, False, held=os.open(bundle, os.O_RDONLY))
def told(reason):
    print("told:", reason or "started", flush=True)
sys.exit(Relay(launch, told).run())
"""
GUEST = """
import os, sys
ends = {name: int(number) for name, _, number in (word.partition("=") for word in sys.argv[1:])}
def say(data, end="control"):
    while data:
        data = data[os.write(ends[end], data):]
"""


def relayed(bundle: Path, guest: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", RELAY, str(bundle), GUEST + guest]
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"exit 7", 7),
        (b"exit 255", 255),
        (b"exit 256", 125),
        (b"exit 999999", 125),
        (b"exit -1", 125),
        (b"exit 07", 125),
        ("exit \N{SUPERSCRIPT TWO}".encode(), 125),
        ("exit \N{ARABIC-INDIC DIGIT SEVEN}".encode(), 125),
        (b"exit " + b"9" * 5000, 125),
        (b"exit", 125),
        (b"exit 3\nexit 4\nstarted", 3),
        (b"\xff\0" * 400_000 + b"\nexit 5", 5),
    ],
)
def test_an_exit_code_is_one_or_the_machine_could_not_run(tmp_path: Path, said: bytes, code: int) -> None:
    (tmp_path / "said").write_bytes(b"started\n" + said + b"\n")
    done = relayed(tmp_path, f"say(open({str(tmp_path / 'said')!r}, 'rb').read())")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"told: started\n", b"")


def test_a_reason_is_one_short_line_without_control_characters(tmp_path: Path) -> None:
    reason = r"b'\x1b]0;title\x07\r' + b'x' * 1000"
    done = relayed(tmp_path, f"say(b'started\\nfailed ' + {reason} + b'\\nexit 125\\n')")
    assert done.returncode == 125
    assert done.stderr == b"lamina: \\x1b]0;title\\x07\\r" + b"x" * 289 + b"\n"


def test_what_the_kernel_said_last_has_no_control_characters(tmp_path: Path) -> None:
    done = relayed(tmp_path, r"say(b'started\n'); say(b'\x1b[2JKernel panic - not syncing: \x1b[1m\n', 'console')")
    assert done.stderr == b"lamina: the machine ended: Kernel panic - not syncing: \\x1b[1m\n"


def test_a_failure_without_a_reason_is_none_the_less_one(tmp_path: Path) -> None:
    done = relayed(tmp_path, r"say(b'failed \n')")
    assert (done.returncode, done.stdout) == (125, b"told: the machine does not say why it failed\n")


def test_messages_of_qemu_do_not_fill_the_disk(tmp_path: Path) -> None:
    done = relayed(tmp_path, "sys.stderr.write('no\\n' * 700_000 + 'at last\\n'); sys.exit(1)")
    assert done.stdout == b"told: the machine ended before the program started: at last\n"
    assert (tmp_path / QEMU_LOG).stat().st_size == 1 << 20
