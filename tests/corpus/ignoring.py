""".dockerignore."""

from __future__ import annotations

from corpus.case import Case, build, on_base

FILES = {
    "a": b"1",
    "b.md": b"2",
    "README.md": b"3",
    "dir/a": b"4",
    "dir/b.md": b"5",
    "dir/sub/a": b"6",
    "dir/sub/c.md": b"7",
    "node_modules/x/index": b"8",
    "dir/node_modules/y": b"9",
    ".git/HEAD": b"ref",
    "tmp/": None,
}


def ignoring(text: str | bytes, dockerfile: str = "COPY . /all\n") -> Case:
    data = text if isinstance(text, bytes) else text.encode()
    return on_base(dockerfile, {**FILES, ".dockerignore": data})


IGNORING: dict[str, Case] = {
    "names": ignoring("a\ndir/sub\n"),
    "comments, blanks, slashes": ignoring("# a\n\n  b.md  \n/dir/a\ndir/sub/\n./README.md\n"),
    "a star": ignoring("*.md\n*/a\n"),
    "two stars": ignoring("**/*.md\n**/node_modules\n"),
    "two stars in the middle and at the end": ignoring("dir/**/a\nnode_modules/**\n"),
    "question marks and sets": ignoring("?.md\n[a-b]\ndir/[!a]*\n"),
    "exceptions": ignoring("*.md\n!README.md\n"),
    "an exception and what comes after": ignoring("!README.md\n*.md\n"),
    "all but some": ignoring("*\n!dir/sub\n!a\n"),
    "all but a file in depth": ignoring("**\n!dir/sub/a\n"),
    "an exception below a directory, taken back": ignoring("dir\n!dir/sub\ndir/sub/a\n"),
    "dots": ignoring("./a\ndir/../b.md\n../c\n.\n"),
    "a dot-dot": ignoring("..\ndir/..\n"),
    "the Dockerfile and the file itself": on_base(
        "COPY . /all\n",
        {**FILES, ".dockerignore": b"Dockerfile\n.dockerignore\n", "Dockerfile": b"FROM base\nCOPY . /all\n"},
    ),
    "carriage returns": ignoring(b"a\r\n*.md\r\n"),
    "a byte order mark": ignoring(b"\xef\xbb\xbfa\n"),
    "an escape": on_base("COPY . /all\n", {"a*": b"1", "ab": b"2", ".dockerignore": b"a\\*\n"}),
    "blanks within": on_base("COPY . /all\n", {"a b": b"1", "a": b"2", ".dockerignore": b"a b\n! a\n"}),
    "a directory that is emptied": ignoring("dir/*\n"),
    "a pattern in COPY sees less": ignoring("b.md\n", "COPY *.md dir/*.md /all/\n"),
    "the Dockerfile's own file comes first": build(
        "FROM base\nCOPY . /all\n",
        {
            **FILES,
            ".dockerignore": b"a\n",
            "sub.Dockerfile": b"FROM base\nCOPY . /all\n",
            "sub.Dockerfile.dockerignore": b"*.md\n",
        },
        *("-f", "sub.Dockerfile"),
    ),
    "a bind mount sees less": ignoring("*.md\ntmp\n", "RUN --mount=type=bind,target=/c find /c | sort >/out\n"),
    "a file that is ignored is not there": on_base("COPY a /a\n", {"a": b"1", ".dockerignore": b"a\n"}, fails=True),
    "a file in a directory that is ignored is not there": on_base(
        "COPY d/a /a\n", {"d/a": b"1", ".dockerignore": b"d\n"}, fails=True
    ),
    "a pattern that is wrong": on_base("COPY . /all\n", {"a": b"1", ".dockerignore": b"[a\n"}, fails=True),
    "an exclamation mark alone": on_base("COPY . /all\n", {"a": b"1", ".dockerignore": b"!\n"}, fails=True),
    "a symlink in the way": on_base("COPY . /all\n", {"d/a": b"1", "l": "-> d", ".dockerignore": b"l/a\nd/b\n"}),
}
