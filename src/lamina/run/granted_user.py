"""The user and the groups of a container's program, as this host can give them."""

from __future__ import annotations

from lamina.errors import Unsupported
from lamina.host import privileges
from lamina.light import TYPE_CHECKING, replace
from lamina.run.user import User, misnamed, resolve_group, resolve_user

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lamina.run.options import ContainerOptions
    from lamina.run.rootfs import Inside
    from lamina.run.runtime import Runtime
    from lamina.view.owners import Owners

Caller = tuple[int, int] | None
"""The uid and gid that the caller has inside, if ``--userns keep-id`` was given."""


def find_user(
    word: str, wanted: ContainerOptions, caller: Caller, home: str, inside: Inside
) -> tuple[User, dict[str, bytes]]:
    """The user ``word`` of the image; and, by name in /etc, the files that the container gets instead of its image's:
    with a line for the ``caller``, whose home is ``home``. Raises NotFound, UsageError."""
    passwd, group = inside.read("/etc/passwd"), inside.read("/etc/group")
    if caller is None:
        return resolve_user(word, passwd, group), {}
    from lamina.run import userns

    name = "" if wanted.userns.uid is not None else userns.caller_name()
    more = userns.add_caller(passwd, group, caller, name, home)
    user = resolve_user(word or f"{caller[0]}:{caller[1]}", *more)
    if word and caller[1] != user.gid:  # as podman: the files of the caller's group stay accessible
        user = replace(user, groups=tuple(sorted({*user.groups, caller[1]})))
    changed = {"passwd": (passwd, more[0]), "group": (group, more[1])}
    return user, {name: new for name, (old, new) in changed.items() if old != new}


def granted_user(
    user: User,
    inside: Inside,
    owners: Owners,
    runtime: Runtime,
    asked: Sequence[str] = (),
    added: Collection[int] = (),
) -> User:
    """The user with the groups that its program gets: those of ``user``, those that were ``asked`` for (names or
    numbers) and the ``added`` ids, as far as this process and the runtime can give them. Raises NotFound, UsageError,
    Unsupported (the user, or a group that was asked for, can't be given)."""
    if asked:
        table = inside.read("/etc/group")
        added = {*(resolve_group(word, table) for word in asked), *added}
    user = _available(user, owners, added)
    return user if runtime.is_bubblewrap else _rightly_named(user, inside, asked)


def _available(user: User, owners: Owners, added: Collection[int]) -> User:
    """The user with the ``added`` groups, without those of its own groups that this process can't give, as runc does
    it. As with docker, its primary group is one of its further groups: else a set-group-id program could drop it, and
    reach files that are closed to the group (CVE-2022-36109). Raises Unsupported where the user, or an added group,
    can't be given."""
    further = tuple(sorted({*user.groups, *added} - {user.gid}))
    user = replace(user, groups=(user.gid, *further))
    if privileges.is_root() and not owners:
        return user

    def is_available(gid: int) -> bool:
        outside = owners.outside(user.uid, gid)
        return (
            owners.has(user.uid, gid) and privileges.has_id(outside[0]) and privileges.has_id(outside[1], group=True)
        )

    if not is_available(user.gid):
        raise privileges.no_such_ids(user.uid, user.gid)
    kept = tuple(filter(is_available, user.groups)) if privileges.may_set_groups() else ()
    lost = sorted({*added} - {*kept, user.gid})
    if lost:
        raise Unsupported(
            f"the group {lost[0]} can't be added here: this user has no such id to give away",
            hint="leave --group-add out, or give this user more ids in /etc/subgid",
        )
    return replace(user, groups=kept)


def _rightly_named(user: User, inside: Inside, asked: Collection[str]) -> User:
    """The user without the groups that the runtime would take for others. Raises Unsupported where one of them was
    ``asked`` for."""
    table = inside.read("/etc/group")
    lost = misnamed(user.groups, table)
    if lost & {resolve_group(word, table) for word in asked}:
        raise Unsupported(
            f"the group {min(lost)} can't be added: the image names another group so", hint="correct its /etc/group"
        )
    return replace(user, groups=tuple(gid for gid in user.groups if gid not in lost))
