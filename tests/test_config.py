"""The configuration: what it means, and every way to get it wrong, told in one line."""

from __future__ import annotations

import os
import re
import tempfile
from datetime import date
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from mssclamp import config
from mssclamp.config import Config, PeerConfig, Settings
from mssclamp.errors import ConfigError
from mssclamp.toml_struct import TomlFile, misfits
from support import require_root

NOBODY = 65534
KEY = "mV3k9Qa1bcdefghijklmnopqrstuvwxyzABCDEFGHI0="

EVERYTHING = f"""\
mode = "enforce"
state_dir = "/srv/clampd"
run_dir = "/run/other"
metrics_listen = "127.0.0.1:9797"
exclude = ["cni*", "docker*"]

[mtu]
min_outer = 1200
recheck = 2.5
raise = 60

[rate]
probes = 0
too_big_per_flow = 1
too_big_per_sender = 2
too_big_per_peer = 3

[underlay]
attach = false
take_icmp = false

[[device]]
name = "wg*"
mode = "observe"
clamp = false
too_big = false
probe = false
route_mtu = true

[[peer]]
name = "branch-7"
device = "gre7"
prefixes = ["10.7.0.0/16", "2001:DB8:7:0::/48"]
endpoint = "192.0.2.7"
overhead = 24
probe_address = "10.7.0.1"
mtu = 1380
probe = false
mode = "observe"

[[peer]]
name = "home"
device = "wg0"
public_key = "{KEY}"

[[tunnel]]
name = "ptun0"
config = "/etc/clampd/ptun0.conf"

[[guard]]
device = "eth0"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clampd.toml"


def load(path: Path, text: str, **drop_ins: str) -> Config:
    path.write_text(text)
    if drop_ins:
        directory = path.parent / "clampd.d"
        directory.mkdir()
        for name, content in drop_ins.items():
            (directory / f"{name}.toml").write_text(content)
    return config.load(path)


def complaints(path: Path, text: str, **drop_ins: str) -> list[str]:
    """What is wrong, a line each, without the directory."""
    with pytest.raises(ConfigError) as raised:
        load(path, text, **drop_ins)
    return str(raised.value).replace(f"{path.parent}/", "").splitlines()


PEER = '[[peer]]\nname = "a"\ndevice = "gre7"\nprefixes = ["10.7.0.0/16"]\n'


# what it means


def test_everything(path):
    got = load(path, EVERYTHING)
    assert got.source == (path,)
    assert (got.mode, got.state_dir, got.run_dir) == ("enforce", "/srv/clampd", "/run/other")
    assert (got.metrics_listen, got.exclude) == ("127.0.0.1:9797", ("cni*", "docker*"))
    assert (got.mtu.min_outer, got.mtu.recheck, got.mtu.raise_) == (1200, 2.5, 60)
    assert (got.rate.probes, got.rate.too_big_per_peer) == (0, 3)
    assert (got.underlay.attach, got.underlay.take_icmp) == (False, False)
    (device,) = got.device
    assert (device.name, device.mode, device.clamp, device.route_mtu) == ("wg*", "observe", False, True)
    branch, home = got.peer
    assert branch == PeerConfig(
        name="branch-7",
        device="gre7",
        prefixes=("10.7.0.0/16", "2001:db8:7::/48"),
        endpoint="192.0.2.7",
        overhead=24,
        probe_address="10.7.0.1",
        mtu=1380,
        probe=False,
        mode="observe",
    )
    assert [str(network) for network in branch.networks] == ["10.7.0.0/16", "2001:db8:7::/48"]
    assert home == PeerConfig(name="home", device="wg0", public_key=KEY)
    assert (got.tunnel[0].name, got.tunnel[0].config) == ("ptun0", "/etc/clampd/ptun0.conf")
    assert got.guard[0].device == "eth0"


def test_nothing_at_all(monkeypatch, path):
    monkeypatch.setattr(config, "DEFAULT_PATH", path)
    assert config.load(None) == Config()
    assert load(path, "") == Config(source=(path,))


def test_the_default_file(monkeypatch, path):
    monkeypatch.setattr(config, "DEFAULT_PATH", path)
    path.write_text('mode = "enforce"')
    assert config.load(None) == Config(mode="enforce", source=(path,))


def test_drop_ins_without_the_default_file(monkeypatch, path):
    monkeypatch.setattr(config, "DEFAULT_PATH", path)
    (path.parent / "clampd.d").mkdir()
    (path.parent / "clampd.d" / "a.toml").write_text('mode = "enforce"')
    assert config.load(None).mode == "enforce"


def test_later_files_override_values_and_append_tables(path):
    got = load(
        path,
        'mode = "observe"\nexclude = ["a*"]\n[mtu]\nraise = 100\nrecheck = 10\n[[device]]\nname = "wg*"\n' + PEER,
        b=PEER.replace('"a"', '"b"').replace("10.7", "10.8"),
        a='mode = "enforce"\nexclude = ["b*"]\n[mtu]\nraise = 200\n[[device]]\nname = "gre*"\n',
    )
    assert got.mode == "enforce"
    assert got.exclude == ("a*", "b*")
    assert (got.mtu.raise_, got.mtu.recheck) == (200, 10)
    assert [device.name for device in got.device] == ["wg*", "gre*"]
    assert [peer.name for peer in got.peer] == ["a", "b"]
    assert [source.name for source in got.source] == ["clampd.toml", "a.toml", "b.toml"]


def test_only_toml_files_are_drop_ins(path):
    directory = path.parent / "clampd.d"
    directory.mkdir()
    for name in ("a.toml~", ".#a.toml", "README", "b.toml.dpkg-new"):
        (directory / name).write_text("not toml at all")
    assert load(path, "").source == (path,)


def test_windows_line_ends_and_byte_order_mark(path):
    path.write_bytes(b'\xef\xbb\xbfmode = "enforce"\r\n[mtu]\r\nraise = 2\r\nx = 1\r\n')
    with pytest.raises(ConfigError, match=r"clampd\.toml:4: mtu\.x: unknown key"):
        config.load(path)


DEVICES = """\
exclude = ["wg9"]
[[device]]
name = "wg*"
mode = "enforce"
[[device]]
name = "wg1*"
[[device]]
name = "wg1"
[[device]]
name = "?re[0-3]"
"""


@pytest.mark.parametrize(
    ("device", "entry"),
    [
        ("wg0", "wg*"),
        ("wg12", "wg*"),
        ("wg1", "wg1"),
        ("gre3", "?re[0-3]"),
        ("gre4", None),
        ("wg9", None),
        ("WG0", None),
    ],
)
def test_device_for(path, device, entry):
    found = load(path, DEVICES).device_for(device)
    assert (found and found.name) == entry


def test_modes_are_inherited(path):
    got = load(path, DEVICES + PEER + PEER.replace('"a"', '"b"').replace("10.7", "10.8") + 'mode = "enforce"\n')
    assert got.mode_for("gre7") == "observe"
    assert got.mode_for("wg0") == "enforce"
    assert got.mode_for("wg1") == "observe"
    assert got.mode_for("gre7", got.peer[0]) == "observe"
    assert got.mode_for("gre7", got.peer[1]) == "enforce"


@pytest.mark.parametrize(
    ("text", "managed"),
    [
        ("", {"wg0", "wg1"}),
        ('exclude = ["*1"]', {"wg0"}),
        ('[[device]]\nname = "wg0"', {"wg0"}),
        ('[[device]]\nname = "gre*"', {"gre7"}),
        ('[[device]]\nname = "gre*"\n[[peer]]\nname = "a"\ndevice = "wg1"\nprefixes = ["::/0"]', {"gre7", "wg1"}),
        (PEER, {"wg0", "wg1", "gre7"}),
        ('[[tunnel]]\nname = "eth0"\nconfig = "/x"', {"wg0", "wg1", "eth0"}),
        ('[[device]]\nname = "*"', {"wg0", "wg1", "gre7", "eth0"}),
        ('exclude = ["*"]\n[[device]]\nname = "*"', set()),
    ],
)
def test_manages(path, text, managed):
    got = load(path, text)
    names = ("wg0", "wg1", "gre7", "eth0")
    assert {name for name in names if got.manages(name, is_wireguard=name.startswith("wg"))} == managed


def test_not_yet(path):
    told = load(path, EVERYTHING).not_yet
    assert [sentence.partition(":")[0] for sentence in told] == [
        "metrics_listen",
        "tunnel",
        "guard",
    ]
    assert "metrics_listen: this version does not serve metrics over TCP yet" in told
    assert load(path, PEER + "mtu = 1380").not_yet == ()


def _wrong_everywhere(schema: type[msgspec.Struct]) -> dict[str, object]:
    """For every field of every table a value that none takes."""
    wrong: dict[str, object] = {}
    for each in msgspec.structs.fields(schema):
        inner = (*get_args(each.type), each.type)[0]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            nested = _wrong_everywhere(inner)
            wrong[each.encode_name] = [nested] if get_args(each.type) else nested
        else:
            wrong[each.encode_name] = date(2026, 1, 31)
    return wrong


def test_every_field_says_what_would_be_right(path):
    file = TomlFile(path, "", _wrong_everywhere(Settings))
    told = misfits(file, Settings)
    assert len(told) == 33
    assert all(re.search(r": a date or time will not do; write \S", each) for each in told)


# what is wrong


SIZE = "write a whole number of bytes from 576 to 65535"
ONE_DEVICE = 'write the name of one device, such as "wg0"'
DEVICES_WANTED = 'write the name of a device or a pattern such as "wg*"'
LISTEN = 'write an address and a port such as "127.0.0.1:9797" or "[::1]:9797"'
MODE = 'write "observe" or "enforce"'
TOO_LONG = "is longer than 15 bytes, the most that a device's name can have"

UNKNOWN_KEYS = [
    ("mode = 'observe'\nmod = 1", "2: mod: unknown key; the nearest known one is mode"),
    (PEER + "prefixs = []", "5: peer.prefixs: unknown key; the nearest known one is prefixes"),
    ("\n[zebra]\nx = 1", "2: zebra: unknown key; known here: " + ", ".join(Settings.__struct_fields__)),
    ("raise = 3", "1: raise: does not belong here; write it under [mtu]"),
    ("clamp = true", "1: clamp: does not belong here; write it under [[device]]"),
    (
        "[mtu]\nexclude = []",
        "2: mtu.exclude: does not belong into this table; write it at the top of the file, above the first [table]",
    ),
]

WRONG_TYPES = [
    ("mode = 3", f"1: mode: the number 3 will not do; {MODE}"),
    ('mode = "enforced"', f'1: mode: "enforced" will not do; {MODE}'),
    ("mode = true", f"1: mode: true will not do; {MODE}"),
    ("mode = 2026-01-31", f"1: mode: a date or time will not do; {MODE}"),
    ("run_dir = 3", "1: run_dir: the number 3 will not do; write a path that begins with /"),
    (
        'exclude = "cni*"',
        '1: exclude: the text "cni*" will not do; write a list in [ ], each item '
        + DEVICES_WANTED.removeprefix("write "),
    ),
    ('exclude = [\n "a*",\n 3,\n]', f"3: exclude: the number 3 will not do; {DEVICES_WANTED}"),
    (PEER + 'mtu = "1380"', f'5: peer.mtu: the text "1380" will not do; {SIZE}'),
    (PEER + "mtu = 1380.0", f"5: peer.mtu: the number 1380.0 will not do; {SIZE}"),
    (PEER + "mtu = [1380]", f"5: peer.mtu: a list will not do; {SIZE}"),
    (PEER + "probe = 1", "5: peer.probe: the number 1 will not do; write true or false"),
    (
        PEER + "[peer.endpoint]",
        '5: peer.endpoint: a table will not do; write "192.0.2.7", "192.0.2.7:51820", "2001:db8::1" or '
        '"[2001:db8::1]:51820"',
    ),
    ("mtu = 1400", "1: mtu: is the number 1400; write a table, [mtu]"),
    ("peer = 3", "1: peer: is the number 3; write [[peer]], once for each"),
    ("[peer]\nname = 'a'", "1: peer: is one table; write [[peer]], once for each"),
    ("peer = [1]", "1: peer: is a list; write [[peer]], once for each"),
    ("[[mtu]]", "1: mtu: is a list; write a table, [mtu]"),
]

OUT_OF_RANGE = [
    (PEER + "mtu = 575", f"5: peer.mtu: 575 will not do; {SIZE}"),
    (PEER + "mtu = 65536", f"5: peer.mtu: 65536 will not do; {SIZE}"),
    (PEER + "mtu = 99999999999999999999", None),
    ("[mtu]\nmin_outer = 0", f"2: mtu.min_outer: 0 will not do; {SIZE}"),
    ("[mtu]\nrecheck = 0.5", "2: mtu.recheck: 0.5 will not do; write a number of seconds from 1 to 86400"),
    ("[mtu]\nraise = inf", "2: mtu.raise: inf will not do; write a number of seconds from 1 to 86400"),
    ("[mtu]\nraise = nan", "2: mtu.raise: nan will not do; write a number of seconds from 1 to 86400"),
    ("[rate]\nprobes = -1", "2: rate.probes: -1 will not do; write a whole number from 0 to 1000000"),
    (PEER + "overhead = -1", "5: peer.overhead: -1 will not do; write a whole number of bytes from 0 to 500"),
    (PEER + "overhead = 501", "5: peer.overhead: 501 will not do; write a whole number of bytes from 0 to 500"),
]

WRONG_TEXTS = [
    ('state_dir = "var"', '1: state_dir: "var" is not an absolute path; write a path that begins with /'),
    ('metrics_listen = "9797"', f'1: metrics_listen: "9797" is not an address with its port; {LISTEN}'),
    ('metrics_listen = "127.0.0.1:0"', '1: metrics_listen: "127.0.0.1:0" has port 0; write a port from 1 to 65535'),
    ('metrics_listen = "localhost:1"', f'1: metrics_listen: "localhost:1" has no address before its port; {LISTEN}'),
    ('[[device]]\nname = ""', f'2: device.name: "" is empty; {DEVICES_WANTED}'),
    ('[[device]]\nname = "wg[0"', f'2: device.name: "wg[0" has a [ without its ]; {DEVICES_WANTED}'),
    (
        '[[device]]\nname = "a/b"',
        f'2: device.name: "a/b" cannot be a device\'s name: no blanks, / or : in it; {DEVICES_WANTED}',
    ),
    ('[[device]]\nname = "wg *"', None),
    ('[[device]]\nname = "sixteen-letters-"', f'2: device.name: "sixteen-letters-" {TOO_LONG}; {DEVICES_WANTED}'),
    ('[[guard]]\ndevice = "ääääääää"', f'2: guard.device: "ääääääää" {TOO_LONG}; {ONE_DEVICE}'),
    ('[[guard]]\ndevice = "eth*"', f'2: guard.device: "eth*" is a pattern; {ONE_DEVICE}'),
    (
        "[[device]]\nmode = 'observe'",
        '1: device: has no name; write name = the name of a device or a pattern such as "wg*"',
    ),
    ("[[tunnel]]\nname = 'x'", "1: tunnel: has no config; write config = a path that begins with /"),
]

CONTRADICTIONS = [
    (
        '[[device]]\nname = "wg*"\n[[device]]\nname = "wg*"',
        '4: device.name: "wg*" is the name of two [[device]] (the other: clampd.toml:2); keep one of them',
    ),
    (
        'exclude = ["gre*"]\n' + PEER,
        '4: peer.device: "gre7" is named here, and exclude has "gre*"; take one of the two away',
    ),
    (
        'exclude = ["p*"]\n[[tunnel]]\nname = "ptun0"\nconfig = "/x"',
        '3: tunnel.name: "ptun0" is named here, and exclude has "p*"; take one of the two away',
    ),
    (
        PEER + PEER.replace("10.7", "10.8"),
        '6: peer.name: "a" is the name of two [[peer]] (the other: clampd.toml:2); keep one of them',
    ),
    (
        PEER + PEER.replace('"a"', '"b"').replace('["10', '[\n"::/0", "10'),
        '9: peer.prefixes: "10.7.0.0/16" on gre7 is claimed by peer "a" (clampd.toml:4) and peer "b"; '
        "give it to one of them",
    ),
]


@pytest.mark.parametrize(
    ("text", "complaint"), [*UNKNOWN_KEYS, *WRONG_TYPES, *OUT_OF_RANGE, *WRONG_TEXTS, *CONTRADICTIONS]
)
def test_complaint(path, text, complaint):
    (told,) = complaints(path, text)
    if complaint is None:
        assert told.startswith("clampd.toml:")
    else:
        assert told == f"clampd.toml:{complaint}"


PEER_COMPLAINTS = [
    (
        "name",
        '""',
        "is no name for a peer; write up to 64 letters, digits and . _ @ + - beginning with a letter or digit",
    ),
    ("name", '"a b"', None),
    ("name", '"-a"', None),
    ("name", f'"{"x" * 65}"', None),
    ("name", '"10.7.0.1"', 'is an address, and clampctl would take it for one; write a name such as "branch-7"'),
    ("device", '"gre7 "', None),
    ("device", '".."', None),
    ("device", '"wg0:1"', None),
    ("device", '"w\\u001bg"', None),
    ("prefixes", '["10.7.0.1/16"]', 'has host bits set; write "10.7.0.0/16"'),
    ("prefixes", '["2001:db8::1/64"]', 'has host bits set; write "2001:db8::/64"'),
    ("prefixes", '["10.7.0.0/33"]', 'is not a prefix; write a prefix such as "10.7.0.0/16" or "2001:db8:7::/48"'),
    ("prefixes", '["fe80::%eth0/64"]', 'has a zone; write "fe80::/64" without it'),
    ("prefixes", '["nonsense"]', None),
    ("prefixes", '[""]', None),
    ("endpoint", '"gw.example"', None),
    ("endpoint", '"192.0.2.7:"', None),
    ("endpoint", '"192.0.2.7:65536"', "has port 65536; write a port from 1 to 65535"),
    ("endpoint", '"2001:db8::1:51820:1:1:1:1:1"', None),
    ("endpoint", '"[192.0.2.7]:1"', None),
    ("endpoint", '"[2001:db8::1]"', None),
    ("probe_address", '"10.7.0.1/32"', 'is not an address; write an address such as "10.7.0.1" or "2001:db8:7::1"'),
    ("probe_address", '"10.8.0.1"', "is outside the peer's prefixes; write one inside"),
]


@pytest.mark.parametrize(("key", "value", "complaint"), PEER_COMPLAINTS)
def test_complaint_about_a_peer(path, key, value, complaint):
    values = {"name": '"a"', "device": '"gre7"', "prefixes": '["10.7.0.0/16"]'} | {key: value}
    (told,) = complaints(path, "[[peer]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()))
    line = 2 + list(values).index(key)
    assert told.startswith(f"clampd.toml:{line}: peer.{key}: ")
    assert told.endswith(complaint or "")
    assert "; write " in told


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('public_key = "abc"', '4: peer.public_key: "abc" is not a public key; write the 44 characters that `wg show` '
         "prints, ending in ="),
        (f'public_key = "{KEY[:-2]}1="', None),  # same length, bits beyond the 32 bytes
        (f'public_key = "{KEY}"\nprefixes = ["::/0"]', "4: peer.public_key: stands beside prefixes; keep public_key "
         "for a WireGuard peer, prefixes for any other"),
        (f'public_key = "{KEY}"\nendpoint = "192.0.2.7"', "5: peer.endpoint: stands beside public_key; take it away, "
         "WireGuard knows the endpoint"),
        ("", "1: peer: has no prefixes; write prefixes = [...], or public_key for a WireGuard peer"),
        ("prefixes = []", "1: peer: has no prefixes; write prefixes = [...], or public_key for a WireGuard peer"),
        ('prefixes = ["::/0",\n"::/0"]', '5: peer.prefixes: "::/0" stands twice in this peer; write it once'),
    ],
)  # fmt: skip
def test_complaint_about_whose_peer_it_is(path, text, complaint):
    (told,) = complaints(path, f'[[peer]]\nname = "a"\ndevice = "wg0"\n{text}')
    assert told.startswith("clampd.toml:")
    assert told.endswith(complaint or "")


def test_a_peer_without_anything(path):
    assert complaints(path, "[[peer]]") == [
        "clampd.toml:1: peer: has no name; write name = up to 64 letters, digits and . _ @ + - beginning with a letter "
        "or digit",
        'clampd.toml:1: peer: has no device; write device = the name of one device, such as "wg0"',
    ]


def test_the_same_key_for_two_peers(path):
    peer = '[[peer]]\nname = "{}"\ndevice = "{}"\npublic_key = "' + KEY + '"\n'
    (told,) = complaints(path, peer.format("a", "wg0") + peer.format("b", "wg0"))
    assert f'"{KEY}" on wg0 is claimed by peer "a" (clampd.toml:4) and peer "b"' in told
    assert load(path, peer.format("a", "wg0") + peer.format("b", "wg1")).peer[1].name == "b"


def test_the_same_prefix_on_two_devices_is_two_peers(path):
    other = PEER.replace('"a"', '"b"').replace("gre7", "gre8")
    assert len(load(path, PEER + other).peer) == 2


def test_all_mistakes_of_a_file_at_once(path):
    assert len(complaints(path, 'mode = 3\nmod = 1\n[mtu]\nraise = 0\n[[peer]]\nname = "a b"\nmtu = 1\n')) == 6


def test_mistakes_name_their_file(path):
    told = complaints(path, PEER, x="\n[[peer]]\n" + PEER.partition("\n")[2])
    assert told[0] == (
        'clampd.d/x.toml:3: peer.name: "a" is the name of two [[peer]] (the other: clampd.toml:2); keep one of them'
    )
    assert told[1].startswith('clampd.d/x.toml:5: peer.prefixes: "10.7.0.0/16" on gre7 is claimed by peer "a" ')


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mode = observe", '1: not TOML, column 8: invalid value; write texts in "quotes", true and false in small '
         "letters, lists in [ ]"),
        ("\n\nmode", "3: not TOML: expected '=' after a key in a key/value pair; write key = value, and tables as "
         "[name] or [[name]]"),
        ("a = 1\na = 2\n", "2: not TOML, column 6: cannot overwrite a value; keep one of the two"),
        ("[mtu]\n[mtu]", "2: not TOML, column 5: cannot declare ('mtu',) twice; keep one of the two"),
        ('x = "a', "1: not TOML: unterminated string; close it with a quote"),
        ("x = [1,\n2\n\n", "2: not TOML: unclosed array; close it with ]"),
        ("x = " + "[" * 5000, "1: too many brackets inside each other; write flat tables"),
    ],
)  # fmt: skip
def test_what_is_not_toml(path, text, complaint):
    assert complaints(path, text) == [f"clampd.toml:{complaint}"]


def test_not_utf8(path):
    path.write_bytes(b'mode = "observe"\n# caf\xe9\n')
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert str(raised.value) == f"{path}:2: byte 0xe9 is not UTF-8; save it as UTF-8"


def test_no_such_file(path):
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert str(raised.value) == f"{path}: there is no such file; write it, or leave --config away"


def test_a_directory_in_place_of_the_file(path):
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory; make it a readable file"):
        config.load(path)


@pytest.mark.parametrize("what", ["clampd.toml", "clampd.d"])
def test_unreadable(what):
    require_root()
    with tempfile.TemporaryDirectory() as directory:  # unlike tmp_path one that everybody may enter
        path = Path(directory) / "clampd.toml"
        load(path, "", a="")
        os.chmod(directory, 0o755)
        os.chmod(path.parent / what, 0)
        os.seteuid(NOBODY)
        try:
            with pytest.raises(ConfigError, match=rf"{what}: cannot be read: Permission denied; make it "):
                config.load(path)
        finally:
            os.seteuid(0)


def test_complaints_are_one_line_whatever_the_text(path):
    (told,) = complaints(path, '"a\\nb" = 1')
    assert told.startswith('clampd.toml:1: "a\\nb": unknown key')
    (told,) = complaints(path, 'mode = "a\\n\\u001b[31m' + "x" * 500 + '"')
    assert len(told) < 200
    assert told.isprintable()
