"""Runs programs for the big demo: command lines that a user would type are shown, long output goes into a log."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

LAMINA = [sys.executable, "-m", "lamina"]
_SHOWN = 15  # lines of a log that a failure shows


class Failed(Exception):
    """A step of the demo has failed."""


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def tell(text: str) -> None:
    print(f"   {text}", flush=True)


@contextmanager
def timed(text: str) -> Iterator[None]:
    """Print a progress line, and how long the block took."""
    print(f"   {text} ...", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - start:.0f} s", flush=True)


def lamina(store: Path, *words: str) -> None:
    """Run a verb and show its command line."""
    print("$ lamina", " ".join(words), flush=True)
    subprocess.run([*LAMINA, *words], check=True, stdin=subprocess.DEVNULL, env=environment(store))


def lamina_quiet(store: Path, *words: str) -> str:
    """Run a verb and show its command line; returns its output."""
    print("$ lamina", " ".join(words), flush=True)
    done = subprocess.run(
        [*LAMINA, *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        env=environment(store),
    )  # fmt: skip
    return done.stdout


def environment(store: Path) -> dict[str, str]:
    """The environment of this process, with ``store`` as the store of lamina."""
    inherited = {name: value for name, value in os.environ.items() if name != "LAMINA_PLATFORM"}
    return {**inherited, "LAMINA_ROOT": str(store)}


def logged(command: Sequence[str | Path], log: Path, name: str, *, env: Mapping[str, str] | None = None) -> None:
    """Run a command with its output in ``log``; after a failure the end of the log is shown. ``name`` is for
    messages. Raises Failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        start = out.tell()
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env
        )
    if done.returncode:
        print(flush=True)
        lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
        print("\n".join(f"   | {line}" for line in lines[-_SHOWN:]), flush=True)
        raise Failed(f"{name} failed with {done.returncode}: the end of its output is above")
