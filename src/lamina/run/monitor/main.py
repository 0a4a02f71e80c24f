"""The monitor's process: it starts the program, stays with it, and ends it."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from lamina.errors import LaminaError, NotFound
from lamina.host.files import write_all
from lamina.host.process_identity import boot_id, start_time
from lamina.light import TYPE_CHECKING, replace, signal
from lamina.run.cgroups import cgroups_of
from lamina.run.child import CANNOT_RUN, ExitStatus
from lamina.run.logs.writer import open_writer
from lamina.run.monitor import program
from lamina.run.monitor.attached import Commands, Requests
from lamina.run.monitor.plan import from_json
from lamina.run.oom import oom_kills
from lamina.run.options import RestartPolicy
from lamina.run.restart import next_wait, restarts
from lamina.spec.json import write_own
from lamina.store.containers import RESTARTING, RUNNING, Containers
from lamina.store.fault import point
from lamina.store.journal import note
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.cgroups import Cgroups
    from lamina.run.logs.writer import Writer
    from lamina.run.monitor.attached import Further
    from lamina.run.monitor.health_job import HealthJob
    from lamina.run.monitor.plan import Plan
    from lamina.run.monitor.program import Running

_PIECE = 1 << 16
_REST = 1.0  # seconds without output, after which a pipe that the program left open is given up
_LOOK = 15.0  # seconds between two looks at whether the container's record still exists
_MOST_INPUT = 1 << 18
_MOST_REST = 16  # pieces: a pipe holds 1 MiB at most (pipe(7))


Finish = Callable[["Plan", int, int, Callable[[], None]], None]
"""Called at the end, with the plan, the descriptor of the lock, the exit code, and what is to be called before the
lock is released."""


def main(finish: Finish) -> int:
    """Live as the monitor; returns the exit code of the container, which is this process's too, for systemd. The
    words of the command line: descriptors of the plan, the lock, the pipe that is told of the start, and a socket
    that is attached from the start."""
    described, lock, ready, attached = map(int, sys.argv[-4:])
    for descriptor in (described, lock, ready, attached):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    with open(described, "rb") as file:
        said = file.read()
    if not said:
        return CANNOT_RUN  # what the program needs could not be made
    plan = from_json(said)
    with Monitor(plan, ready) as monitor:
        if attached >= 0:
            monitor.commands.add(attached)
        point("monitor.ready")
        code = monitor.run()
    if code is None:
        return CANNOT_RUN
    finish(plan, lock, code, monitor.commands.hide)
    monitor.commands.answer(code)
    monitor.commands.close()
    monitor.commands.linger()
    return code


class Monitor:
    def __init__(self, plan: Plan, ready: int) -> None:
        """``ready``: told of the start. Raises OSError."""
        self.plan = plan
        self._ready = ready
        self._containers = Containers(Paths(plan.root))
        self.commands = Commands(plan.directory)
        self._log: Writer = open_writer(
            os.path.join(plan.directory, "log"),
            plan.log_driver,
            plan.log_options,
            container={"id": plan.identity, "name": plan.name, "image": plan.image},
        )
        self._woken, waking = os.pipe()
        for descriptor in (self._woken, waking):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._running: Running | None = None
        self._outputs: dict[int, int] = {}
        self._input: list[bytes] = []
        self._input_ends = False
        self._code: int | None = None
        self._started = self._quiet_since = time.monotonic()
        self._wait, self._again_at = 0.0, 0.0
        self._restarts = 0
        self._told_to_stop = False
        self._health = self._health_job() if plan.health else None
        self._cgroups: Cgroups | None = None
        self._look_at = time.monotonic() + _LOOK
        self._is_deleted = False

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()  # who is attached is let go when this process ends

    @property
    def program(self) -> int:
        """The pid of the first process; 0 while none runs."""
        return self._running.pid if self._running and self._code is None else 0

    def run(self) -> int | None:
        """Start the program, and stay until it has ended for good; its exit code, None if it never started."""
        failed = self._start()
        if failed is not None:
            self.commands.hide()  # before the command, which clears up, can start another monitor
            self._tell_start({"program": 0, "code": failed.code, "reason": failed.reason or failed.message})
            return None  # the command clears up
        self._tell_start({"program": self.program})
        point("monitor.start-told")
        while self._code is None or not self._is_over():
            self._once()
        self.commands.tell_end(self._code)
        return self._code

    # -- the program's start and end

    def _start(self) -> ExitStatus | None:
        """Start the program; why not, if that failed."""
        try:
            started = program.start(self.plan)
        except (OSError, LaminaError) as error:
            started = ExitStatus(CANNOT_RUN, reason=str(error))
        if isinstance(started, ExitStatus):
            return started
        point("monitor.program-started")
        self._running, self._code = started, None
        self._outputs = dict(started.outputs)
        self._started = time.monotonic()
        self._cgroups = cgroups_of(started.pid, self.plan.identity)
        self._change(
            status=RUNNING,
            pid=os.getpid(),
            started=start_time(os.getpid()),
            program=started.pid,
            program_started=start_time(started.pid),
            boot=boot_id(),
            since=time.time(),
            restarts=self._restarts,
            error="",
            oom=False,
            paused=False,
        )
        point("monitor.start-noted")
        if self.plan.pidfile:
            _write_pid(self.plan.pidfile, started.pid)
        self._note("start")
        if self._health:
            self._health.begin()
        return None

    def _tell_start(self, said: dict[str, Any]) -> None:
        with suppress(OSError):  # the command was killed
            write_all(self._ready, write_own(said).encode())
        os.close(self._ready)

    def _is_over(self) -> bool:
        """Whether the program, which has ended, stays so; it is started again when that is due."""
        if self._outputs:
            if time.monotonic() - self._quiet_since < _REST:
                return False
            if self.commands.blocked:
                self._read_rest()
            self._close_outputs()
        assert self._code is not None
        if not self._again_at:
            self._log.end_run()
            self._note_end()
            stopped = self._is_stopped()
            unhealthy = bool(self._health and self._health.restarts) and not stopped
            if not unhealthy and not restarts(self._policy(), self._code, done=self._restarts, stopped=stopped):
                return True
            self._wait = next_wait(self._wait, time.monotonic() - self._started)
            self._again_at = time.monotonic() + self._wait
            self._change(
                status=RESTARTING, exit_code=self._code, finished=time.time(), program=0, program_started=None
            )
            self.commands.tell_end(self._code)
            self.commands.detach_all()
        if self._is_stopped():
            return True
        if time.monotonic() < self._again_at:
            return False
        self._again_at = 0.0
        self._restarts += 1
        failed = self._start()
        if failed is not None:
            self._code = failed.code
            self._change(error=failed.reason or failed.message)
            return True
        return False

    def _note_end(self) -> None:
        """Before the runtime deletes the container's cgroups."""
        assert self._code is not None
        if oom_kills(self._cgroups) or program.lacked_memory(self.plan):
            self._change(oom=True)
            self._note("oom")
        self._note("die", exitCode=str(self._code))

    def _policy(self) -> RestartPolicy:
        """As the record says now: `update` may have changed it."""
        try:
            wanted = self._containers.get(self.plan.identity).wanted or {}
            return RestartPolicy(**wanted["restart"])
        except (LaminaError, KeyError, TypeError):
            return self.plan.restart

    def _is_stopped(self) -> bool:
        noted = self._told_to_stop or self._is_deleted
        return noted or os.path.exists(os.path.join(self.plan.directory, "stopped"))

    # -- its health

    def _health_job(self) -> HealthJob:
        from lamina.run.monitor.health_job import HealthJob

        return HealthJob(
            self.plan,
            on_change=lambda health: self._note(f"health_status: {health.status}"),
            send=self._signal,
            is_paused=self._is_paused,
            say=_complain,
        )

    def _is_paused(self) -> bool:
        try:
            return bool(self._containers.get(self.plan.identity).paused)
        except LaminaError:
            return False

    # -- the loop

    def _once(self) -> None:
        """Wait for one thing to happen, and do what it asks for."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self.commands.listening >= 0:
            poll.register(self.commands.listening, select.POLLIN)
        takes_input = sum(map(len, self._input)) < _MOST_INPUT
        for number, waits in self.commands.descriptors:
            poll.register(number, (select.POLLIN if takes_input else 0) | (select.POLLOUT if waits else 0))
        stdin = self._running.stdin if self._running else -1
        for number in self._outputs:
            wanted = 0 if self.commands.blocked else select.POLLIN
            if number == stdin and self._input:
                wanted |= select.POLLOUT
            if wanted:
                poll.register(number, wanted)
        if self._input and stdin >= 0 and stdin not in self._outputs:
            poll.register(stdin, select.POLLOUT)
        if self._health and self._health.descriptor >= 0:
            poll.register(self._health.descriptor, select.POLLIN)
        found = Requests()
        for number, events in poll.poll(self._timeout()):
            self._handle(number, events, stdin, found)
        self._do(found)
        self._look(now=found.woken)
        self._reap()
        if self._health:
            self._health.work()

    def _look(self, *, now: bool) -> None:
        """End the program if somebody has deleted the container's directory, with the store: nothing else could."""
        if not now and time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK
        if self.program and not self.commands.has_record():
            self._is_deleted = True
            _complain("the record of the container was deleted: it ends")
            with suppress(OSError):
                os.kill(self.program, signal.SIGKILL)

    def _timeout(self) -> float:
        """Milliseconds until something is due."""
        if self._code is None:
            wakes = self._health.due if self._health else None
            due = self._look_at if wakes is None else min(wakes, self._look_at)
            return max(0.0, due - time.monotonic()) * 1000 + 1
        due = self._again_at if self._again_at else self._quiet_since + _REST
        return max(0.0, due - time.monotonic()) * 1000 + 1

    def _handle(self, number: int, events: int, stdin: int, found: Requests) -> None:
        if number == self._woken:
            with suppress(BlockingIOError):
                os.read(number, _PIECE)
        elif number == self.commands.listening:
            self.commands.accept()
        elif self._health and number == self._health.descriptor:
            self._health.read()
        elif number in self.commands:
            if events & select.POLLOUT:
                self.commands.flush(number)
            if number in self.commands and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self.commands.receive(number, found)
        else:
            if number == stdin and events & (select.POLLOUT | select.POLLERR):
                self._feed(stdin)
            if number in self._outputs and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._read(number)

    def _read(self, number: int) -> None:
        try:
            data = os.read(number, _PIECE)
        except BlockingIOError:
            return
        except OSError:  # EIO: no process has the terminal open
            data = b""
            if self._code is None:  # the program may open it again
                select.select((), (), (), 0.01)
                return
        if not data:
            del self._outputs[number]
            os.close(number)
            return
        self._quiet_since = time.monotonic()
        stream = self._outputs[number]
        self._log.write(stream, data)
        self.commands.tell(stream, data)

    def _read_rest(self) -> None:
        """Read what the program has left in its pipes, for a command that reads slowly or not at all: the container
        has ended, and does not wait for it."""
        for number, stream in self._outputs.items():
            for _ in range(_MOST_REST):
                try:
                    data = os.read(number, _PIECE)
                except OSError:
                    break
                if not data:
                    break
                self._log.write(stream, data)
                self.commands.tell(stream, data)

    def _feed(self, stdin: int) -> None:
        """Pass input on to the program."""
        while self._input:
            try:
                written = os.write(stdin, self._input[0])
            except BlockingIOError:
                return
            except OSError:  # the program reads no more
                self._input.clear()
                return
            self._input[0] = self._input[0][written:]
            if not self._input[0]:
                del self._input[0]
        if self._input_ends:
            self._close_input()

    def _do(self, found: Requests) -> None:
        stdin = self._running.stdin if self._running else -1
        if found.size and self._running and self.program and self._running.terminal >= 0:
            from lamina.run.monitor.terminal_size import set_size

            set_size(self._running.terminal, *found.size)
        if stdin >= 0:
            self._input += found.input
            if found.input_ended and self.plan.stdin_once and self._running and self._running.terminal < 0:
                self._input_ends = True
            if self._input or self._input_ends:
                self._feed(stdin)
        for number in found.signals:
            self._signal(number)
        self._told_to_stop = self._told_to_stop or found.stopped
        for further in found.programs:
            self._run_further(further)

    def _run_further(self, further: Further) -> None:
        """Fork a process that starts a further program, answers the command, and waits for the program."""
        try:
            child = os.fork() if self.program else -1
        except OSError:
            child = -1  # the command, which gets no answer, starts it itself
        if child == 0:
            try:
                self._become_waiter(further)
            finally:
                os._exit(CANNOT_RUN)
        further.close()

    def _become_waiter(self, further: Further) -> None:
        from lamina.run.further import Place, wait_behind

        plan = self.plan
        place = Place(plan.directory, plan.states, plan.identity, plan.runtime)

        def note_end(code: int) -> None:
            self._note("exec_die", execID=further.identity, exitCode=str(code))

        wait_behind(place, further.described, further.identity, further.answer, note_end)

    def _signal(self, number: int) -> None:
        if not self.program:
            return
        if self.plan.runtime.is_bubblewrap:
            from lamina.run.bubblewrap.process import kill

            with suppress(LaminaError):
                kill(os.path.join(self.plan.directory, "bundle"), number)
        else:
            with suppress(OSError):
                os.kill(self.program, number)

    def _reap(self) -> None:
        """Wait for all children that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            if self._health and self._health.reaped(pid, code):
                continue
            code = 128 - code if code < 0 else code
            if pid == self.program:
                self._ended(code)

    def _ended(self, code: int) -> None:
        point("monitor.program-ended")
        self._code = code
        if self._health:
            self._health.end()
        self._quiet_since = time.monotonic()
        self._close_input()
        if program.has_failed(self.plan, code):
            self._code = CANNOT_RUN

    def _close_input(self) -> None:
        self._input.clear()
        self._input_ends = False
        running = self._running
        if running and running.stdin >= 0:
            if running.stdin != running.terminal:
                os.close(running.stdin)
            self._running = replace(running, stdin=-1)

    def _close_outputs(self) -> None:
        for number in self._outputs:
            os.close(number)
        self._outputs.clear()

    # -- the record and the journal

    def _change(self, **changes: Any) -> None:
        try:
            with self._containers.changing(self.plan.identity) as now:
                self._containers.write(replace(now, **changes), lasting=not now.remove)
        except NotFound:
            pass  # it was removed by force
        except LaminaError as error:  # a full disk: what runs goes on
            _complain(str(error))

    def _note(self, action: str, **more: str) -> None:
        known = dict(self.plan.attributes)
        with suppress(LaminaError):
            known["name"] = self._containers.get(self.plan.identity).name  # it may have another name by now
        note(self.plan.root, "container", action, self.plan.identity, {**known, **more})


def _write_pid(path: str, pid: int) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(pid))
    except OSError as error:
        _complain(f"{path}: {error.strerror}")


def _complain(text: str) -> None:
    """Into monitor.log."""
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "replace") + b"\n")
