"""The command line. It only parses, calls and prints. Each group of verbs has its own module, which is imported only
when one of its verbs is called. Must not contain logic that users of the library need too.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

EXIT_INTERRUPTED, EXIT_UNREAD = 130, 141
"""The same as a shell reports for a program that SIGINT or SIGPIPE has ended, as for git and docker."""
_GC_THRESHOLD = 50_000
"""New objects between two runs of the cyclic garbage collector. The default is lower, and costs time at the start."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process. A failure prints one line on stderr and sets the documented exit
    code."""
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    _expect_children()
    code = run(arguments)
    if "click" not in sys.modules:
        _leave(code)
    sys.exit(code)


def _expect_children() -> None:
    """Reset SIGCHLD if the caller ignores it: with SIG_IGN, the exit codes of child processes would be lost."""
    from lamina.light import signal

    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _leave(code: int) -> None:
    """Skip interpreter teardown: it takes a third as long as the imports, and nothing on this path needs cleanup."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # sys.exit reports the error
    os._exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code (docs/exit-codes.md)."""
    from lamina.cli import plain
    from lamina.errors import LaminaError

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the caller has closed it
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # escape what the encoding lacks
    try:
        code = plain.answer(sys.argv[1:] if arguments is None else arguments)
        if code is None:
            code = _by_click(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _say("lamina: interrupted")
        return EXIT_INTERRUPTED
    except LaminaError as error:
        say(str(error))
        return error.exit_code
    except BrokenPipeError:
        return _unread()
    except RecursionError:
        _say("lamina: the input is nested too deeply")
        return 4
    except MemoryError:
        _say("lamina: out of memory")
        return 6
    except RuntimeError as error:
        if "new thread" not in str(error):  # one that a library has asked for
            raise
        _say(f"lamina: {error} (raise the limit of processes: ulimit -u, --pids-limit)")
        return 6
    except OSError as error:
        from lamina.host.files import failure

        say(str(failure(error)))
        return 6


@contextmanager
def ended_in_order(*, once: bool = False) -> Iterator[None]:
    """Let SIGTERM and SIGHUP in the block do what Ctrl-C does: what the block has begun is taken down. ``once``:
    further signals do not interrupt that."""
    from lamina.light import signal

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number in numbers if before[number] in (signal.SIG_DFL, signal.default_int_handler)]

    def interrupt(*_: object) -> None:
        for one in ours if once else ():
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _unread() -> int:
    """Handle a closed pipe (head, less): make sure that Python does not write to it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_UNREAD


def _by_click(arguments: list[str] | None) -> int:
    import click

    from lamina.cli.app import cli
    from lamina.errors import ContainerFailure

    if "_LAMINA_COMPLETE" in os.environ:
        from lamina.cli import completion

        return completion.answer(os.environ["_LAMINA_COMPLETE"], cli)
    streams = sys.stdout, sys.stderr
    try:
        result = cli.main(arguments, prog_name="lamina", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except SystemExit:
        if sys.stdout is streams[0]:
            raise
        sys.stdout, sys.stderr = streams  # click has wrapped them, and uses another exit code
        raise BrokenPipeError from None
    except click.ClickException as error:
        at = error.ctx if isinstance(error, click.UsageError) else None
        say(error.format_message() + (f" (see `{at.command_path} --help`)" if at else ""))
        return ContainerFailure.exit_code if at and at.info_name in ("run", "boot") else error.exit_code


def say(text: str) -> None:
    """Print one line to stderr; control characters in it are escaped."""
    from lamina.cli.format.text import clean

    _say(f"lamina: {clean(text)}")


def warn(text: str) -> None:
    """Print a warning to stderr."""
    _say(warning(text))


def warning(text: str) -> str:
    """Return the line of a warning (pure)."""
    from lamina.cli.format.text import clean

    return f"lamina: warning: {clean(text)}"


def _say(line: str) -> None:
    try:
        print(line, file=sys.stderr)  # noqa: T201  (the one place that prints failures, without click)
    except OSError:
        pass
