"""Patterns of .dockerignore (pure), exactly as in moby/patternmatcher: the last pattern that matches a path, or
a directory above it, decides; ``!`` includes again; ``**`` matches any number of directories. COPY's ``--exclude``
and ``--parents`` use the same patterns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from lamina.build.patterns.globs import check, clean
from lamina.build.patterns.go_regexp import translated
from lamina.errors import LimitExceeded, UsageError

MAX_LINE = 64 << 10
_BOM = "\ufeff"
# Go's strings.TrimSpace; Python's strip() also takes the separators U+001C to U+001F
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_NEVER = "\0"  # in no path: moby cuts a byte order mark in the middle
_MAX_STARS = 8
"""In a pattern that Python's engine can match only by trying."""
_ESCAPED = frozenset(".+()$")  # moby means {, | and } too, but a shift loses them
_MAGIC = frozenset("*[]?^\\")

Above = int
"""Which patterns match a directory, as bits: given to the paths in it."""


def names_of_ignore_files(dockerfile: str) -> list[str]:
    """The names of the ignore files in the order in which they count: beside the Dockerfile, then in the context."""
    return [f"{dockerfile}.containerignore", f"{dockerfile}.dockerignore", ".containerignore", ".dockerignore"]


def read_ignore_file(data: bytes, name: str = ".dockerignore") -> list[str]:
    """The patterns of an ignore file. Raises LimitExceeded for a line that is too long."""
    found: list[str] = []
    for number, raw in enumerate(data.split(b"\n")):
        if len(raw) >= MAX_LINE:
            raise LimitExceeded(f"{name}:{number + 1}: the line is too long", hint=f"use less than {MAX_LINE} bytes")
        line = raw.removesuffix(b"\r").decode("utf-8", "surrogateescape")
        if number == 0:
            line = line.removeprefix(_BOM)
        if line.startswith("#"):
            continue
        line = line.strip(_SPACE)
        if not line:
            continue
        inverted = line.startswith("!")
        if inverted:
            line = line[1:].strip(_SPACE)
        if line:
            line = clean(line)
            line = line[1:] if len(line) > 1 and line.startswith("/") else line
        found.append("!" + line if inverted else line)
    return found


class Patterns:
    """A list of patterns, compiled. Paths are relative, with slashes, without a leading or an ending one; bytes that
    are not UTF-8 are surrogates (``os.fsdecode``)."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises UsageError for a pattern that moby refuses."""
        self._patterns = [_Pattern(text) for raw in patterns if (text := raw.strip(_SPACE))]
        self.has_exceptions = any(one.includes for one in self._patterns)
        exceptions = [one.text for one in self._patterns if one.includes]
        self._exceptions = [_without_ending(text) + "/" for text in exceptions]
        self._can_prune = not any(_MAGIC & set(_without_ending(text)) for text in exceptions)
        names = [_without_ending(one.text) for one in self._patterns if not one.includes]
        self._prefixes = None if any(_MAGIC & set(name) for name in names) else [f"{name}/" for name in names]
        self._any: Callable[[str], bool] | None = None if self.has_exceptions else _any_of(self._patterns)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: str, above: Above | None = None) -> tuple[bool, Above]:
        """Whether the path matches, and what to give for the paths in it. ``above``: what this returned for the
        directory; None where it is not known, or the path is at the top. Raises UsageError (the pattern can't be
        compiled)."""
        if above is None and "/" in path:
            return self._match_alone(path)
        if self._any is not None:
            found = bool(above) or self._any(path)
            return found, int(found)
        matched, bits = False, 0
        for number, pattern in enumerate(self._patterns):
            hit = bool(above and above >> number & 1)
            if not hit:
                if pattern.includes != matched:
                    continue
                hit = pattern.matches(path)
            if hit:
                bits |= 1 << number
                matched = not pattern.includes
        return matched, bits

    def _match_alone(self, path: str) -> tuple[bool, Above]:
        parts = path.split("/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts))]
        if self._any is not None:
            found = self._any(path) or any(map(self._any, above))
            return found, int(found)
        matched, bits = False, 0
        for number, pattern in enumerate(self._patterns):
            if pattern.includes != matched:
                continue
            if pattern.matches(path) or any(map(pattern.matches, above)):
                bits |= 1 << number
                matched = not pattern.includes
        return matched, bits

    def may_except_below(self, directory: str) -> bool:
        """Whether a ``!`` pattern may match something in this directory, which matches itself."""
        if not self.has_exceptions:
            return False
        return not self._can_prune or any(text.startswith(f"{directory}/") for text in self._exceptions)

    def may_match_below(self, directory: str) -> bool:
        """Whether something in this directory, which does not match itself, may match."""
        return self._prefixes is None or any(text.startswith(f"{directory}/") for text in self._prefixes)


class _Pattern:
    """One pattern. ``includes``: it begins with ``!``. It is compiled when it is first used, as moby does it: only
    then a bad one is an error."""

    def __init__(self, text: str) -> None:
        self._given = text
        text = clean(text)
        self.includes = text.startswith("!")
        if self.includes:
            text = text[1:]
            if not text:
                raise UsageError("'!' is not a pattern", hint="name the path to include after the !")
        check(text)
        self.text = text
        self._fits: Callable[[str], object] | None = None

    def matches(self, path: str) -> bool:
        if self._fits is None:
            self._fits = self._compiled()
        return bool(self._fits(path))

    @property
    def form(self) -> tuple[str, str]:
        """How it matches (exact, prefix, suffix or regexp), and the text for it."""
        text = self.text.removeprefix(_BOM)  # moby's scanner skips one
        kind, out, at, first = "exact", "^", 0, True
        while at < len(text):
            char = text[at]
            at += 1
            if char == "*" and text.startswith("*", at):
                at += 1
                at += text.startswith("/", at)
                if at == len(text):
                    if kind == "exact":
                        kind = "prefix"
                    else:
                        kind, out = "regexp", f"{out}.*"
                else:
                    kind, out = "regexp", f"{out}(.*/)?"
                if first:
                    kind = "suffix"
            elif char == "*":
                kind, out = "regexp", f"{out}[^/]*"
            elif char == "?":
                kind, out = "regexp", f"{out}[^/]"
            elif char in _ESCAPED:
                out += f"\\{char}"
            elif char == "\\":
                if at < len(text):
                    kind, out = "regexp", f"{out}\\{text[at]}"
                    at += 1
                else:
                    out += "\\"
            else:
                kind = "regexp" if char in "[]" else kind
                out += char
            first = False
        whole = self.text
        return {
            "exact": ("exact", whole),
            "prefix": ("prefix", whole[:-2]),
            "suffix": ("suffix", whole[2:] if whole.startswith("**") else f"{_NEVER}{whole}"),
            "regexp": ("regexp", f"{out}$"),
        }[kind]

    @property
    def expression(self) -> str:
        """The regular expression, for a pattern with the form regexp. Raises UsageError."""
        found = _without_backtracking(self.text)
        if found is None and self.text.count("*") > _MAX_STARS:
            raise UsageError(f"more than {_MAX_STARS} stars", hint="give each ** a path component of its own: **/")
        return found or translated(self.form[1])

    def _compiled(self) -> Callable[[str], object]:
        kind, text = self.form
        if kind == "exact":
            return text.__eq__
        if kind == "prefix":
            return lambda path: path.startswith(text)
        if kind == "suffix":
            whole = text[1:] if text.startswith("/") else None
            return lambda path: path.endswith(text) or path == whole
        return _regexp(self._given, self)


def _regexp(given: str, pattern: _Pattern) -> Callable[[str], object]:
    try:
        return re.compile(pattern.expression).search
    except UsageError as error:
        error.message = f"{given!r:.200}: {error.message}"
        raise
    except (re.error, OverflowError, RecursionError):
        raise UsageError(f"{given!r:.200} is not a pattern") from None


_SIMPLE = re.compile(
    r"""(?P<directories>\*\*/?) | (?P<star>\*) | (?P<any>\?) | (?P<set>\[(?:[A-Za-z0-9](?:-[A-Za-z0-9])?)+\])
    | \\(?P<escaped>[^A-Za-z0-9\n]) | (?P<plain>[^*?\[\]\\{}|^\n])""",
    re.VERBOSE,
)


def _without_backtracking(text: str) -> str | None:
    """An expression for ordinary patterns that takes no exponential time. Go's engine takes linear time; Python's
    tries all ways to share a path among the stars.

    What stands between two ``**`` takes the first place where it fits (an atomic group). It must end with a slash:
    then what follows fits behind a later place only if it also fits behind this one. The same holds for what stands
    between two ``*``, which take no slash. None for other patterns.
    """
    parts: list[list[str]] = [[""]]  # between **: what stands between *
    ended = True  # by a slash, or nothing is there yet
    at = 0
    while at < len(text):
        found = _SIMPLE.match(text, at)
        if found is None or (at == 0 and text.startswith(_BOM)):
            return None
        at = found.end()
        if found["directories"]:
            if not ended or at == len(text):
                return None
            if len(parts) == 1 or parts[-1] != [""]:
                parts.append([""])
            continue
        if found["star"]:
            parts[-1].append("")
        else:
            plain = found["escaped"] or found["plain"]
            parts[-1][-1] += re.escape(plain) if plain else found["set"] or "[^/]"
        ended = found["plain"] == "/"
    *above, last = parts
    *inner, end = last
    pieces = [*map(_part, above), f"{_part(inner)}[^/]*{end}" if inner else end]
    expression = pieces[0]
    for number, piece in enumerate(pieces[1:], 2):
        expression += f"(?:.*/)?{piece}" if number == len(pieces) else f"(?>(?:.*?/)??{piece})"
    return rf"\A{expression}\Z"


def _part(chunks: list[str]) -> str:
    return chunks[0] + "".join(f"(?>[^/]*?{chunk})" for chunk in chunks[1:])


def _any_of(patterns: Sequence[_Pattern]) -> Callable[[str], bool] | None:
    """One test for a list without exceptions: whether any pattern matches. None where the patterns must be tried one
    by one, because one of them is an error only if it is tried."""
    exact: set[str] = set()
    prefixes: list[str] = []
    suffixes: list[str] = []
    expressions: list[str] = []
    for pattern in patterns:
        kind, text = pattern.form
        if kind == "exact":
            exact.add(text)
        elif kind == "prefix":
            prefixes.append(text)
        elif kind == "suffix":
            suffixes.append(text)
            if text.startswith("/"):
                exact.add(text[1:])
        else:
            try:
                _regexp(text, pattern)
            except UsageError:
                return None
            expressions.append(f"(?:{pattern.expression})")
    starts, ends = tuple(prefixes), tuple(suffixes)
    search = re.compile("|".join(expressions)).search if expressions else None

    def matches(path: str) -> bool:
        return (
            path in exact
            or (bool(starts) and path.startswith(starts))
            or (bool(ends) and path.endswith(ends))
            or (search is not None and search(path) is not None)
        )

    return matches


def _without_ending(text: str) -> str:
    return text.removesuffix("/**").removesuffix("/*")
