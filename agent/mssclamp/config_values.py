"""The kinds of text that a configuration holds: what each must look like, and what to write instead.

PURE. `parse()` returns the text in its one canonical form, or raises ValueError with what is wrong and what would be
right, in one line, parted by a semicolon.
"""

from __future__ import annotations

import base64
import binascii
import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import ClassVar, Self

IFNAMSIZ = 16
"""Linux: bytes of a device's name with its final zero (uapi/linux/if.h)."""


class Value(str):
    """Text of one kind."""

    __slots__ = ()

    wants: ClassVar[str]
    """What would be right, to follow the word "write"."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The text in its canonical form. Raises ValueError."""
        raise NotImplementedError


class DeviceName(Value):
    """The name of one network device."""

    __slots__ = ()
    wants = 'the name of one device, such as "wg0"'

    @classmethod
    def parse(cls, text: str) -> Self:
        if any(sign in text for sign in "*?["):
            raise _wrong(cls, text, "is a pattern")
        return cls(_device_text(cls, text, len(text.encode())))


class DevicePattern(Value):
    """The name of a device, or a pattern of names as in a shell."""

    __slots__ = ()
    wants = 'the name of a device or a pattern such as "wg*"'

    @classmethod
    def parse(cls, text: str) -> Self:
        without_classes = re.sub(r"\[!?\]?[^]]*\]", "?", text)
        if "[" in without_classes:
            raise _wrong(cls, text, "has a [ without its ]")
        return cls(_device_text(cls, text, len(without_classes.replace("*", "").encode())))

    @property
    def is_plain(self) -> bool:
        """Whether it names one device."""
        return not any(sign in self for sign in "*?[")


class PeerName(Value):
    """What people call a peer."""

    __slots__ = ()
    wants = "up to 64 letters, digits and . _ @ + - beginning with a letter or digit"

    @classmethod
    def parse(cls, text: str) -> Self:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", text):
            raise _wrong(cls, text, "is no name for a peer")
        try:
            ip_address(text)
        except ValueError:
            return cls(text)
        raise _wrong(cls, text, "is an address, and clampctl would take it for one", 'a name such as "branch-7"')


class Prefix(Value):
    """An IPv4 or IPv6 prefix."""

    __slots__ = ()
    wants = 'a prefix such as "10.7.0.0/16" or "2001:db8:7::/48"'

    @classmethod
    def parse(cls, text: str) -> Self:
        without_zone = re.sub("%[^/]*", "", text)
        try:
            network = ip_network(without_zone, strict=False)
        except ValueError:
            raise _wrong(cls, text, "is not a prefix") from None
        if without_zone != text:
            raise _wrong(cls, text, "has a zone", f'"{network}" without it')
        if ip_address(text.partition("/")[0]) != network.network_address:
            raise _wrong(cls, text, "has host bits set", f'"{network}"')
        return cls(network)


class Address(Value):
    """One IPv4 or IPv6 address."""

    __slots__ = ()
    wants = 'an address such as "10.7.0.1" or "2001:db8:7::1"'

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            return cls(ip_address(text))
        except ValueError:
            raise _wrong(cls, text, "is not an address") from None


class Endpoint(Value):
    """An outer address, with or without a port."""

    __slots__ = ()
    wants = '"192.0.2.7", "192.0.2.7:51820", "2001:db8::1" or "[2001:db8::1]:51820"'

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            return cls(ip_address(text))
        except ValueError:
            return cls(_with_port(cls, text))


class ListenAddress(Value):
    """An address of this machine and a TCP port."""

    __slots__ = ()
    wants = 'an address and a port such as "127.0.0.1:9797" or "[::1]:9797"'

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(_with_port(cls, text))


class PublicKey(Value):
    """A WireGuard public key in base64."""

    __slots__ = ()
    wants = "the 44 characters that `wg show` prints, ending in ="

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            key = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != 32 or base64.b64encode(key).decode() != text:
            raise _wrong(cls, text, "is not a public key")
        return cls(text)


class AbsolutePath(Value):
    """A path from the root."""

    __slots__ = ()
    wants = "a path that begins with /"

    @classmethod
    def parse(cls, text: str) -> Self:
        if not text.startswith("/") or "\0" in text:
            raise _wrong(cls, text, "is not an absolute path")
        return cls(text)


def quoted(text: str) -> str:
    """The text as a TOML string, on one line and not too long."""
    import json

    shown = text if len(text) <= 60 else text[:59] + "…"
    return json.dumps(shown, ensure_ascii=False)


def _wrong(kind: type[Value], text: str, what: str, right: str | None = None) -> ValueError:
    return ValueError(f"{quoted(text)} {what}; write {right or kind.wants}")


def _device_text(kind: type[Value], text: str, shortest: int) -> str:
    """What the kernel accepts as a name (net/core/dev.c, dev_valid_name). `shortest` in bytes is the shortest match."""
    if not text:
        raise _wrong(kind, text, "is empty")
    if shortest >= IFNAMSIZ:
        raise _wrong(kind, text, f"is longer than {IFNAMSIZ - 1} bytes, the most that a device's name can have")
    if text in (".", "..") or any(sign in "/:" or sign.isspace() or not sign.isprintable() for sign in text):
        raise _wrong(kind, text, "cannot be a device's name: no blanks, / or : in it")
    return text


def _with_port(kind: type[Value], text: str) -> str:
    match = re.fullmatch(r"(?:\[(?P<v6>[^]]*)\]|(?P<v4>[^:]*)):(?P<port>[0-9]{1,5})", text)
    if match is None:
        raise _wrong(kind, text, "is not an address with its port")
    port = int(match["port"])
    try:
        address = IPv4Address(match["v4"]) if match["v6"] is None else IPv6Address(match["v6"])
    except ValueError:
        raise _wrong(kind, text, "has no address before its port") from None
    if not 1 <= port <= 65535:
        raise _wrong(kind, text, f"has port {port}", "a port from 1 to 65535")
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
