"""Privileges of this process: root of the host, or root of a user namespace that an unprivileged user creates
(Linux).

``become_root`` moves the process into such a namespace: with the ids of /etc/subuid and /etc/subgid if newuidmap and
newgidmap can map them, else with the user's own id only. The mounts that it makes there end with it.
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
"""The highest id of a user or a group. The kernel reads 2^32-1 as -1, which means "leave it unchanged" to chown(2): a
file of that owner would become the caller's."""
Range = tuple[int, int, int]
"""A range of ids in a user namespace: first id inside, first id outside, count (user_namespaces(7))."""
Say = Callable[[bytes], object]
Wait = Callable[[], object]
_WORD = 100  # bytes: the longest message of a helper process
_lacking = ""


@cache
def is_root() -> bool:
    """Whether this process is root of the host, not of a user namespace."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    found = _map_of("self", "uid_map")
    return not found or found == [_ALL_IDS]


def may_mount() -> bool:
    """Whether this process is root, of the host or of a user namespace."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def ids() -> str:
    """Return an identifier for the set of ids that this process can give to files; "" for all ids."""
    if is_root():
        return ""
    import hashlib

    text = repr([_map_of("self", "uid_map"), _map_of("self", "gid_map")])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def maps() -> tuple[list[Range], list[Range]]:
    """Return the id ranges of this process's user namespace: of users and of groups. Linux."""
    users, groups = (
        [(int(first), int(outside), int(count)) for first, outside, count in _map_of("self", name)]
        for name in ("uid_map", "gid_map")
    )
    return users, groups


def has_id(number: int, *, group: bool = False) -> bool:
    """Whether the id is mapped in this process's user namespace."""
    ranges = _map_of("self", "gid_map" if group else "uid_map")
    return not ranges or any(int(first) <= number < int(first) + int(count) for first, _, count in ranges)


def may_set_groups() -> bool:
    """Whether this process may change its supplementary groups. It may not in a namespace that an unprivileged user
    made with only the own id."""
    try:
        with open("/proc/self/setgroups", encoding="utf-8") as file:
            return file.read().strip() != "deny"
    except OSError:
        return True


def capabilities(which: str) -> int:
    """Return the bits of a capability set of this process, such as "CapEff" (proc_pid_status(5)); all bits if it
    can't be read."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            return next(int(line.split()[1], 16) for line in file if line.startswith(f"{which}:"))
    except (OSError, StopIteration, ValueError):
        return -1


def become_root() -> None:
    """Enter a new user and mount namespace as its root (this user on the outside) for the rest of this process. Does
    nothing if the process is root already.

    Raises Unsupported (not Linux), SystemFailure (refused by the kernel or a setting of the host), UsageError (the
    process has several threads).
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
    """Check for AppArmor's restriction (Ubuntu from 23.10): everybody may create a user namespace, but gets no rights
    in it. Raises SystemFailure."""
    if _value_of(_APPARMOR) != "1":
        return
    from ctypes import c_ulong

    from lamina.host.libc import failed, libc

    # mounts in such a namespace are already slaves, so that this call changes nothing
    if libc().mount(None, b"/", None, c_ulong(_RECURSIVE | _SLAVE), None) != 0:
        raise SystemFailure(f"no rights in a user namespace: {failed().strerror}", hint=_setting())


def _enter_with(users: list[Range], groups: list[Range]) -> bool:
    """Enter a new user namespace with these ids. Returns False, with nothing changed, if they can't be mapped. Until
    all are mapped, only a helper process is in it: a process in a half-mapped namespace can't make another one."""
    global _lacking

    def work(say: Say, wait: Wait) -> None:
        _unshare(_NEW_USER)
        say(b"1")
        wait()

    with helper_process(work) as (child, said):
        if not said:
            return False  # the caller tries as well, and reports the reason
        for program, ranges in (("newgidmap", groups), ("newuidmap", users)):
            _lacking = _refused_by(program, child, ranges)
            if _lacking:
                return False
        join(child, mounts=False)
    return True


def missing_ids_reason() -> str:
    """Return why the additional ids of /etc/subuid and /etc/subgid could not be mapped; "" if they could."""
    return _lacking


def join(pid: int, *, mounts: bool = True) -> None:
    """Enter the user namespace of a process as its root, and its mount namespace (without ``mounts``: a copy of
    ours). The working directory is kept if this user may search it. Raises as ``become_root``, and SystemFailure if
    the process has ended."""
    _check_linux()
    from lamina.host.libc import failed, libc

    opened: list[int] = []
    try:
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
        opened.append(here)
    except OSError:  # the user may not search it; the caller uses no relative paths then
        here = -1
    spaces: list[int] = []
    try:
        try:
            for name in ("user", "mnt") if mounts else ("user",):
                spaces.append(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise SystemFailure(
                f"process {pid}: {error.strerror}", hint="check the process: it has ended, or belongs to another user"
            ) from None
        path = _working_directory()
        for one in spaces:
            if libc().setns(one, 0) != 0:
                raise _refused(failed().errno or 0)
        if mounts and here >= 0:
            _return_to(here, path)  # setns(2) changes to the root directory
    finally:
        for one in opened + spaces:
            os.close(one)
    if not mounts:
        _unshare(_NEW_MOUNTS)
    _as_root(len(_map_of("self", "uid_map")) > 1)


def _working_directory() -> str:
    """Return the path of the working directory; "" if it has none."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _return_to(directory: int, path: str) -> None:
    """Change to the directory of a descriptor; by its path if that leads to the same directory, so that programs see
    that path. Raises SystemFailure."""
    try:
        if path and os.path.samestat(os.stat(path), os.fstat(directory)):
            os.chdir(path)
            return
    except OSError:
        pass  # the path does not exist in these mounts
    try:
        os.fchdir(directory)
    except OSError as error:
        raise SystemFailure(
            f"{path or 'the working directory'}: {error.strerror}", hint="change to another directory"
        ) from None


def as_root(function: Callable[[], Any], *, stays: bool = False) -> Any:
    """Call ``function`` as root and return its result, which must be expressible in JSON. If this process is not root
    already, it runs in a child process that is root of a new namespace. Where the caller has threads, ``function``
    must import nothing: a module that another thread imports at the fork stays locked in the child for ever.

    With ``stays`` it always runs in a child, which stays until it is killed; its mounts end with it. Raises as
    ``become_root``, and the LaminaErrors of ``function``.
    """
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
            os._exit(1)  # the caller has ended; the mounts end with this process
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


def nested_namespace(users: Sequence[Range] = (), groups: Sequence[Range] = ()) -> int:
    """Create a user namespace below this one and return a descriptor of it. It has these ids (default: the same as
    here); its root has no rights outside. Needs root. Raises SystemFailure."""

    def work(say: Say, wait: Wait) -> None:
        _unshare(_NEW_USER)
        say(b"1")
        wait()

    same = same_ids()
    try:
        with helper_process(work) as (child, said):
            if not said:
                raise SystemFailure("can't create a user namespace", hint=_setting())
            write_maps(child, users or same[0], groups or same[1])
            return os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    except OSError as error:
        raise _refused(error.errno or 0) from None


@contextmanager
def helper_process(work: Callable[[Say, Wait], object]) -> Iterator[tuple[int, bytes]]:
    """Run ``work`` in a forked helper process, which ends with the block. Yields its pid and first message (b"" if
    it ended without one). ``work`` can wait for the end of the block, or of this process if that is killed."""
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
    """Return the user and group ids of this namespace, each mapped to itself."""
    users, groups = ([(first, first, count) for first, _, count in ranges] for ranges in maps())
    return users, groups


def write_maps(pid: int, users: Sequence[Range], groups: Sequence[Range]) -> None:
    """Write the id maps of a process's new user namespace. Raises OSError."""
    for name, ranges in (("uid_map", users), ("gid_map", groups)):
        with open(f"/proc/{pid}/{name}", "w", encoding="utf-8") as file:
            file.write("".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges))


def give(path: str, uid: int, gid: int) -> None:
    """Change the owner of a file. Raises Unsupported (this namespace has no such ids), OSError."""
    try:
        os.chown(path, uid, gid)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise no_such_ids(uid, gid) from None
        raise


def no_such_ids(uid: int, gid: int) -> Unsupported:
    """The error for a user or group id that is not mapped in this namespace."""
    hint = "add ranges for this user to /etc/subuid and /etc/subgid"
    return Unsupported(
        f"user {uid}:{gid} does not exist in this user namespace", hint=f"{hint}; {_lacking}" if _lacking else hint
    )


def _stay() -> None:
    """Wait to be killed, with as little memory as possible."""
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
    """Return why this user can't become root of a user namespace; "" if they can."""
    try:
        as_root(lambda: None)
    except LaminaError as error:
        return error.message + (f" ({error.hint})" if error.hint else "")
    return ""


def _check_linux() -> None:
    if sys.platform != "linux":
        raise Unsupported("user namespaces need Linux", hint="read the image with ls, cat or unpack instead")


def _refused_by(program: str, pid: int, ranges: list[Range]) -> str:
    """Let newuidmap or newgidmap write the id map of a process. Returns its error message, or "" on success."""
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
    """Return the arguments for newuidmap or newgidmap; [] if the user has no additional ids or the programs are
    missing."""
    import shutil

    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        return []
    given = subordinate(file, number)
    if not given:
        return []
    return map_ranges(given, number)


def map_ranges(given: Sequence[tuple[int, int]], own: int) -> list[Range]:
    """Map the ids 1, 2, 3, ... of a namespace to the ``given`` ranges (first, count), and 0 to ``own`` (pure)."""
    found: list[Range] = [(0, own, 1)]
    at = 1
    for first, count in given:
        found.append((at, first, count))
        at += count
    return found


def subordinate(file: str, number: int) -> list[tuple[int, int]]:
    """Return the user's ranges (first, count) in /etc/subuid or /etc/subgid, listed by name or number (subuid(5))."""
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
    return without_overlaps(found, number)


def without_overlaps(given: Sequence[tuple[int, int]], own: int) -> list[tuple[int, int]]:
    """Return the ranges (first, count) that fit into one map with the id ``own``: not empty, and not overlapping an
    earlier one, as a doubled line does (pure)."""
    found = [(own, 1)]
    for first, count in given:
        if count > 0 and not any(first < end[0] + end[1] and end[0] < first + count for end in found):
            found.append((first, count))
    return found[1:]


def _map_alone(user: int, group: int) -> None:
    """Map only the own id. The kernel allows this to everybody who gives up setgroups(2)."""
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
    what = f"can't create a user namespace: {os.strerror(number)}"
    if number == errno.EINVAL:
        return UsageError(what, hint="call it before the process starts threads")
    if number == errno.ENOSPC:  # unshare(2): not a disk
        return SystemFailure(what, hint="raise the host's setting user.max_user_namespaces")
    return SystemFailure(what, hint=_setting())


def _setting() -> str:
    """Return a hint with the setting of the host that most likely forbids user namespaces."""
    for name, bad in (
        ("kernel/unprivileged_userns_clone", "0"),
        (_APPARMOR, "1"),
        ("user/max_user_namespaces", "0"),
    ):
        if _value_of(name) == bad:
            return f"change the host's setting {name.replace('/', '.')}: it is {bad}"
    return "allow user namespaces: the kernel, or the container around this process, forbids them"


def _value_of(setting: str) -> str:
    """Return the value of a kernel setting (proc_sys(5)); "" if it does not exist."""
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
