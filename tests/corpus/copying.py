"""COPY: sources, targets, options."""

from __future__ import annotations

from corpus.case import Case, build, on_base

TREE = {
    "one": b"1\n",
    "two.txt": b"22\n",
    "three.txt": b"333\n",
    "script": (b"#!/bin/sh\n", {"mode": 0o755}),
    "private": (b"p", {"mode": 0o600, "uid": 1000, "gid": 1000}),
    "dir/": None,
    "dir/a": b"a",
    "dir/a.txt": b"a.txt",
    "dir/.hidden": b"h",
    "dir/sub/": (None, {"mode": 0o700}),
    "dir/sub/b": (b"b", {"mtime": 1_500_000_000}),
    "dir/sub/b.txt": b"b.txt",
    "dir/sub/deep/c.txt": b"c",
    "dir/empty/": None,
    "dir/up": "-> ../one",
    "link": "-> one",
    "linked-dir": "-> dir",
    "dangling": "-> nowhere/at/all",
    "absolute": "-> /etc/passwd",
}
WHOLE = {name: content for name, content in TREE.items() if name not in ("dangling", "absolute")}

COPYING: dict[str, Case] = {
    # targets
    "a file to a new name": on_base("COPY one /srv/new\n", TREE),
    "a file into a directory that is there": on_base("COPY one /srv\n", TREE),
    "a file into a directory that is missing": on_base("COPY one /srv/x/y/\n", TREE),
    "a file below directories that are missing": on_base("COPY one /srv/x/y/z\n", TREE),
    "a file over a file": on_base("COPY one /data/file\n", TREE),
    "a file over a file with two names": on_base("COPY one /data/twin\n", TREE),
    "a relative target": on_base(
        "WORKDIR /srv/work\nCOPY one two.txt ./\nCOPY one sub/\nCOPY one ../up\nCOPY one .\n", TREE
    ),
    "a relative target without WORKDIR": on_base("COPY one new\nCOPY one ./\n", TREE),
    "a target with dots": on_base("COPY one /srv/../srv/./x/../new\nCOPY one ../../../root\n", TREE),
    "a target with two slashes": on_base("COPY one //srv//new\nCOPY dir /srv/d//\n", TREE),
    "the root as target": on_base("COPY dir /\n", TREE),
    "a directory": on_base("COPY dir /srv/new\n", TREE),
    "a directory with a slash": on_base("COPY dir/ /srv/new/\n", TREE),
    "a directory onto one that is there": on_base("COPY dir /data\n", TREE),
    "a directory onto one that is there, with other files": on_base(
        "COPY d /data\nCOPY d /srv/work\n", {"d/": (None, {"mode": 0o711}), "d/file": b"other", "d/x": b"x"}
    ),
    "the whole context": on_base("COPY . /srv/all\n", TREE),
    "the whole context by a slash": on_base("COPY / /srv/all\n", TREE),
    "the whole context into the working directory": on_base("WORKDIR /app\nCOPY . .\n", TREE),
    "two files": on_base("COPY one two.txt /srv/\n", TREE),
    "a file and a directory": on_base("COPY one dir /srv/new/\n", TREE),
    "a source with dots": on_base("COPY ./dir/../one /srv/\nCOPY dir/./sub /srv/sub\n", TREE),
    "an absolute source": on_base("COPY /one /dir/a /srv/\n", TREE),
    "a source that tries to leave the context": on_base("COPY ../one /../../two.txt /srv/\n", TREE),
    "the same file twice": on_base("COPY one /srv/one\nCOPY one /srv/one\n", TREE),
    "a directory that has all that already": on_base("COPY dir /srv/d\nCOPY dir /srv/d\n", TREE),
    "modes and times": on_base("COPY script private dir/sub/b /srv/\n", TREE),
    "modes with further bits": on_base(
        "COPY . /srv/new/\n",
        {
            "setuid": (b"1", {"mode": 0o4755}),
            "setgid": (b"1", {"mode": 0o2755}),
            "sticky/": (None, {"mode": 0o1777}),
            "nothing": (b"1", {"mode": 0}),
            "group/": (None, {"mode": 0o2775}),
        },
    ),
    "empty files and directories": on_base("COPY . /srv/new\n", {"empty": b"", "d/": None, "e/f/": None}),
    "extended attributes": on_base(
        "COPY a d /srv/new/\n",
        {"a": (b"1", {"xattrs": {"user.kind": b"test"}}), "d/": (None, {"xattrs": {"user.d": b"1"}}), "d/b": b"2"},
    ),
    "hard links": on_base("COPY d /srv/new\nCOPY d/a d/b /srv/\n", {"d/a": b"1", "d/b": "= d/a"}),
    "a pipe in the context": on_base("COPY d /srv/new\n", {"d/a": b"1", "d/pipe": "fifo"}),
    # symlinks
    "symlinks in a directory": on_base("COPY dir /srv/new\n", TREE),
    "a symlink to a file": on_base("COPY link /srv/new\nCOPY link /srv/\n", TREE),
    "a symlink to a directory": on_base("COPY linked-dir /srv/new\nCOPY linked-dir/ /srv/slash\n", TREE),
    "a path through a symlink": on_base("COPY linked-dir/sub/b /srv/new\nCOPY linked-dir/sub /srv/sub\n", TREE),
    "a symlink and more": on_base("COPY link one linked-dir /srv/new/\n", TREE),
    "a target that is a symlink to a directory": on_base(
        "COPY one /here/\nCOPY two.txt /here\nCOPY dir /abs\n", TREE
    ),
    "a target below a symlink": on_base("COPY one /here/new\nCOPY one /abs/deep/new\nCOPY dir /lib/d\n", TREE),
    "a target that is a symlink to a file": on_base("COPY one /data/link\n", TREE),
    "a target that is a dangling symlink": on_base("COPY one /dangling\nCOPY dir /dangling-dir\n", TREE),
    "a target below a symlink that leads out": on_base("COPY one /leads-out/new\n", TREE),
    # patterns
    "a star": on_base("COPY *.txt /srv/\nCOPY dir/* /srv/d/\n", TREE),
    "a star in the middle": on_base("COPY t*.txt /srv/\nCOPY d*/sub/b /srv/x\n", TREE),
    "question marks and sets": on_base(
        "COPY ???.txt /srv/\nCOPY [ab]?.[!t]xt [a-c]1 /srv/s/\n",
        {**TREE, "a1.txt": b"", "a1.bxt": b"", "b1": b"", "c1": b"", "d1": b""},
    ),
    "a star that takes all": on_base("COPY * /srv/\n", WHOLE),
    "two stars": on_base("COPY dir/**/*.txt /srv/\n", TREE),
    "a pattern that fits one file": on_base("COPY on* /srv/new\nCOPY thr* /srv/three/\n", TREE),
    "a pattern that fits a directory": on_base("COPY di? /srv/new\n", TREE),
    "a pattern that fits nothing": on_base("COPY one *.none /srv/\n", TREE),
    "a pattern with an escape": on_base(
        'COPY a\\[1\\] /srv/\nCOPY ["[[]b", "/srv/"]\nCOPY ["q\\\\?", "/srv/"]\n',
        {"a[1]": b"1", "[b": b"2", "q?": b"3", "qx": b"4"},
    ),
    "names with blanks": on_base('COPY ["a b", "c d/", "/srv/with blank/"]\n', {"a b": b"1", "c d/e f": b"2"}),
    "names with odd letters": on_base(
        "COPY . /srv/new\n", {"ä": b"1", "a'b": b"2", 'c"d': b"3", "$x": b"4", "#": b"5"}
    ),
    # --chown
    "--chown of numbers": on_base("COPY --chown=7:8 one dir /srv/new/\nCOPY --chown=9 one /srv/n\n", TREE),
    "--chown of names": on_base("COPY --chown=web:extra one /srv/a\nCOPY --chown=web one /srv/b\n", TREE),
    "--chown of a name and a number": on_base("COPY --chown=web:7 one /srv/a\nCOPY --chown=7:web one /srv/b\n", TREE),
    "--chown of a group alone": on_base("COPY --chown=:web one /srv/a\n", TREE),
    "--chown makes parents": on_base("COPY --chown=web:web one /srv/x/y/z\nCOPY --chown=5:5 one /data/n\n", TREE),
    "--chown on a directory that is there": on_base("COPY --chown=5:6 dir /data\n", TREE),
    "--chown with a user of an earlier step": on_base(
        "RUN echo new:x:77:88::/:/bin/sh >>/etc/passwd\nCOPY --chown=new one /srv/a\n", TREE
    ),
    "--chown in an image without passwd": build("FROM scratch\nCOPY --chown=3:4 one /a\n", TREE),
    "USER does not change who owns copies": on_base("USER web\nCOPY one /srv/a\nADD one /srv/b\n", TREE),
    # --chmod
    "--chmod in octal": on_base("COPY --chmod=640 one dir /srv/new/\nCOPY --chmod=0755 one /srv/n\n", TREE),
    "--chmod with further bits": on_base("COPY --chmod=4711 one /srv/n\nCOPY --chmod=1777 dir /srv/d\n", TREE),
    "--chmod in letters": on_base(
        "COPY --chmod=u=rwX,go=rX dir script /srv/new/\nCOPY --chmod=a+x,o-r one /srv/n\nCOPY --chmod=g=u one /srv/m\n",
        TREE,
    ),
    "--chmod makes parents": on_base("COPY --chmod=600 one /srv/x/y/z\n", TREE),
    "--chmod and symlinks": on_base("COPY --chmod=600 dir /srv/new\n", TREE),
    "--chmod of zeros": on_base("COPY --chmod=000 one /srv/n\n", TREE),
    # --link
    "--link": on_base("COPY --link one /srv/n\nCOPY --link dir /srv/d/\n", TREE),
    "--link makes parents": on_base("COPY --link --chown=5:6 one /data/x/y\n", TREE),
    "--link does not see symlinks of the target": on_base("COPY --link one /lib/new\n", TREE),
    "--link from a stage": build("FROM base AS a\nFROM base\nCOPY --link --from=a /data /srv/data\n", TREE),
    "--link set to false": on_base("COPY --link=false one /here/new\n", TREE),
    # --parents
    "--parents": on_base("COPY --parents dir/sub/b one /srv/\nCOPY --parents dir/sub /srv/p\n", TREE),
    "--parents with a pattern": on_base("COPY --parents dir/*/b.txt dir/**/*.txt /srv/p/\n", TREE),
    "--parents with a pivot": on_base("COPY --parents dir/./sub/b ./dir/sub/./deep/ /srv/p/\n", TREE),
    "--parents keeps attributes of directories": on_base("COPY --parents --chown=7:8 dir/sub/deep /srv/p/\n", TREE),
    "--parents from a stage": build(
        "FROM base AS a\nFROM scratch\nCOPY --parents --from=a /data/file /srv/./work /x/\n"
    ),
    # --exclude
    "--exclude": on_base("COPY --exclude=*.txt dir /srv/new\nCOPY --exclude=*.txt . /srv/all/\n", WHOLE),
    "--exclude twice, in depth": on_base("COPY --exclude=**/*.txt --exclude=sub/deep dir /srv/new\n", TREE),
    "--exclude with an exception": on_base("COPY --exclude=*.txt --exclude=!a.txt dir /srv/new\n", TREE),
    "--exclude a directory": on_base("COPY --exclude=sub dir /srv/new\nCOPY --exclude=dir/sub . /srv/all\n", WHOLE),
    "--exclude from a stage": build("FROM base AS a\nFROM scratch\nCOPY --from=a --exclude=tw* /data /d\n"),
    "--exclude with a pattern as source": on_base("COPY --exclude=two.txt *.txt /srv/\n", TREE),
    # --from
    "from a stage, with symlinks": build(
        "FROM base AS a\nFROM scratch\nCOPY --from=a /here/file /abs /lib /srv/x/\nCOPY --from=a /here /here\n"
    ),
    "from a stage, a dangling symlink": build("FROM base AS a\nFROM scratch\nCOPY --from=a /links /links\n"),
    "from a stage, by a pattern": build("FROM base AS a\nFROM scratch\nCOPY --from=a /data/t* /etc/pass?? /d/\n"),
    "from a stage, owners stay": build(
        "FROM base AS a\nFROM scratch\nCOPY --from=a /data /kept\nCOPY --from=a --chown=1:2 /data /given\n"
    ),
    "from a stage, its root": build("FROM scratch AS a\nCOPY dir /d\nFROM base\nCOPY --from=a / /all/\n", TREE),
    "from a stage, extended attributes": build("FROM base AS a\nFROM scratch\nCOPY --from=a /srv/marked /m\n"),
    "from a stage, a relative source": build(
        "FROM base AS a\nWORKDIR /srv\nFROM scratch\nCOPY --from=a data/file /f\n"
    ),
    "from a stage, devices": build(
        "FROM base AS a\nRUN mknod /dev-null c 1 3\nFROM scratch\nCOPY --from=a /dev-null /n\n"
    ),
    "COPY after RUN and RUN after COPY": on_base(
        "RUN mkdir /srv/x && chmod 700 /srv/x\nCOPY one /srv/x/one\nRUN chmod 600 /srv/x/one && rm -r /srv/work\n"
        "COPY dir /srv/work\n",
        TREE,
    ),
}
