"""Where in a TOML text each key stands, which tomllib does not tell.

PURE. Only for texts that tomllib has accepted: it reads structure, not values, and checks nothing.
"""

from __future__ import annotations

import re

KeyPath = tuple[str | int, ...]
"""Keys from the top; numbers count the items of arrays and arrays of tables: ("peer", 2, "prefixes", 0)."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Longest delimiter first; a multi-line text may end with up to two quotes of its own before the delimiter.
_BASIC = re.compile(r'"""(?:\\.|[^\\])*?"""(?:"{1,2}(?!"))?|"(?:\\.|[^"\\])*"', re.DOTALL)
_LITERAL = re.compile(r"'''.*?'''(?:'{1,2}(?!'))?|'[^']*'", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(["\\bfnrt]))')
_SHORT_ESCAPES = {'"': '"', "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class LineIndex:
    """The line (from 1) of every key and array item of one text."""

    def __init__(self, text: str) -> None:
        self.lines = _Scanner(text).scan()

    def line(self, path: KeyPath) -> int:
        """The line of this key, or of the nearest table around it where the key itself is missing."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Scanner:
    """One pass over a text. `lines` holds the first line on which each path appears."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted_to = 0
        self._line = 1
        self._items: dict[KeyPath, int] = {}  # arrays of tables, and how many tables each has so far
        self.lines: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                self._at += 2
                table = self._header(item=True)
                self._at += 2
            elif self._text.startswith("[", self._at):
                self._at += 1
                table = self._header(item=False)
                self._at += 1
            else:
                self._key_value(table)
            self._skip(_BLANK)
        return self.lines

    def _header(self, *, item: bool) -> KeyPath:
        """[a.b] or [[a.b]]: each part that is an array of tables stands for its last table."""
        line = self._here()
        *outer, last = self._key()
        path: KeyPath = ()
        for part in outer:
            path = self._last_item((*path, part), line)
        path = (*path, last)
        if not item:
            return self._last_item(path, line)
        self._note(path, line)
        self._items[path] = self._items.get(path, 0) + 1
        return self._last_item(path, line)

    def _last_item(self, path: KeyPath, line: int) -> KeyPath:
        self._note(path, line)
        if path in self._items:
            path = (*path, self._items[path] - 1)
            self._note(path, line)
        return path

    def _key_value(self, table: KeyPath) -> None:
        line = self._here()
        for part in self._key():
            table = (*table, part)
            self._note(table, line)
        self._at += 1  # the equals sign
        self._skip(_SPACES)
        self._value(table)

    def _key(self) -> list[str]:
        """A dotted key; ends before `=` or `]`."""
        parts = []
        while True:
            self._skip(_SPACES)
            match self._text[self._at]:
                case '"':
                    parts.append(_unescape(self._take(_BASIC)[1:-1]))
                case "'":
                    parts.append(self._take(_LITERAL)[1:-1])
                case _:
                    parts.append(self._take(_BARE_KEY))
            self._skip(_SPACES)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        match self._text[self._at]:
            case '"':
                self._take(_BASIC)
            case "'":
                self._take(_LITERAL)
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                self._take(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        count = 0
        while self._more("]"):
            item = (*path, count)
            self._note(item, self._here())
            self._value(item)
            count += 1

    def _inline_table(self, path: KeyPath) -> None:
        while self._more("}"):
            self._key_value(path)

    def _more(self, end: str) -> bool:
        """Steps over the opening bracket or a comma; at the closing bracket over that, and is False."""
        self._skip(_BLANK)
        if self._text[self._at] != end:
            self._at += 1
            self._skip(_BLANK)
        if self._text[self._at] != end:
            return True
        self._at += 1
        return False

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"not TOML at character {self._at}")
        self._at = match.end()
        return match[0]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _note(self, path: KeyPath, line: int) -> None:
        self.lines.setdefault(path, line)

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        short, long, letter = match[1], match[2], match[3]
        return _SHORT_ESCAPES[letter] if letter else chr(int(short or long, 16))

    return _ESCAPE.sub(replace, text)
