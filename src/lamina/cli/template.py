"""The part of Go's templates that ``--format`` is used with in practice (pure).

Fields (``.``, ``.Config.Env``), pipelines, ``if``/``else``/``range``/``end``, trim markers, and the functions
docker documents: json, upper, lower, title, join, split, println, len, index, truncate, pad.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lamina.errors import UsageError

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|\||\(|\)|[^\s|()]+')
_ESCAPES = {"\\t": "\t", "\\n": "\n"}

Render = Callable[[Any, Any], str]  # (dot, root) -> text


class Template:
    """A parsed template. Raises UsageError where it does not parse, or names what is not there."""

    def __init__(self, source: str) -> None:
        self.source = source
        for escape, character in _ESCAPES.items():
            source = source.replace(escape, character)
        pieces = _split(source)
        self._parts, rest = _block(pieces, source)
        if rest is not None:
            raise _bad(source, f"unexpected {{{{{rest}}}}}")

    def render(self, value: Any) -> str:
        return "".join(part(value, value) for part in self._parts)

    def fields(self) -> list[str]:
        """The top-level field names in order, for a table's header."""
        return re.findall(r"\{\{[^}]*?\.([A-Za-z][\w.]*)", self.source)


def _split(source: str) -> Iterator[tuple[str, str]]:
    position, trim = 0, False
    for match in _ACTION.finditer(source):
        text = source[position : match.start()]
        if trim:
            text = text.lstrip()
        if match.group(1):
            text = text.rstrip()
        if text:
            yield "text", text
        yield "action", match.group(2).strip()
        trim = bool(match.group(3))
        position = match.end()
    text = source[position:]
    if trim:
        text = text.lstrip()
    if "{{" in text:
        raise _bad(source, "an action is not closed")
    if text:
        yield "text", text


def _block(pieces: Iterator[tuple[str, str]], source: str) -> tuple[list[Render], str | None]:
    """Parts up to ``else``, ``end`` or the end; and the word that ended it."""
    parts: list[Render] = []
    for kind, text in pieces:
        if kind == "text":
            parts.append(lambda dot, root, text=text: text)  # type: ignore[misc]
            continue
        if text.startswith("/*"):
            continue
        word, _, rest = text.partition(" ")
        if word in ("end", "else"):
            return parts, text
        if word in ("if", "range", "with"):
            body, stop = _block(pieces, source)
            otherwise: list[Render] = []
            if stop == "else":
                otherwise, stop = _block(pieces, source)
            if stop != "end":
                raise _bad(source, f"{word} without end")
            parts.append(_control(word, _pipeline(rest, source), body, otherwise))
        else:
            parts.append(_output(_pipeline(text, source)))
    return parts, None


def _output(evaluate: Callable[[Any, Any], Any]) -> Render:
    return lambda dot, root: _show(evaluate(dot, root))


def _control(word: str, evaluate: Callable[[Any, Any], Any], body: list[Render], otherwise: list[Render]) -> Render:
    def render(dot: Any, root: Any) -> str:
        value = evaluate(dot, root)
        if not value:
            return "".join(part(dot, root) for part in otherwise)
        if word == "if":
            return "".join(part(dot, root) for part in body)
        if word == "with":
            return "".join(part(value, root) for part in body)
        items = value.values() if isinstance(value, Mapping) else value
        return "".join(part(item, root) for item in items for part in body)

    return render


def _pipeline(text: str, source: str) -> Callable[[Any, Any], Any]:
    tokens = _TOKEN.findall(text)
    stages: list[list[str]] = [[]]
    for token in tokens:
        if token == "|":
            stages.append([])
        elif token in "()":
            raise _bad(source, "parentheses are not known here; use a pipeline")
        else:
            stages[-1].append(token)
    if any(not stage for stage in stages):
        raise _bad(source, f"empty command in {{{{{text}}}}}")

    def evaluate(dot: Any, root: Any) -> Any:
        value, piped = None, False
        for stage in stages:
            arguments = [_operand(token, dot, root, source) for token in stage[1:]]
            if piped:
                arguments.append(value)
            head = stage[0]
            if head in _FUNCTIONS:
                try:
                    value = _FUNCTIONS[head](*arguments)
                except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
                    raise _bad(source, f"{head}: {error}") from None
            elif arguments:
                raise _bad(source, f"{head!r} is no function", known=True)
            else:
                value = _operand(head, dot, root, source)
            piped = True
        return value

    return evaluate


def _operand(token: str, dot: Any, root: Any, source: str) -> Any:
    if token[0] == '"':
        try:
            return json.loads(token)
        except ValueError:
            raise _bad(source, f"bad string {token}") from None
    if token[0] == "`":
        return token[1:-1]
    if token.lstrip("-").isdigit():
        return int(token)
    if token in ("true", "false"):
        return token == "true"
    base = dot
    if token.startswith("$"):
        base, token = root, token[1:] or "."
    if not token.startswith("."):
        raise _bad(source, f"{token!r} is no field or function", known=True)
    for name in filter(None, token.split(".")):
        if isinstance(base, Mapping):
            if name not in base:
                known = ", ".join(sorted(map(str, base))) or "none"
                raise UsageError(f"template {source!r:.200}: no field .{name}", hint=f"there are: {known:.500}")
            base = base[name]
        elif base is None:
            return None
        else:
            raise _bad(source, f".{name} of something that has no fields")
    return base


def _show(value: Any) -> str:
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_show(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + " ".join(map(_show, value)) + "]"
    return str(value)


def _json(value: Any) -> str:
    """One line. Letters stay letters; whatever no terminal should get is escaped as JSON has it, so that nobody has
    to escape it in another way."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "upper": lambda text: str(text).upper(),
    "lower": lambda text: str(text).lower(),
    "title": lambda text: str(text).title(),
    "join": lambda items, separator="": separator.join(map(_show, items or [])),
    "split": lambda text, separator: str(text).split(separator),
    "println": lambda *items: " ".join(map(_show, items)) + "\n",
    "print": lambda *items: "".join(map(_show, items)),
    "len": len,
    "index": lambda value, *keys: _index(value, keys),
    "truncate": lambda text, length: str(text)[:length],
    "pad": lambda text, before, after: " " * before + str(text) + " " * after,
}


def _index(value: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value


def _bad(source: str, why: str, *, known: bool = False) -> UsageError:
    hint = "functions: " + ", ".join(sorted(_FUNCTIONS)) if known else "like '{{.Field}}' or '{{json .}}'"
    return UsageError(f"template {source!r:.200}: {why}", hint=hint)
