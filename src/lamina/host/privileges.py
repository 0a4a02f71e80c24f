"""What this process may do: the machine's root, or root of a user namespace that a plain user makes (Linux).

``become_root`` turns the process itself: with the ids of /etc/subuid and /etc/subgid where newuidmap and newgidmap
can give them, else with the user's own id alone. Mounts that it makes then are its own, and go with it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from lamina.errors import LaminaError, SystemFailure, Unsupported, UsageError, from_plain, to_plain
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_RECURSIVE, _SLAVE = 0x4000, 0x80000  # mount(2)
_APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"
_ALL_IDS = ["0", "0", "4294967295"]
MAX_ID = (1 << 32) - 2
"""The highest id of a user or a group. The kernel reads 2^32-1 as -1, which chown(2) takes for "leave it unchanged":
a file of that owner would become the caller's."""
Range = tuple[int, int, int]
"""Ids of a namespace: the first inside, the first outside, how many (user_namespaces(7))."""
Say = Callable[[bytes], object]
Wait = Callable[[], object]
_WORD = 100  # bytes: the most that a process beside says
_lacking = ""


@cache
def is_root() -> bool:
    """Whether this is the machine's root, not one of a namespace."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    found = _map_of("self", "uid_map")
    return not found or found == [_ALL_IDS]


def may_mount() -> bool:
    """Whether this is root, the machine's or of a namespace."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def ids() -> str:
    """A word for the ids that this process can give to files: "" for all; the same for the same ones."""
    if is_root():
        return ""
    import hashlib

    text = repr([_map_of("self", "uid_map"), _map_of("self", "gid_map")])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def maps() -> tuple[list[Range], list[Range]]:
    """The ids of this process's namespace, of users and of groups. Linux."""
    users, groups = (
        [(int(first), int(outside), int(count)) for first, outside, count in _map_of("self", name)]
        for name in ("uid_map", "gid_map")
    )
    return users, groups


def has_id(number: int, *, group: bool = False) -> bool:
    """Whether the id exists in this process's namespace."""
    ranges = _map_of("self", "gid_map" if group else "uid_map")
    return not ranges or any(int(first) <= number < int(first) + int(count) for first, _, count in ranges)


def may_set_groups() -> bool:
    """Whether this process may change its groups: not in a namespace that a plain user made with the own id alone."""
    try:
        with open("/proc/self/setgroups", encoding="utf-8") as file:
            return file.read().strip() != "deny"
    except OSError:
        return True


def capabilities(which: str) -> int:
    """The bits of this process's set ``which``, like "CapEff" (proc_pid_status(5)); all where that can't be read."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            return next(int(line.split()[1], 16) for line in file if line.startswith(f"{which}:"))
    except (OSError, StopIteration, ValueError):
        return -1


def become_root() -> None:
    """Enter a new user and mount namespace as its root, who is this user outside; nothing where this is root already.
    For good: the process stays there.

    Raises Unsupported (not Linux), SystemFailure (the kernel or a setting of the machine refuses; several threads).
    """
    if may_mount():
        return
    _check_linux()
    user, group = os.geteuid(), os.getegid()
    users, groups = (_ranges(name, number) for name, number in (("subuid", user), ("subgid", group)))
    if not (users and groups and _enter_with(users, groups)):
        _unshare(_NEW_USER | _NEW_MOUNTS)
        _map_alone(user, group)
        _as_root(False)
    _check_restriction()


def _check_restriction() -> None:
    """AppArmor may let everybody make a user namespace, and give no rights in it (Ubuntu from 23.10). Raises
    SystemFailure."""
    if _value_of(_APPARMOR) != "1":
        return
    from ctypes import c_ulong

    from lamina.host.libc import failed, libc

    # the mounts of such a namespace are slaves already: nothing changes
    if libc().mount(None, b"/", None, c_ulong(_RECURSIVE | _SLAVE), None) != 0:
        raise SystemFailure(f"no rights in a user namespace: {failed().strerror}", hint=_setting())


def _enter_with(users: list[Range], groups: list[Range]) -> bool:
    """Enter a new namespace with these ids; False, and nothing is changed, where they can't be given to it. Until it
    has all of them, only a process beside is in it: a process in a half-mapped namespace can't make another."""
    global _lacking

    def work(say: Say, wait: Wait) -> None:
        _unshare(_NEW_USER)
        say(b"1")
        wait()

    with beside(work) as (child, said):
        if not said:
            return False  # the caller's own attempt says why
        for program, ranges in (("newgidmap", groups), ("newuidmap", users)):
            _lacking = _refused_by(program, child, ranges)
            if _lacking:
                return False
        join(child, mounts=False)
    return True


def lacking() -> str:
    """Why this process has not got the further ids that /etc/subuid and /etc/subgid give to its user, or ""."""
    return _lacking


def join(pid: int, *, mounts: bool = True) -> None:
    """Enter the user namespace of a process as its root, and its mounts (else a copy of ours). The working directory
    stays, unless this user may not search it. Raises as ``become_root``, and SystemFailure (the process is gone)."""
    _check_linux()
    from lamina.host.libc import failed, libc

    opened: list[int] = []
    try:
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
        opened.append(here)
    except OSError:  # this user may not search it: the caller takes no relative paths then
        here = -1
    spaces: list[int] = []
    try:
        try:
            for name in ("user", "mnt") if mounts else ("user",):
                spaces.append(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise SystemFailure(
                f"process {pid}: {error.strerror}", hint="it has ended, or is another user's"
            ) from None
        path = _working_directory()
        for one in spaces:
            if libc().setns(one, 0) != 0:
                raise _refused(failed().errno or 0)
        if mounts and here >= 0:
            _return_to(here, path)  # setns(2) has changed to the root directory
    finally:
        for one in opened + spaces:
            os.close(one)
    if not mounts:
        _unshare(_NEW_MOUNTS)
    _as_root(len(_map_of("self", "uid_map")) > 1)


def _working_directory() -> str:
    """Its path, or "" where it has none."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _return_to(directory: int, path: str) -> None:
    """Change to the directory of a descriptor: by its path where the mounts show it there, as programs ask for that.
    Raises SystemFailure."""
    try:
        if path and os.path.samestat(os.stat(path), os.fstat(directory)):
            os.chdir(path)
            return
    except OSError:
        pass  # it is not among these mounts
    try:
        os.fchdir(directory)
    except OSError as error:
        raise SystemFailure(
            f"{path or 'the working directory'}: {error.strerror}", hint="change to another"
        ) from None


def as_root(function: Callable[[], Any], *, stays: bool = False) -> Any:
    """The answer of ``function`` (what JSON can say), called in a child process that is root of a new namespace; in
    this one, where it is root already. ``stays``: in a child in any case, which goes on until it is killed, and with
    it what it has mounted. Raises as ``become_root``, and what ``function`` raises of lamina's errors."""
    if may_mount() and not stays:
        return function()
    import json

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        answer: dict[str, Any]
        try:
            if stays:
                os.setsid()
            become_root()
            answer = {"value": function()}
        except LaminaError as error:
            answer = to_plain(error)
        except OSError as error:
            answer = to_plain(SystemFailure(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
        except BaseException as error:  # noqa: BLE001  (a forked child: it must end here)
            answer = to_plain(SystemFailure(f"{type(error).__name__}: {error}"))
        try:
            with open(writing, "w", encoding="utf-8") as file:
                json.dump(answer, file)
        except OSError:
            os._exit(1)  # the caller is gone: what was mounted goes too
        if stays and "value" in answer:
            _stay()
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        text = file.read()
    if not stays or '"value"' not in text[:10]:
        os.waitpid(child, 0)
    if not text:
        raise SystemFailure("the process that worked in the user namespace was killed", hint="try again")
    answer = json.loads(text)
    if "error" in answer:
        raise from_plain(answer)
    return answer["value"]


def nested(users: Sequence[Range] = (), groups: Sequence[Range] = ()) -> int:
    """A descriptor of a new user namespace below this one with these ids, or with the same: its root is root of
    nothing outside. Call it as root. Raises SystemFailure."""

    def work(say: Say, wait: Wait) -> None:
        _unshare(_NEW_USER)
        say(b"1")
        wait()

    same = same_ids()
    try:
        with beside(work) as (child, said):
            if not said:
                raise SystemFailure("no user namespace", hint=_setting())
            write_maps(child, users or same[0], groups or same[1])
            return os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    except OSError as error:
        raise _refused(error.errno or 0) from None


@contextmanager
def beside(work: Callable[[Say, Wait], object]) -> Iterator[tuple[int, bytes]]:
    """``work`` in a forked process, which is gone after the block: its number, and the first that it says (b"" where
    it ends without a word). What it waits for is the end of the block, or of this process if that is killed."""
    reading, writing = os.pipe()
    until, ours = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ours)
            work(lambda said: os.write(writing, said), lambda: os.read(until, 1))
        finally:
            os._exit(1)
    os.close(writing)
    os.close(until)
    try:
        yield child, os.read(reading, _WORD)
    finally:
        os.close(reading)
        os.close(ours)
        os.waitpid(child, 0)


def same_ids() -> tuple[list[Range], list[Range]]:
    """The ids of users and of groups that this namespace has, each as itself."""
    users, groups = ([(first, first, count) for first, _, count in ranges] for ranges in maps())
    return users, groups


def write_maps(pid: int, users: Sequence[Range], groups: Sequence[Range]) -> None:
    """Say which ids the new user namespace of a process has. Raises OSError."""
    for name, ranges in (("uid_map", users), ("gid_map", groups)):
        with open(f"/proc/{pid}/{name}", "w", encoding="utf-8") as file:
            file.write("".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges))


def no_such_ids(uid: int, gid: int) -> Unsupported:
    """What there is to say where this user's namespace has not these ids."""
    hint = "further ids are those of /etc/subuid and /etc/subgid"
    return Unsupported(f"there is no user {uid}:{gid} here", hint=f"{hint}; {_lacking}" if _lacking else hint)


def _stay() -> None:
    """Wait to be killed, as small as can be."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.chdir("/")
    try:
        os.execvp("sleep", ["sleep", "infinity"])
    except OSError:
        import signal

        while True:
            signal.pause()


def refusal() -> str:
    """Why this user can't be root of a namespace, or ""."""
    try:
        as_root(lambda: None)
    except LaminaError as error:
        return error.message + (f" ({error.hint})" if error.hint else "")
    return ""


def _check_linux() -> None:
    if sys.platform != "linux":
        raise Unsupported("user namespaces are Linux's", hint="look into the image with ls, cat, unpack")


def _refused_by(program: str, pid: int, ranges: list[Range]) -> str:
    """Let newuidmap or newgidmap write the map of a process; what it says if it does not, else ""."""
    reading, writing = os.pipe()
    words = [program, str(pid), *map(str, sum(ranges, ()))]
    try:
        child = os.posix_spawnp(program, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 2)])
    except OSError as error:
        os.close(reading)
        return f"{program}: {error.strerror}"
    finally:
        os.close(writing)
    with open(reading, encoding="utf-8", errors="backslashreplace") as file:
        said = file.read().strip().splitlines()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        return ""
    return f"{program}: {said[-1].removeprefix(program + ': ') if said else 'it failed'}"


def _ranges(file: str, number: int) -> list[Range]:
    """What newuidmap is to be told; nothing where this user has no further ids or there is no such program."""
    import shutil

    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        return []
    given = subordinate(file, number)
    if not given:
        return []
    return spread(given, number)


def spread(given: Sequence[tuple[int, int]], own: int) -> list[Range]:
    """The ids 1, 2, 3, ... of a namespace upon the ``given`` ranges (first, count), above ``own`` as its 0 (pure)."""
    found: list[Range] = [(0, own, 1)]
    at = 1
    for first, count in given:
        found.append((at, first, count))
        at += count
    return found


def subordinate(file: str, number: int) -> list[tuple[int, int]]:
    """The user's ranges (first, count) in /etc/subuid or /etc/subgid, by name or number (subuid(5))."""
    import pwd

    names = {str(os.geteuid())}
    try:
        names.add(pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:
        pass
    found = []
    try:
        with open(f"/etc/{file}", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words = line.strip().split(":")
                if len(words) == 3 and words[0] in names and words[1].isdecimal() and words[2].isdecimal():
                    found.append((int(words[1]), int(words[2])))
    except OSError:
        return []
    return distinct(found, number)


def distinct(given: Sequence[tuple[int, int]], own: int) -> list[tuple[int, int]]:
    """The ranges (first, count) that can stand in one map with the id ``own``: not empty, and not overlapping one
    before it, as a doubled line does (pure)."""
    found = [(own, 1)]
    for first, count in given:
        if count > 0 and not any(first < end[0] + end[1] and end[0] < first + count for end in found):
            found.append((first, count))
    return found[1:]


def _map_alone(user: int, group: int) -> None:
    """The kernel lets everybody map the own id alone, when groups are given up."""
    try:
        for name, text in (("setgroups", "deny"), ("gid_map", f"0 {group} 1"), ("uid_map", f"0 {user} 1")):
            with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise _refused(error.errno or 0) from None


def _as_root(groups: bool) -> None:
    try:
        if groups:
            os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        is_root.cache_clear()
    except OSError as error:
        raise _refused(error.errno or 0) from None


def _unshare(flags: int) -> None:
    from lamina.host.libc import failed, libc

    if libc().unshare(flags) != 0:
        raise _refused(failed().errno or 0)


def _refused(number: int) -> LaminaError:
    what = f"no user namespace: {os.strerror(number)}"
    if number == errno.EINVAL:
        return UsageError(what, hint="a process with several threads can't enter one")
    if number == errno.ENOSPC:  # unshare(2): not a disk
        return SystemFailure(what, hint="the machine's setting user.max_user_namespaces allows no more of them")
    return SystemFailure(what, hint=_setting())


def _setting() -> str:
    """The machine's setting that most likely refuses."""
    for name, bad in (
        ("kernel/unprivileged_userns_clone", "0"),
        (_APPARMOR, "1"),
        ("user/max_user_namespaces", "0"),
    ):
        if _value_of(name) == bad:
            return f"the machine's setting {name.replace('/', '.')} is {bad}"
    return "the kernel, or the container this runs in, refuses them"


def _value_of(setting: str) -> str:
    """The value of a setting of the kernel (proc_sys(5)); "" where it has no such one."""
    try:
        with open(f"/proc/sys/{setting}", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _map_of(process: str, name: str) -> list[list[str]]:
    try:
        with open(f"/proc/{process}/{name}", encoding="utf-8") as file:
            return [line.split() for line in file]
    except OSError:
        return []
