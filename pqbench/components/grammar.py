"""The grammar of `--methods`: `pqcad,ptq4dm[w=4,a=8],x[exempt=a*,b]`.

    methods  = method ("," method)*
    method   = name ["[" [option ("," option)*] "]"]
    name     = [distribution ":"] component
    option   = key "=" value

A value runs to the next option: a comma that no `key=` follows belongs to the value, so `exempt=a*,b` is one list.
Brackets inside a value must be balanced and keep their commas; quotes ('...' or "...") take every character as it is,
with backslash escapes in double quotes. Blanks around names, keys and values mean nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NoReturn

from pqbench.base.errors import UserError

KEY: Final = re.compile(r"\s*([A-Za-z_][\w.]*)\s*=")
NAME: Final = re.compile(r"[A-Za-z0-9][\w.:-]*")
LIST: Final = "The list of methods"
DANGLING: Final = re.compile(r",\s*\]")
BARE_VALUE: Final = re.compile(r"[^\s,\[\]'\"\\]+(?:[ ]+[^\s,\[\]'\"\\]+)*")
"""A value that needs no quotes when it is written."""


@dataclass(frozen=True)
class MethodSpec:
    """What the user wrote for one method: its name and its options in the order given."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """The shortest text that `parse_methods` reads back as this."""
        if not self.options:
            return self.name
        return f"{self.name}[{','.join(f'{key}={_quoted(value)}' for key, value in self.options)}]"


def parse_methods(text: str) -> tuple[MethodSpec, ...]:
    """Read a list of methods.

    Raises `UserError` that says what is wrong, at which character, and shows the text split there.
    """
    return _Parser(text).methods()


def parse_sampler(text: str) -> MethodSpec:
    """Read one calibration sampler, `ndtc[preset=text]`. Raises `UserError` as `parse_methods` does."""
    return parse_component(text, "calibration sampler")


def parse_component(text: str, noun: str) -> MethodSpec:
    """Read one component, a `noun`, with its options. Raises `UserError` as `parse_methods` does."""
    specs = _Parser(text, f"The {noun}").methods()
    if len(specs) > 1:
        raise UserError(f"{text} names {len(specs)} {noun}s: give one.")
    return specs[0]


def parse_metrics(text: str) -> tuple[MethodSpec, ...]:
    """Read a list of metrics, `fd,is[splits=5]`. Raises `UserError` as `parse_methods` does."""
    return _Parser(text, "The list of metrics").methods()


def _quoted(value: str) -> str:
    if BARE_VALUE.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Parser:
    """Recursive descent over one text; `at` is the index of the next character."""

    def __init__(self, text: str, what: str = LIST) -> None:
        self.text = text
        self.what = what
        self.at = 0

    def methods(self) -> tuple[MethodSpec, ...]:
        methods = [self._method()]
        while self._next() == ",":
            self.at += 1
            methods.append(self._method())
        if self._next():
            self._fail("expected a comma before the next method")
        return tuple(methods)

    def _method(self) -> MethodSpec:
        self._skip_blanks()
        match = NAME.match(self.text, self.at)
        if match is None:
            self._fail("expected a name" if self.what != LIST else "expected the name of a method")
        self.at = match.end()
        self._skip_blanks()
        return MethodSpec(match[0], self._options() if self._next() == "[" else ())

    def _options(self) -> tuple[tuple[str, str], ...]:
        opened = self.at
        self.at += 1
        options: dict[str, str] = {}
        self._skip_blanks()
        while self._next() != "]":
            key = self._key(opened, options)
            options[key] = self._value(opened)
            if self._next() == ",":
                self.at += 1
        self.at += 1
        self._skip_blanks()
        return tuple(options.items())

    def _key(self, opened: int, known: dict[str, str]) -> str:
        match = KEY.match(self.text, self.at)
        if match is None:
            self._skip_blanks()
            if not self._next():
                self._fail("this bracket is never closed", opened)
            self._fail("expected an option of the form key=value")
        if match[1] in known:
            self._fail(f"the option {match[1]} is given twice", match.start(1))
        self.at = match.end()
        return match[1]

    def _value(self, opened: int) -> str:
        """Everything up to the bracket's end or to a comma that a key follows."""
        self._skip_blanks()
        start, value, depth = self.at, "", 0
        kept = 0  # the length of the value without the blanks at its end
        while depth or not self._value_ends():
            char = self._next()
            if not char:
                self._fail("this bracket is never closed", opened)
            if char in "'\"":
                value += self._quotation()
                kept = len(value)
                continue
            depth += (char == "[") - (char == "]")
            value += char
            self.at += 1
            kept = kept if char.isspace() else len(value)
        if self.at == start:
            self._fail("expected a value; write '' for an empty one")
        return value[:kept]

    def _value_ends(self) -> bool:
        char = self._next()
        if char == "," and DANGLING.match(self.text, self.at):
            self._fail("nothing follows this comma")
        return char == "]" or (char == "," and KEY.match(self.text, self.at + 1) is not None)

    def _quotation(self) -> str:
        """A quoted text, without its quotes."""
        opened, quote = self.at, self._next()
        self.at += 1
        content = ""
        while (char := self._next()) != quote:
            if not char:
                self._fail("this quote is never closed", opened)
            if char == "\\" and quote == '"':
                self.at += 1
                char = self._next()
            content += char
            self.at += 1
        self.at += 1
        return content

    def _next(self) -> str:
        """The next character, or an empty text at the end."""
        return self.text[self.at : self.at + 1]

    def _skip_blanks(self) -> None:
        while self._next().isspace():
            self.at += 1

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        where = self.at if at is None else at
        marked = f"{self.text[:where]} >>> {self.text[where:]}".strip()
        raise UserError(f"{self.what} cannot be read at character {where + 1}: {reason}: {marked}")
