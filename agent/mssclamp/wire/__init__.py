"""Bytes on the wire: what packets mean, and the arithmetic of their sizes.

PURE: bytes in, values out; the standard library alone, no sockets, no clock. Whatever here reads bytes from
the network raises `MalformedError` and nothing else.
"""

from __future__ import annotations


class MalformedError(ValueError):
    """These bytes are not what they claim to be; the text says at which field."""
