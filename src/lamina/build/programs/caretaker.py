"""A small process beside a build that runs programs. It ends what the build leaves if it is killed (SIGKILL):
programs, networks, mounts, secrets in memory.

It waits for the end of a pipe that only the build holds, and loads nothing before that. A build that ends by itself
ends it first.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from lamina.host.own_python import module_path
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.scan.directory import OnWarning

_CODE = """import os, signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if not os.read(0, 1):
    import sys
    sys.path[:] = {path!r}
    from lamina.build.programs.caretaker import main
    main({root!r})
"""


class Caretaker:
    """It exists while the block runs."""

    def __init__(self, root: str, on_warning: OnWarning) -> None:
        """``root``: of the store."""
        self._root = root
        self._warn = on_warning
        self._pid, self._pipe = 0, -1

    def __enter__(self) -> Caretaker:
        reading, self._pipe = os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, reading, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        code = _CODE.format(path=module_path(), root=self._root)
        command = [sys.executable, "-I", "-S", "-c", code]
        try:
            self._pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsid=True)
        except OSError as error:
            self._warn(
                f"{command[0]!r}: {error.strerror}: if this build is killed, `lamina prune` must end its programs"
            )
        finally:
            os.close(reading)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid:
            with suppress(ProcessLookupError, ChildProcessError):  # the caller ignores SIGCHLD
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
        os.close(self._pipe)


def main(root: str) -> None:
    """End what the build has left in the store ``root``."""
    from lamina.build.programs.step_directory import clear
    from lamina.store.store import Store

    os.chdir("/")
    clear(Store.open(root, create=False))
