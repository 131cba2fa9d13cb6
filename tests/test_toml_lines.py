"""Lines of keys, against texts written by hand and texts whose lines the writer counted."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mssclamp.toml_lines import KeyPath, LineIndex

TEXT = '''\
# a comment with [brackets] and "quotes
mode = "observe"
exclude = [   # items
    "cni*",   # ] not the end
    "docker*", "veth*",

    'wg]9',
]
text = """
[[peer]]
mtu = 1 \\"""
"""  # still one value
literal = \'\'\'
key = 3
\'\'\'\'\'
table.inner."quoted.key" = 1
table.inner.'other' = 2

[mtu]
min_outer = 1280

[[peer]]
name = "a"
points = { x = 1, "y" = [1, { z = 2 }] }

[peer.sub]
deep = true
[[peer.list]]
n = 1
[[peer.list]]
n = 2

  [[ peer ]]  # indented
mtu = 1400
name = "b = 3"
[peer.list]
at = 1979-05-27T07:32:00Z
'''

LINES = {
    ("mode",): 2,
    ("exclude",): 3,
    ("exclude", 0): 4,
    ("exclude", 1): 5,
    ("exclude", 2): 5,
    ("exclude", 3): 7,
    ("text",): 9,
    ("literal",): 13,
    ("table",): 16,
    ("table", "inner"): 16,
    ("table", "inner", "quoted.key"): 16,
    ("table", "inner", "other"): 17,
    ("mtu",): 19,
    ("mtu", "min_outer"): 20,
    ("peer",): 22,
    ("peer", 0): 22,
    ("peer", 0, "name"): 23,
    ("peer", 0, "points"): 24,
    ("peer", 0, "points", "x"): 24,
    ("peer", 0, "points", "y"): 24,
    ("peer", 0, "points", "y", 0): 24,
    ("peer", 0, "points", "y", 1): 24,
    ("peer", 0, "points", "y", 1, "z"): 24,
    ("peer", 0, "sub"): 26,
    ("peer", 0, "sub", "deep"): 27,
    ("peer", 0, "list"): 28,
    ("peer", 0, "list", 0): 28,
    ("peer", 0, "list", 0, "n"): 29,
    ("peer", 0, "list", 1): 30,
    ("peer", 0, "list", 1, "n"): 31,
    ("peer", 1): 33,
    ("peer", 1, "mtu"): 34,
    ("peer", 1, "name"): 35,
    ("peer", 1, "list"): 36,
    ("peer", 1, "list", "at"): 37,
}


def paths(value: Any, at: KeyPath = ()) -> set[KeyPath]:
    """Every key and item of parsed TOML."""
    found = {at} - {()}
    if isinstance(value, dict):
        found |= {path for key, inner in value.items() for path in paths(inner, (*at, key))}
    if isinstance(value, list):
        found |= {path for number, inner in enumerate(value) for path in paths(inner, (*at, number))}
    return found


def test_every_key_on_its_line():
    assert LineIndex(TEXT).lines == LINES
    assert set(LINES) == paths(tomllib.loads(TEXT))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("peer", 1, "device"), 33),
        (("peer", 7, "mtu"), 22),
        (("mtu", "raise", 3), 19),
        (("nothing",), 1),
        ((), 1),
    ],
)
def test_a_missing_key_stands_at_its_table(path, line):
    assert LineIndex(TEXT).line(path) == line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n# nothing",
        'a = ""',
        "a = ''",
        'a = """"""',
        "a = ''''''",
        'a = """"x"""""',
        "a = ''''x'''''",
        'a = "\\"]\\\\"\nb = 1',
        'a = """\\\n  x \\"" """\nb = 1',
        "a = '\\'\nb = 1",
        "a=[]\nb=[\n]\nc=[1,]\nd=[[],[[]]]",
        "a={}\nb={c={}}",
        '"" = 1\n["x"."b"]\nx = 1\n["x".""]',
        '"\\u0061\\n\\U0001F600" = 1',
        "a . b = 1\n[ c . d ]\n[ c . e ]",
        "[a.b]\nx = 1\n[a]\ny = 1",
        "[[a]]\n[[a.b]]\n[a.b.c]\nx=1\n[[a.b]]\n[a.b.c]\nx=1\n[[a]]\n[[a.b]]",
        "1 = 1\n-_ = 2\ntrue = false",
        "a = -inf # x\nb = 1e3\nc = 07:32:00",
    ],
)
def test_the_same_keys_as_tomllib(text):
    assert set(LineIndex(text).lines) == paths(tomllib.loads(text))


# texts of any kind, whose writer knows the lines


@dataclass
class Writer:
    """Writes TOML and notes on which line each path first appears."""

    text: str = ""
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def write(self, text: str) -> None:
        self.text += text

    def note(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)


keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6)
tricky = st.sampled_from(["]", "}", "[[x]]", "#", "=", ",", '"', "'", "\\", "a\nb = 1\n", "\n[x]\n", "é"])
texts = st.lists(tricky, max_size=4).map("".join)
scalars = st.one_of(texts, st.integers(-9, 9), st.booleans())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
tables = st.dictionaries(keys, values, max_size=4)
documents = st.dictionaries(keys, st.one_of(values, tables, st.lists(tables, min_size=1, max_size=3)), max_size=5)


@settings(max_examples=200, deadline=None)
@given(document=documents, data=st.data())
def test_any_text(document, data):
    writer = Writer()
    simple = {key: value for key, value in document.items() if not _is_table(value)}
    for key, value in simple.items():
        _write_pair(writer, data, (), key, value)
    for key, value in document.items():
        if key not in simple:
            many = isinstance(value, list)
            for number, table in enumerate(value if many else [value]):
                writer.write(data.draw(st.sampled_from(["", "\n", "# [[no]]\n", "  \t"])))
                path: KeyPath = (key, number) if many else (key,)
                writer.note((key,))
                writer.note(path)
                writer.write(f"[[ {_key(key)} ]]\n" if many else f"[{_key(key)}] # x\n")
                for inner, content in table.items():
                    _write_pair(writer, data, path, inner, content)
    assert tomllib.loads(writer.text) == document
    assert LineIndex(writer.text).lines == writer.lines


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
    )


def _write_pair(writer: Writer, data: Any, at: KeyPath, key: str, value: Any) -> None:
    writer.note((*at, key))
    writer.write(f"{_key(key)} = ")
    _write_value(writer, data, (*at, key), value, inline=False)
    writer.write(data.draw(st.sampled_from(["\n", " # x = 1\n", "\n\n"])))


def _write_value(writer: Writer, data: Any, path: KeyPath, value: Any, *, inline: bool) -> None:
    if isinstance(value, dict):
        writer.write("{ ")
        for number, (key, inner) in enumerate(value.items()):
            writer.write(", " if number else "")
            writer.note((*path, key))
            writer.write(f"{_key(key)} = ")
            _write_value(writer, data, (*path, key), inner, inline=True)
        writer.write(" }")
    elif isinstance(value, list):
        breaks = st.sampled_from(["", " "] if inline else ["", " ", "\n", " # ] x\n  "])
        writer.write("[" + data.draw(breaks))
        for number, inner in enumerate(value):
            writer.write("," + data.draw(breaks) if number else "")
            writer.note((*path, number))
            _write_value(writer, data, (*path, number), inner, inline=inline)
        writer.write(data.draw(breaks) + "]")
    elif isinstance(value, str):
        writer.write(data.draw(st.sampled_from(_spellings(value))))
    else:
        writer.write(json.dumps(value))


def _key(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


def _spellings(text: str) -> list[str]:
    """The ways to write a text that are possible for it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    ways = [json.dumps(text, ensure_ascii=False), f'"""\n{escaped}"""']
    if "'" not in text:
        ways.append(f"'''\n{text}'''")
        if "\n" not in text:
            ways.append(f"'{text}'")
    return ways
