"""Work in several processes: each piece is done once, failures are reported, no process is left. The tests run in a
fresh process, because this one has threads."""

from __future__ import annotations

import subprocess
import sys

HEAD = """
import os, sys, threading, time
from lamina.errors import Cancelled, InvalidLayer, SystemFailure
from lamina.events import Cancel
from lamina.view.unpack import workers
workers._cores = lambda: 3
me = os.getpid()

def both(numbers):  # nobody ends before another process has had a piece
    found = []
    for number in numbers:
        found.append(number)
        if len(found) == 1:
            os.write(go, b"x")
            while os.fstat(come).st_size < 3:
                time.sleep(0.001)
    return [os.getpid(), found]

go = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
come = os.open(sys.argv[1], os.O_RDONLY)

def nobody_left():
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
"""


def script(text: str, file: object) -> str:
    done = subprocess.run([sys.executable, "-c", HEAD + text, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_piece_is_done_once_by_several_processes(tmp_path: object) -> None:
    text = """
answers = workers.shared(1000, both)
assert sorted(n for _, found in answers for n in found) == list(range(1000))
assert len({process for process, _ in answers}) == 3 and answers[0][0] == me
assert nobody_left()
"""
    script(text, f"{tmp_path}/x")


def test_a_failure_elsewhere_is_raised_here(tmp_path: object) -> None:
    text = """
def work(numbers):
    for number in numbers:
        if os.getpid() != me:
            raise InvalidLayer("bad", hint="so it is")
        time.sleep(0.01)
try:
    workers.shared(200, work)
except InvalidLayer as error:
    assert (error.message, error.hint) == ("bad", "so it is")
else:
    raise AssertionError
assert nobody_left()
"""
    script(text, f"{tmp_path}/x")


def test_a_killed_worker_process_is_an_error(tmp_path: object) -> None:
    text = """
def work(numbers):
    for number in numbers:
        if os.getpid() != me:
            os.kill(os.getpid(), 9)
        time.sleep(0.01)
try:
    workers.shared(200, work)
except SystemFailure as error:
    assert "was killed" in error.message
else:
    raise AssertionError
assert nobody_left()
"""
    script(text, f"{tmp_path}/x")


def test_cancel_ends_all(tmp_path: object) -> None:
    text = """
cancel = Cancel()
def work(numbers):
    if os.getpid() == me:
        list(zip(range(1), numbers))
        threading.Timer(0.05, cancel.set).start()
        return
    for number in numbers:
        time.sleep(1000)
try:
    workers.shared(10, work, cancel)
except Cancelled:
    pass
else:
    raise AssertionError
assert nobody_left()
"""
    script(text, f"{tmp_path}/x")


def test_a_process_with_threads_does_not_fork_workers(tmp_path: object) -> None:
    text = """
stop = threading.Event()
threading.Thread(target=stop.wait).start()
assert workers.shared(10, lambda numbers: [os.getpid(), list(numbers)]) == [[me, list(range(10))]]
stop.set()
"""
    script(text, f"{tmp_path}/x")
