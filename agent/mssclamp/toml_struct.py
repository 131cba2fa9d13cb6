"""A TOML file against a msgspec Struct: everything in it that does not fit, with its line.

The Struct is the whole schema: a nested Struct is a table, a tuple of Structs an array of tables, a `Value` a kind of
text, and the description in a field's `Meta` says what would be right.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

from mssclamp.config_values import Value, quoted
from mssclamp.errors import ConfigError
from mssclamp.toml_lines import KeyPath, LineIndex

T = TypeVar("T")

_SYNTAX_HINTS = {
    "Invalid value": 'write texts in "quotes", true and false in small letters, lists in [ ]',
    "Expected '=' after a key": "write key = value, and tables as [name] or [[name]]",
    "Invalid statement": "write key = value, and tables as [name] or [[name]]",
    "Cannot overwrite a value": "keep one of the two",
    "Cannot declare": "keep one of the two",
    "Unclosed array": "close it with ]",
    "Unterminated string": "close it with a quote",
    "Illegal character": "close the text with a quote on its line",
    "Expected newline or end of document": "put each key on a line of its own",
}


@dataclass(frozen=True)
class TomlFile:
    """One file that is valid TOML."""

    path: Path
    text: str = field(repr=False)
    data: dict[str, Any]

    @cached_property
    def index(self) -> LineIndex:
        """Where each key stands; made only when there is something to tell."""
        return LineIndex(self.text)

    def complaint(self, key: KeyPath, message: str) -> str:
        """One line: file:line: key: message."""
        name = ".".join(_bare(part) for part in key if isinstance(part, str))
        return f"{self.path}:{self.index.line(key)}: {name}: {message}"


def read(path: Path) -> TomlFile:
    """Reads one file. Raises ConfigError if it cannot be read or is not TOML."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file", fix="write it, or leave --config away") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", fix="make it a readable file") from None
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8", fix="save it as UTF-8"
        ) from None
    try:
        return TomlFile(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_complaint(path, text, str(error))) from None
    except RecursionError:
        raise ConfigError(f"{path}:1: too many brackets inside each other", fix="write flat tables") from None


def misfits(file: TomlFile, schema: type[msgspec.Struct]) -> list[str]:
    """A complaint for each thing in the file that the Struct does not take."""
    return [file.complaint(key, message) for key, message in _in_table(file.data, schema, (), schema)]


def convert(data: Mapping[str, Any], schema: type[T]) -> T:
    """The Struct, of data that has no misfits."""
    return msgspec.convert(data, schema, dec_hook=_decode)


Misfit = tuple[KeyPath, str]


def _in_table(
    table: Mapping[str, Any], schema: type[msgspec.Struct], at: KeyPath, root: type[msgspec.Struct]
) -> Iterator[Misfit]:
    fields = {each.encode_name: each for each in msgspec.structs.fields(schema)}
    for key, value in table.items():
        if key not in fields:
            yield (*at, key), _unknown(key, fields, root)
            continue
        nested, many = _nested(fields[key].type)
        if nested is None:
            yield from _in_value(value, fields[key].type, (*at, key))
        elif many:
            yield from _in_array(value, nested, (*at, key), root)
        elif isinstance(value, dict):
            yield from _in_table(value, nested, (*at, key), root)
        else:
            yield (*at, key), f"is {_what(value)}; write a table, [{key}]"
    for key, each in fields.items():
        if each.required and key not in table:
            yield at, f"has no {key}; write {key} = {_wants(each.type)}"


def _in_array(value: object, schema: type[msgspec.Struct], at: KeyPath, root: type[msgspec.Struct]) -> Iterator[Misfit]:
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _in_table(item, schema, (*at, number), root)
    else:
        yield at, f"is {'one table' if isinstance(value, dict) else _what(value)}; write [[{at[-1]}]], once for each"


def _in_value(value: Any, kind: Any, at: KeyPath) -> Iterator[Misfit]:
    try:
        msgspec.convert(value, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        message, _, where = str(error).rpartition(" - at `$")
        message = message or str(error)
        for number in re.findall(r"\[(\d+)\]", where):
            at, value = (*at, int(number)), value[int(number)]
        if message.startswith(("Expected `", "Invalid enum value")):
            wrong_kind = ", got `" in message
            message = f"{_what(value) if wrong_kind else _shown(value)} will not do; write {_wants(kind)}"
        yield at, message


def _decode(kind: type[Any], value: Any) -> Any:
    """msgspec's hook for the types it does not know."""
    if issubclass(kind, Value):
        if not isinstance(value, str):
            raise ValueError(f"{_what(value)} will not do; write {kind.wants}")
        return kind.parse(value)
    return kind(value)


def _unknown(key: str, fields: Mapping[str, msgspec.structs.FieldInfo], root: type[msgspec.Struct]) -> str:
    homes = list(_homes(key, root))
    if "" in homes:
        return "does not belong into this table; write it at the top of the file, above the first [table]"
    if homes:
        return f"does not belong here; write it under {' or '.join(homes)}"
    near = difflib.get_close_matches(key, fields, n=1)
    if near:
        return f"unknown key; the nearest known one is {near[0]}"
    return f"unknown key; known here: {', '.join(fields)}"


def _homes(key: str, root: type[msgspec.Struct]) -> Iterator[str]:
    """The tables that do have the key; "" is the top."""
    for each in msgspec.structs.fields(root):
        if each.encode_name == key:
            yield ""
        nested, many = _nested(each.type)
        if nested is not None and any(inner.encode_name == key for inner in msgspec.structs.fields(nested)):
            yield f"[[{each.encode_name}]]" if many else f"[{each.encode_name}]"


def _nested(kind: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The Struct that a field holds, and whether it holds many."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind, False
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            return inner, True
    return None, False


def _wants(kind: Any) -> str:
    """What would be right, from a field's type."""
    if get_origin(kind) is tuple:
        return f"a list in [ ], each item {_wants(get_args(kind)[0])}"
    if get_origin(kind) is Annotated:
        return next(
            note.description for note in kind.__metadata__ if isinstance(note, msgspec.Meta) and note.description
        )
    if isinstance(kind, type) and issubclass(kind, Value):
        return kind.wants
    return next(_wants(inner) for inner in get_args(kind) if inner is not types.NoneType)


def _what(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {quoted(value)}"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else str(value)


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key)


def _syntax_complaint(path: Path, text: str, message: str) -> str:
    found = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    line, column = (found[1], f", column {found[2]}") if found else (text.rstrip().count("\n") + 1, "")
    what = message[: found.start()] if found else message.removesuffix(" (at end of document)")
    hint = next((hint for start, hint in _SYNTAX_HINTS.items() if what.startswith(start)), "see https://toml.io")
    return f"{path}:{line}: not TOML{column}: {what[:1].lower()}{what[1:]}; {hint}"
