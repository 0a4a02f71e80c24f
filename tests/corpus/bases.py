"""The images that the corpus builds on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.spec.descriptor import Descriptor
from support import busybox, write_layout

APPLETS = (
    "awk cat chgrp chmod chown cp cut dd df echo env expr false find grep head hostname id ln ls mkdir mkfifo mknod mv "
    "nproc od printf ps pwd readlink rm rmdir sed seq sh sleep sort stat tail tar test touch tr true uname wc [ md5sum"
)
PASSWD = (
    b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv/web:/bin/sh\ndeploy:x:1000:1000::/home/deploy:/bin/sh\n"
)
GROUP = b"root:x:0:\nweb:x:44:\nextra:x:55:other,web\ndeploy:x:1000:\nlone:x:66:deploy\n"
OWNED = {"uid": 33, "gid": 44, "mode": 0o750}


def layer() -> list[tuple[Any, ...]]:
    return [
        ("bin/", None),
        ("bin/busybox", busybox(), {"mode": 0o755}),
        *((f"bin/{name}", "-> busybox") for name in APPLETS.split()),
        ("dev/", None),
        ("etc/", None),
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("proc/", None),
        ("root/", None, {"mode": 0o700}),
        ("run/", None),
        ("sys/", None),
        ("tmp/", None, {"mode": 0o1777}),
        ("usr/", None),
        ("usr/lib/", None),
        ("usr/lib/so", b"library"),
        ("lib", "-> usr/lib"),
        ("data/", None, OWNED),
        ("data/file", b"of the image\n", {"uid": 33, "gid": 44}),
        ("data/twin", "= data/file", {"uid": 33, "gid": 44}),
        ("data/link", "-> file"),
        ("srv/", None),
        ("srv/plain", b"plain\n"),
        ("srv/marked", b"m", {"pax_headers": {"SCHILY.xattr.user.kind": "marked"}}),
        ("srv/work/", None, OWNED),
        ("srv/work/a", b"a of the image"),
        ("here", "-> data"),
        ("abs", "-> /srv/work"),
        ("leads-out", "-> ../../etc"),
        ("dangling", "-> nowhere/file"),
        ("dangling-dir", "-> /nowhere/dir"),
        ("links/", None),
        ("links/dangling", "-> nowhere"),
        ("links/absolute", "-> /etc/passwd"),
    ]


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IMAGES: Mapping[str, dict[str, Any]] = {
    "base": {"Env": [f"PATH={PATH}", "FROM_BASE=1"], "Cmd": ["sh"]},
    "bare": {"Cmd": None},
    "config": {
        "User": "web",
        "ExposedPorts": {"80/tcp": {}},
        "Env": [f"PATH={PATH}", "BASE=1"],
        "Entrypoint": ["/entry", "point"],
        "Cmd": ["the", "command"],
        "Volumes": {"/volume": {}},
        "WorkingDir": "/srv/work",
        "Labels": {"base": "label"},
        "StopSignal": "SIGQUIT",
        "Shell": ["/bin/busybox", "sh", "-c"],
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000, "Retries": 2},
    },
    "onbuild": {
        "Env": [f"PATH={PATH}"],
        "Cmd": ["sh"],
        "OnBuild": ["ENV TRIGGERED=yes", "WORKDIR /app", "COPY . .", "RUN echo $TRIGGERED $LAST >/triggered"],
    },
}


def write_bases(directory: Path) -> dict[str, Descriptor]:
    """All of them in an OCI layout; their manifests' descriptors."""
    members = layer()
    return {
        name: write_layout(directory, name, [members], config={"config": config}) for name, config in IMAGES.items()
    }
