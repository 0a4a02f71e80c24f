"""The health checks of a container, as its monitor runs them: one after the other, beside everything else."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.light import TYPE_CHECKING, signal
from lamina.run import health_file
from lamina.run.further import Place
from lamina.run.health import (
    MAX_OUTPUT,
    TIMED_OUT,
    UNHEALTHY,
    Health,
    Result,
    after,
    next_wait,
    read_check,
)
from lamina.run.monitor import health_check

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.run.monitor.plan import Plan

_PIECE = 1 << 14
_LATE = 10.0  # seconds after its timeout, at which a check that hangs is killed


class HealthJob:
    """``on_change`` gets the health when its status has changed. ``send`` sends a signal to the program.
    ``is_paused`` tells whether the container is frozen: it is not checked then. ``say`` gets what failed, for the
    monitor's log."""

    def __init__(
        self,
        plan: Plan,
        on_change: Callable[[Health], object],
        send: Callable[[int], object],
        is_paused: Callable[[], bool],
        say: Callable[[str], object],
    ) -> None:
        assert plan.health is not None
        self.check = read_check(plan.health)
        self._plan, self._on_change, self._send, self._is_paused, self._say = plan, on_change, send, is_paused, say
        self._place = Place(plan.directory, plan.states, plan.identity, plan.runtime)
        self._health = Health()
        self._begun = 0.0
        self._pid, self._start, self._started = 0, 0, 0.0
        self._output = b""
        self.descriptor = -1
        """The output of the check that runs; -1 while there is none to read."""
        self.due: float | None = None
        """When ``work`` must be called (time.monotonic); None: never."""
        self.restarts = False
        """Whether the program is to be started again after its end, whatever the policy is."""
        self._kill_at: float | None = None

    def begin(self) -> None:
        """The program has started."""
        self._begun = time.monotonic()
        self._health = Health()
        self.restarts, self._kill_at = False, None
        self.due = self._begun + next_wait(self._health, self.check, 0.0)
        try:
            health_file.begin(self._plan.directory)
        except OSError as error:
            self._say(f"health: {error.strerror}")

    def end(self) -> None:
        """The program has ended: what still runs of a check goes with it."""
        self.due = None
        if self._pid:
            health_check.end(self._pid)
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        self._forget()

    def _forget(self) -> None:
        self._pid, self._output = 0, b""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def work(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if self.due is None or now < self.due:
            return
        if self._kill_at is not None:
            self.due = None
            self._send(signal.SIGKILL)
        elif self._pid:
            self.due = None
            health_check.end(self._pid)
        elif self._is_paused():
            self.due = now + self.check.interval
        else:
            self._begin_check(now)

    def _begin_check(self, now: float) -> None:
        self._start, self._started = time.time_ns(), now
        try:
            self._pid, self.descriptor = health_check.start(self._place, self.check)
        except OSError as error:
            why = f"the check can't be started: {error.strerror}"
            self._record(Result(self._start, time.time_ns(), TIMED_OUT, why))
        else:
            self.due = now + self.check.timeout + _LATE

    def read(self) -> None:
        """Read what the check has written."""
        try:
            data = os.read(self.descriptor, _PIECE)
        except BlockingIOError:
            return
        self._output = (self._output + data)[: MAX_OUTPUT + 1]
        if not data:
            os.close(self.descriptor)
            self.descriptor = -1

    def reaped(self, pid: int, code: int) -> bool:
        """Whether this ended child was the check. ``code``: its exit code; negative: the signal that ended it."""
        if not self._pid or pid != self._pid:
            return False
        while self.descriptor >= 0:  # a process that it left behind may hold the pipe open
            before = self._output
            self.read()
            if self._output == before:
                break
        result = health_check.result(self.check, self._start, code, self._output, late=self.due is None)
        self._forget()
        self._record(result)
        return True

    def _record(self, result: Result) -> None:
        age = self._started - self._begun
        try:
            before, self._health = health_file.record(self._plan.directory, result, self.check, age)
        except OSError as error:  # a full disk, or the container was removed
            self._say(f"health: {error.strerror}")
            before, self._health = self._health, after(self._health, result, self.check, age)
        now = time.monotonic()
        self.due = now + next_wait(self._health, self.check, now - self._begun)
        if self._health.status != before.status:
            self._on_change(self._health)
            if self._health.status == UNHEALTHY and self.check.on_failure != "none":
                self._act(now)

    def _act(self, now: float) -> None:
        """Do to the unhealthy container what was asked for. It is not checked any more."""
        action = self.check.on_failure
        self.due = None
        if action == "kill":
            self._send(signal.SIGKILL)
            return
        self.restarts = action == "restart"
        if action == "stop":
            self._stay_stopped()
        self._kill_at = self.due = now + self.check.stop_timeout
        self._send(self.check.stop_signal)

    def _stay_stopped(self) -> None:
        """As after `stop`: the policy does not start it again."""
        path = os.path.join(self._plan.directory, "stopped")
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600))
        except OSError as error:
            self._say(f"{path}: {error.strerror}")
