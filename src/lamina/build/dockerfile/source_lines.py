"""The lines of a Dockerfile (pure): parser directives, comments, continuations, the content of here-documents.

Bytes that are not UTF-8: in comments they mean nothing; in the here-documents of COPY they stay (as lone surrogates);
in RUN they are refused, since no runtime spec can hold them; elsewhere they become U+FFFD, with a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.build.dockerfile.words import SPACES
from lamina.build.errors import DockerfileError
from lamina.build.instructions import At, Directive, HereDocument
from lamina.text import clean

if TYPE_CHECKING:
    from lamina.build.dockerfile.statements import HereWord

MAX_SIZE = 8 << 20
MAX_LINE = (64 << 10) - 1
"""Bytes of one line: BuildKit's limit."""

_DIRECTIVE = re.compile(rf"#[{SPACES}]*([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*\Z")
_DIRECTIVES = ("syntax", "escape", "check")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(slots=True)
class Joined:
    """The line of an instruction, its continuations joined. ``pieces``: for each line of the file its offset in
    ``text``, its number and its first column. ``comments``: those right above."""

    text: str
    pieces: list[tuple[int, int, int]]
    comments: tuple[str, ...] = ()

    @property
    def first(self) -> int:
        """The number of the first line."""
        return self.pieces[0][1]

    def place(self, offset: int) -> tuple[int, int]:
        """The line and column of an offset."""
        offset = min(offset, max(len(self.text) - 1, 0))
        start, number, column = next(piece for piece in reversed(self.pieces) if piece[0] <= offset)
        return number, column + offset - start


class SourceLines:
    """Reads the lines of a Dockerfile, from the first to the last."""

    def __init__(self, data: bytes, file: str) -> None:
        self.file = file
        self.directives: list[Directive] = []
        self.blanks: list[At] = []
        self.notes: list[str] = []
        self.escape = "\\"
        self.lines: list[str] = []
        if len(data) > MAX_SIZE:
            raise self.error(f"larger than {MAX_SIZE >> 20} MiB", 1)
        self.text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        self.lines = self.text.split("\n")
        if self.lines[-1] == "":
            self.lines.pop()
        self.next = 0

    def error(self, problem: str, line: int, column: int = 1, hint: str | None = None) -> DockerfileError:
        text = self.lines[line - 1].rstrip("\r") if 0 < line <= len(self.lines) else ""
        return DockerfileError(problem, at=At(self.file, line, line), column=column, line=text, hint=hint)

    def take(self) -> str | None:
        """The next line without its end; None at the end."""
        if self.next >= len(self.lines):
            return None
        line = self.lines[self.next]
        self.next += 1
        if len(line) > MAX_LINE // 4 and len(line.encode("utf-8", "surrogateescape")) > MAX_LINE:
            raise self.error(
                f"the line has more than {MAX_LINE:,} bytes", self.next, hint="break it with a \\ at its end"
            )
        return line

    def instructions(self) -> Iterator[Joined]:
        """The lines of the instructions. Before the next one is asked for, here-documents are read."""
        comments: list[str] = []
        in_directives, has_shebang = True, False
        while (line := self.take()) is not None:
            line = line.rstrip("\r")
            stripped = line.lstrip(SPACES)
            if in_directives:
                has_shebang = has_shebang or (self.next == 1 and stripped.startswith("#!"))
                if not (self.next == 1 and has_shebang):
                    in_directives = self.directive(stripped, has_shebang)
                    if in_directives:
                        continue
            if stripped.startswith("#"):
                comment = _SURROGATE.sub("\ufffd", stripped[1:].strip(SPACES))
                if comment:
                    comments.append(comment)
                else:
                    comments.clear()
                continue
            if stripped:
                joined = self.joined(stripped, len(line) - len(stripped) + 1)
                joined.comments = tuple(comments)
                yield joined
                comments.clear()

    def directive(self, line: str, has_shebang: bool) -> bool:
        """Whether the line is a parser directive."""
        found = _DIRECTIVE.match(line)
        name = found[1].lower() if found else ""
        if found is None or name not in _DIRECTIVES or (name == "escape" and has_shebang):
            return False
        number = self.next
        if any(one.name == name for one in self.directives):
            raise self.error(f"a second directive {name}", number, hint="keep one of them")
        self.directives.append(Directive(name, found[2], At(self.file, number, number)))
        if name == "escape":
            if found[2] not in ("\\", "`"):
                raise self.error(
                    f"the escape character is {clean(found[2])}", number, found.start(2) + 1, hint="choose \\ or `"
                )
            self.escape = found[2]
        return True

    def joined(self, line: str, column: int) -> Joined:
        """The line with those that continue it."""
        pieces = [(0, self.next, column)]
        line, goes_on = self.continued(line)
        parts, size, has_blank = [line], len(line), False
        while goes_on and (following := self.take()) is not None:
            following = following.rstrip("\r")
            stripped = following.lstrip(SPACES)
            if stripped.startswith("#"):
                continue
            if not stripped:
                has_blank = True
                continue
            following, goes_on = self.continued(following)
            pieces.append((size, self.next, 1))
            parts.append(following)
            size += len(following)
        if has_blank:
            self.blanks.append(At(self.file, self.next, self.next))
        joined = Joined("".join(parts), pieces)
        if "\0" in joined.text:
            raise self.error("a NUL character", *joined.place(joined.text.find("\0")), "save the file as UTF-8 text")
        self.replace_bytes(joined)
        return joined

    def replace_bytes(self, joined: Joined) -> None:
        """Replace bytes that are not UTF-8."""
        offset = _not_utf8(joined.text)
        if offset < 0:
            return
        number, column = joined.place(offset)
        words = [word.upper() for word in joined.text.split(maxsplit=2)]
        if "RUN" in words[: 2 if words[0] == "ONBUILD" else 1]:
            raise self.error("a byte that is not UTF-8", number, column, "save the file as UTF-8 text")
        joined.text = _SURROGATE.sub("\ufffd", joined.text)
        self.notes.append(f"{clean(self.file)}:{number}:{column}: a byte that is not UTF-8 is replaced")

    def continued(self, line: str) -> tuple[str, bool]:
        """The line without its continuation character, and whether it had one. Two escape characters are none."""
        stripped = line.rstrip(" \t")
        if stripped.endswith(self.escape) and not stripped.endswith(self.escape * 2):
            return stripped[:-1], True
        return line, False

    def here_document(self, word: HereWord, keeps_bytes: bool) -> HereDocument:
        """Read the lines up to the one with its name."""
        first = self.next
        lines: list[str] = []
        while (line := self.take()) is not None:
            end = line.rstrip("\r")
            if (end.lstrip("\t") if word.tabs else end) == word.name:
                content = "".join(lines)
                if not keeps_bytes and _not_utf8(content) >= 0:
                    raise self.error(f"the here-document {clean(word.name)} is not UTF-8", first)
                if not word.tabs:
                    return HereDocument(word.name, content, word.expand)
                return HereDocument(word.name, _LEADING_TABS.sub("", content), word.expand, content)
            lines.append(line + ("\n" if self.next < len(self.lines) or self.text.endswith("\n") else ""))
        raise self.error(
            f"the here-document {clean(word.name)} has no end",
            first,
            hint=f"add a line that is only {clean(word.name)}",
        )


def _not_utf8(text: str) -> int:
    """The offset of the first byte that is not UTF-8; -1: there is none."""
    found = None if text.isascii() else _SURROGATE.search(text)
    return found.start() if found else -1
