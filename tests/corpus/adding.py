"""ADD: what it does beyond COPY."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import tarfile
from typing import Any

from corpus.case import Case, on_base
from support import make_tar


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


MEMBERS: list[tuple[Any, ...]] = [
    ("top", b"top\n", {"uid": 7, "gid": 8, "mode": 0o640}),
    ("d/", None, {"mode": 0o711, "uid": 9}),
    ("d/file", b"in d\n"),
    ("d/twin", "= d/file"),
    ("d/link", "-> file"),
    ("implied/file", b"i"),
]
TAR = make_tar(MEMBERS)
ARCHIVES = {
    "a.tar": TAR,
    "a.tar.gz": gzip.compress(TAR, mtime=0),
    "a.tar.bz2": bz2.compress(TAR),
    "a.tar.xz": lzma.compress(TAR),
    "no-name": gzip.compress(TAR, mtime=0),
    "false.tar": b"no archive\n",
    "text.gz": gzip.compress(b"no tar\n", mtime=0),
    "one": b"1\n",
    "dir/b.tar": TAR,
    "dir/c": b"c",
}

ADDING: dict[str, Case] = {
    "ADD of files and directories": on_base("ADD one dir /srv/new/\nADD *n* /srv/n/\n", {"one": b"1", "dir/a": b"2"}),
    "ADD of an archive": on_base("ADD a.tar /srv/new\nADD a.tar.gz /srv/gz/\n", ARCHIVES),
    "ADD of other compressions": on_base("ADD a.tar.bz2 /srv/bz2\nADD a.tar.xz /srv/xz\n", ARCHIVES),
    "ADD of an archive by Zstandard": on_base("ADD a.tar.zst /srv/new\n", {"a.tar.zst": zstd(TAR)}),
    "ADD of the smallest archive": on_base(
        "ADD small.tar.gz /srv/new\n",
        {"small.tar.gz": gzip.compress(make_tar([("a", b"")], tarfile.USTAR_FORMAT)[:1536], mtime=0)},
    ),
    "ADD knows archives by their content": on_base("ADD no-name /srv/new\nADD false.tar text.gz /srv/\n", ARCHIVES),
    "ADD of an archive among others": on_base("ADD one a.tar /srv/new/\n", ARCHIVES),
    "ADD of archives by a pattern": on_base("ADD a.t* /srv/new/\n", ARCHIVES),
    "ADD of a directory with an archive": on_base("ADD dir /srv/new/\n", ARCHIVES),
    "ADD of an archive onto what is there": on_base(
        "ADD a.tar /\n",
        {
            "a.tar": make_tar(
                [
                    ("data/", None, {"mode": 0o700}),
                    ("data/file", b"new"),
                    ("data/link", b"was a link"),
                    ("here/x", b"through a link"),
                    ("etc/new", b"n"),
                ]
            )
        },
    ),
    "ADD of an archive with a file for a directory": on_base(
        "ADD a.tar /\n", {"a.tar": make_tar([("srv/work", b"was a directory")])}
    ),
    "ADD of an archive with whiteouts": on_base(
        "ADD a.tar /data\n", {"a.tar": make_tar([(".wh.file", b""), ("other", b"1")])}
    ),
    "ADD of an archive with odd paths": on_base(
        "ADD a.tar /srv/new\n", {"a.tar": make_tar([("./a", b"1"), ("/b", b"2"), ("c/../d", b"3")])}
    ),
    "ADD of an archive with extended attributes": on_base(
        "ADD a.tar /srv/new\n",
        {"a.tar": make_tar([("a", b"1", {"pax_headers": {"SCHILY.xattr.user.kind": "test"}})])},
    ),
    "ADD of an archive with times": on_base(
        "ADD a.tar /srv/new/\n",
        {"a.tar": make_tar([("d/", None, {"mtime": 5}), ("d/a", b"1", {"mtime": 1_500_000_000.5})])},
    ),
    "ADD of an archive with a device and a pipe": on_base(
        "ADD a.tar /srv/new/\n", {"a.tar": make_tar([("null", "c 1 3"), ("pipe", "fifo")])}
    ),
    "ADD --chown of an archive": on_base("ADD --chown=web:extra a.tar /srv/new/\n", ARCHIVES),
    "ADD --chmod of an archive": on_base("ADD --chmod=600 a.tar /srv/new/\n", ARCHIVES),
    "ADD --unpack=false": on_base(
        "ADD --unpack=false a.tar /srv/new/\nADD --unpack=false a.tar.gz /srv/x\n", ARCHIVES
    ),
    "ADD --unpack of a local archive": on_base("ADD --unpack=true a.tar /srv/new/\n", ARCHIVES),
    "ADD --link of an archive": on_base("ADD --link a.tar /srv/new/\n", ARCHIVES),
    "ADD --exclude": on_base("ADD --exclude=*.tar . /srv/new/\n", ARCHIVES),
    "ADD --chown and --chmod of a file": on_base("ADD --chown=web --chmod=u=rw,go= one /srv/new\n", ARCHIVES),
    "COPY of an archive leaves it": on_base("COPY a.tar /srv/new\n", ARCHIVES),
    "ADD of an archive that is cut off": on_base(
        "ADD a.tar.gz /srv/new\n", {"a.tar.gz": ARCHIVES["a.tar.gz"][:100]}, fails=True
    ),
    # what is elsewhere
    "ADD of an address": on_base("ADD {http}/one {http}/dir/two.txt /srv/new/\n"),
    "ADD of an address to a name": on_base(
        "ADD {http}/one /srv/new\nADD --chmod=644 --chown=web {http}/one /srv/n\n"
    ),
    "ADD of an address leaves archives": on_base("ADD {http}/a.tar /srv/\n"),
    "ADD --unpack of an address": on_base("ADD --unpack=true {http}/a.tar /srv/new/\n"),
    "ADD --checksum": on_base(
        "ADD --checksum=sha256:4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865 {http}/one /srv/new\n"
    ),
    "ADD of an address with a question": on_base("ADD {http}/one?x=1 /srv/new/\n"),
    "ADD of an address and a file": on_base("ADD {http}/one two /srv/new/\n", {"two": b"2"}),
    "ADD of a repository": on_base("ADD {git}/repo.git#main /srv/new\n"),
    "ADD --keep-git-dir": on_base(
        "ADD --keep-git-dir=true {git}/repo.git#v1 /src\nRUN ls -a /src >/out; rm -r /src/.git\n"
    ),
    "ADD of a repository's directory": on_base("ADD {git}/repo.git#main:dir /srv/new\n"),
    "ADD of a repository without a branch": on_base("ADD {git}/repo.git /srv/new/\n"),
}
REFUSED_ADDING: dict[str, Case] = {
    "ADD of an address that is not there": on_base("ADD {http}/nothing /srv/\n", fails=True),
    "ADD with a wrong checksum": on_base(f"ADD --checksum=sha256:{'0' * 64} {{http}}/one /srv/\n", fails=True),
    "ADD of a repository that is not there": on_base("ADD {git}/nothing.git /srv/\n", fails=True),
    "ADD of a branch that is not there": on_base("ADD {git}/repo.git#nothing /srv/\n", fails=True),
}
ADDING |= REFUSED_ADDING
SERVED = {"one": b"1\n", "dir/two.txt": b"22\n", "a.tar": TAR}
"""What ``{http}`` serves, and, but for the archive, what the repository ``{git}/repo.git`` has in its branch main."""
