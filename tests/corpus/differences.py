"""Where builders differ from lamina, and which one is right. ``tests/oracles.md`` explains them.

A line is a pattern of ``re`` for one line of ``builders.differences``: what lamina made, then what the other made.
"""

from __future__ import annotations

from dataclasses import dataclass

from corpus.case import Case


@dataclass(frozen=True)
class Known:
    """``refused``: the other builder refuses the case; ``ours_refused``: lamina does. ``lines``: how the images differ."""

    lines: tuple[str, ...] = ()
    refused: bool = False
    ours_refused: bool = False

    @classmethod
    def same(cls, case: Case) -> Known:
        return cls(refused=case.fails, ours_refused=case.fails)


REFUSED = Known(refused=True)
OURS_REFUSED = Known(ours_refused=True)
NO_XATTRS = r"file [^:]+: xattrs \{.*\} None"
EMPTY = r"history \d: .*\} .*'empty_layer': True\}"
"""What we made has a layer, theirs has none."""
UNCHANGED = Known(
    (r"config created: '2024.*' 'new'", r"history 1: .*'created': '2024.*'empty_layer': True\} .*'created': 'new'.*")
)
"""Nothing is in the image but its base, and we keep the base's time."""

BUILDKIT: dict[str, Known] = {
    "stages: a named context as a base": Known(
        (r"history 0: .*'FROM extra'.*\} .*'COPY a /a .*\}", r"history 1: .*'COPY a /a .*\} .*exporter.*\}")
    ),
    "stages: a stage copies from one below": Known(
        (r"file /srv/file: names None \[.*", r"file /srv/twin: names None \[.*", EMPTY)
    ),
    "stages: copies between stages never see what is removed": Known((NO_XATTRS,)),
    "copying: from a stage, extended attributes": Known((NO_XATTRS,)),
    "adding: ADD of an archive with extended attributes": Known((NO_XATTRS,)),
    "copying: a relative target": Known((EMPTY,)),
    "copying: the same file twice": Known((EMPTY,)),
    "copying: a directory that has all that already": Known((EMPTY,)),
    "running: nothing is changed": Known((EMPTY,)),
    "running: a secret": Known((EMPTY,)),
    "running: hard links": Known(
        (
            r"file /data/file: names \['/data/file', '/srv/third'\] \['/data/file', '/data/twin'\]",
            r"file /data/twin: names None .*",
            r"file /srv/third: names .* None",
        )
    ),
    "running: hard links to one that is there": Known(
        (r"file /srv/other: names .* None", r"file /srv/plain: names .* None")
    ),
    "running: the root's own attributes": UNCHANGED,
    "running: a command line of nothing": UNCHANGED,
    "refusing: COPY of a pattern without a match": UNCHANGED,
    "refusing: a mount with a key of another kind": UNCHANGED,
    "refusing: WORKDIR of an empty variable": Known((*UNCHANGED.lines, r"history 2: .*")),
    "adding: ADD of an archive with whiteouts": Known(
        (r"file /data/file: \{.* None", r"file /data/twin: names \[.* None")
    ),
    "adding: ADD of an archive with odd paths": OURS_REFUSED,
    "refusing: a target's number": REFUSED,
    "refusing: COPY of a whole context, with an option, and a dangling symlink": REFUSED,
    "refusing: COPY --chown of a user that is not there": OURS_REFUSED,
    "refusing: COPY --chown of a group that is not there": OURS_REFUSED,
    "refusing: a NUL": OURS_REFUSED,
    "variables: a default behind text in EXPOSE": Known(
        (r"config ExposedPorts: .*8080/tcp.* .*'80/tcp.*", r"history 1: .*8080/tcp.* .*\[80/tcp.*")
    ),
}
"""By case. A case that is not here must be equal."""

VOLUMES = Known(
    (
        *(rf"file /{name}: None \{{'kind': 'directory'.*" for name in ("a", "b", "c d")),
        r"file /data/new: \{.*\} None",
        *(rf"file /{name}: None \{{'kind': 'directory'.*" for name in "ef"),
    )
)
"""A volume is a directory of the image, and what RUN does in it is lost."""
ENV_WINS = Known((r"file /out: content .*x.* .*env.*", r"config Env: .*"))
ARG_STAYS = Known((r"file /out: content .*\[1\]\[1\].*\[\]\[1\].*", r"config Env: .*"))
KEPT_OWNERS = tuple(rf"file /srv/new/{name}: owner '33:55' .*" for name in ("d", "d/file", "d/link", "d/twin"))

BUILDAH: dict[str, Known] = {
    "settings: VOLUME": VOLUMES,
    "variables: ENV wins over ARG": ENV_WINS,
    "variables: ARG of a stage reaches those built on it": ARG_STAYS,
    "adding: ADD --chown of an archive": Known(
        (
            *KEPT_OWNERS,
            r"file /srv/new/implied: owner '0:0' '33:55'",
            r"file /srv/new/implied/file: owner '33:55' '0:0'",
            r"file /srv/new/top: owner '33:55' '7:8'",
        )
    ),
    "settings: EXPOSE": Known((r"config ExposedPorts: .*'7/tcp'.* .*'7/TCP'.*",)),
}
DOCKER: dict[str, Known] = {
    "settings: VOLUME": VOLUMES,
    "variables: ENV wins over ARG": ENV_WINS,
    "variables: ARG of a stage reaches those built on it": ARG_STAYS,
    "adding: ADD --chown of an archive": Known(
        (
            r"file /srv/new: owner '33:55' '0:0'",
            *KEPT_OWNERS,
            r"file /srv/new/implied/file: owner '33:55' '0:0'",
            r"file /srv/new/top: owner '33:55' '7:8'",
        )
    ),
    "settings: WORKDIR of a user": Known(
        (r"file /srv/new: owner '33:44' '0:0'", r"file /srv/new/deep: owner '33:44' '0:0'")
    ),
}
