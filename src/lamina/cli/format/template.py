"""Go templates, as in ``--format`` of docker and podman (pure): fields, variables, pipelines, parentheses, ``if``,
``with``, ``range``, the functions of Go and docker.

The template comes from the user, but the values come from an image and may be hostile: steps and output are limited.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lamina.cli.format.template_record import Record
from lamina.cli.format.template_tree import (
    Branch,
    Command,
    Constant,
    Dot,
    Fields,
    Function,
    Loop,
    Node,
    Operand,
    Output,
    Pipe,
    Text,
    Variable,
    bad,
    parse,
)
from lamina.cli.format.template_values import FUNCTIONS, Fault, Heading, call, heading_call, is_list, show
from lamina.errors import LimitExceeded, UsageError

_STEPS = 1_000_000
_LENGTH = 64 << 20


class Template:
    """A parsed template. Raises UsageError if it is invalid."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._nodes = parse(source, FUNCTIONS)

    def render(self, value: Any) -> str:
        """Return the text for one value. Raises UsageError if the template uses a field that the value does not have,
        LimitExceeded if the value makes the output too large."""
        if isinstance(value, Mapping) and not isinstance(value, Record):
            value = Record(value)
        return _Run(self.source, value).text(self._nodes)

    def heading(self, headings: Mapping[str, str]) -> str:
        """Return the heading line of a table: the template, filled with the headings. If that fails, the headings of
        the fields in the template."""
        value = Record({name: Heading(text) for name, text in headings.items()})
        try:
            return _Run(self.source, value, of_headings=True).text(self._nodes)
        except (UsageError, LimitExceeded):
            return "\t".join(headings.get(name, Heading.of(name)) for name in _fields(self._nodes))


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Run:
    """One rendering: its variables and its output so far."""

    def __init__(self, source: str, root: Any, *, of_headings: bool = False) -> None:
        self._source = source
        self._root = root
        self._of_headings = of_headings
        self._variables: list[tuple[str, Any]] = [("$", root)]
        self._out: list[str] = []
        self._steps = self._length = 0

    def text(self, nodes: tuple[Node, ...]) -> str:
        self._walk(nodes, self._root)
        return "".join(self._out)

    def _walk(self, nodes: tuple[Node, ...], dot: Any) -> None:
        for node in nodes:
            self._steps += 1
            if self._steps > _STEPS:
                raise LimitExceeded(
                    f"template {self._source!r:.200}: more than {_STEPS} steps for one value",
                    hint="make the template simpler",
                )
            if isinstance(node, Text):
                self._write(node.text)
            elif isinstance(node, Output):
                value = self._pipe(node.pipe, dot)
                if not node.pipe.names:
                    self._write(show(value))
            elif isinstance(node, Branch):
                self._branch(node, dot)
            elif isinstance(node, Loop):
                self._loop(node, dot)
            else:
                raise _Break if node.word == "break" else _Continue

    def _write(self, text: str) -> None:
        self._length += len(text)
        if self._length > _LENGTH:
            raise LimitExceeded(
                f"template {self._source!r:.200}: more than {_LENGTH >> 20} MiB for one value",
                hint="make the template simpler",
            )
        self._out.append(text)

    def _branch(self, node: Branch, dot: Any) -> None:
        scope = len(self._variables)
        value = self._pipe(node.pipe, dot)
        if value:
            self._walk(node.body, value if node.word == "with" else dot)
        else:
            self._walk(node.otherwise, dot)
        del self._variables[scope:]

    def _loop(self, node: Loop, dot: Any) -> None:
        scope = len(self._variables)
        value = self._pipe(Pipe(node.pipe.commands), dot)
        empty = True
        for key, item in self._items(value, node):
            empty = False
            self._steps += 1
            if self._steps > _STEPS:
                raise LimitExceeded(
                    f"template {self._source!r:.200}: more than {_STEPS} steps for one value",
                    hint="make the template simpler",
                )
            inner = len(self._variables)
            names = node.pipe.names
            for name, one in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                self._set(name, one, node.pipe.declares)
            try:
                self._walk(node.body, item)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                del self._variables[inner:]
        if empty:
            self._walk(node.otherwise, dot)
        del self._variables[scope:]

    def _items(self, value: Any, node: Loop) -> Iterator[tuple[Any, Any]]:
        if value is None:
            return iter(())
        if isinstance(value, Mapping):
            return iter(sorted(value.items(), key=lambda item: str(item[0])))
        if is_list(value):
            return iter(enumerate(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return ((number, number) for number in range(value))
        if self._of_headings:
            return iter([(Heading(""), value)])
        raise bad(self._source, node.at, f"range over a value that is not a list: {show(value)!r:.60}")

    def _set(self, name: str, value: Any, declares: bool) -> None:
        if declares:
            self._variables.append((name, value))
            return
        at = max(number for number, (known, _) in enumerate(self._variables) if known == name)
        self._variables[at] = (name, value)

    # Values

    def _pipe(self, pipe: Pipe, dot: Any) -> Any:
        value: Any = None
        for number, command in enumerate(pipe.commands):
            value = self._command(command, dot, [value] if number else [])
        for name in pipe.names:
            self._set(name, value, pipe.declares)
        return value

    def _command(self, command: Command, dot: Any, piped: list[Any]) -> Any:
        head, *rest = command.words
        if not isinstance(head, Function):
            if not rest and not piped:
                return self._operand(head, dot, command)
            arguments = [self._operand(word, dot, command) for word in rest] + piped
            return self._operand(head, dot, command, arguments)
        try:
            if head.name in ("and", "or"):
                return self._logic(head.name == "or", rest, dot, command, piped)
            arguments = [self._operand(word, dot, command) for word in rest] + piped
            return (heading_call if self._of_headings else call)(head.name, arguments)
        except Fault as fault:
            raise bad(self._source, command.at, str(fault)) from None
        except RecursionError:
            raise bad(self._source, command.at, "the value is nested too deeply") from None

    def _logic(self, wanted: bool, words: list[Operand], dot: Any, command: Command, piped: list[Any]) -> Any:
        """Return the first value that decides the result, else the last one. Later words are not evaluated."""
        value: Any = None
        for word in words:
            value = self._operand(word, dot, command)
            if bool(value) == wanted:
                return value
        return call("or", piped or [value]) if words or piped else call("or", [])

    def _operand(self, word: Operand, dot: Any, command: Command, arguments: list[Any] | None = None) -> Any:
        if isinstance(word, Constant):
            return word.value
        if isinstance(word, Dot):
            return dot
        if isinstance(word, Variable):
            return next(value for name, value in reversed(self._variables) if name == word.name)
        if isinstance(word, Function):
            return (heading_call if self._of_headings else call)(word.name, [])
        if isinstance(word, Pipe):
            return self._pipe(word, dot)
        value = self._operand(word.of, dot, command)
        for number, name in enumerate(word.names):
            last = number == len(word.names) - 1
            value = self._field(value, name, command, arguments if last else None)
        return value

    def _field(self, value: Any, name: str, command: Command, arguments: list[Any] | None) -> Any:
        if isinstance(value, Heading) or (self._of_headings and isinstance(value, Record)):
            found = value.get(name) if isinstance(value, Record) else None
            return Heading.of(name) if found is None else found
        if value is None:
            found = None
        elif isinstance(value, Record):
            try:
                found = value.find(name)
            except KeyError:
                known = ", ".join(value.names) or "none"
                raise bad(self._source, command.at, f"no field .{name}", f"known fields: {known:.700}") from None
        elif isinstance(value, Mapping):
            found = value.get(name)
        else:
            raise bad(self._source, command.at, f".{name} of something that has no fields")
        if callable(found):
            try:
                return found(*(arguments or ()))
            except TypeError:
                raise bad(self._source, command.at, f".{name} takes one argument") from None
        if arguments:
            known = "functions: " + ", ".join(sorted(FUNCTIONS))
            raise bad(self._source, command.at, f".{name} is a field, and takes no arguments", known)
        return found


def _fields(nodes: tuple[Node, ...]) -> Iterator[str]:
    """Yield the names of the printed fields, in order."""
    for node in nodes:
        if isinstance(node, Output):
            for command in node.pipe.commands:
                for word in command.words:
                    if isinstance(word, Fields):
                        yield word.names[-1]
        elif isinstance(node, Branch | Loop):
            yield from _fields(node.body)
