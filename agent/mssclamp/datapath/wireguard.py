"""The peers of WireGuard devices: the kernel's over generic netlink, user-space ones over their API socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping

from mssclamp.datapath.links import Link, wireguard_socket
from mssclamp.errors import DatapathError
from mssclamp.wire import MalformedError, wgapi, wgnl
from mssclamp.wire.wireguard import WireGuardPeer

_NETLINK_GENERIC = 16

_TRIES = 3
"""Listings begun again because the peers changed meanwhile."""

_MAX_ANSWER = 32 << 20
"""Bytes that a program may tell: some 80,000 peers."""

Peers = Mapping[bytes, WireGuardPeer]
"""By public key."""


def read_peers(link: Link, patience: float) -> Peers:
    """The peers of a WireGuard device, by public key, within `patience` seconds.

    Raises DatapathError if whoever drives the device does not tell them.
    """
    deadline = time.monotonic() + patience
    try:
        return _from_kernel(link, deadline) if link.kind == "wireguard" else _from_program(link, deadline)
    except (TimeoutError, BlockingIOError):
        raise DatapathError(f"{link.name}: its peers were not told within {patience:.1f} s") from None
    except MalformedError as error:
        raise DatapathError(f"{link.name}: its peers were told in words that make no sense: {error}") from None
    except OSError as error:
        raise DatapathError(f"{link.name}: its peers cannot be asked for: {error.strerror or error}") from None


def _from_program(link: Link, deadline: float) -> Peers:
    path = wireguard_socket(link.name)
    if path is None:
        raise DatapathError(f"{link.name}: its API socket is gone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as program:
        _wait_until(program, deadline)
        try:
            program.connect(str(path))
        except ConnectionRefusedError:
            raise DatapathError(f"{link.name}: nobody answers on {path}", fix="start its program again") from None
        program.sendall(wgapi.REQUEST)
        answer = bytearray()
        while not answer.endswith(wgapi.END):
            _wait_until(program, deadline)
            piece = program.recv(1 << 18)
            if not piece:
                raise MalformedError("the answer has no end")
            answer += piece
            if len(answer) > _MAX_ANSWER:
                raise MalformedError(f"the answer is longer than {_MAX_ANSWER} bytes")
    return wgapi.parse_peers(bytes(answer), time.time())


def _from_kernel(link: Link, deadline: float) -> Peers:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as kernel:
        _wait_until(kernel, deadline)
        kernel.send(wgnl.family_request(1))
        family = wgnl.parse_family(next(_answers(kernel, 1, deadline)).content)
        for sequence in range(2, 2 + _TRIES):
            kernel.send(wgnl.peers_request(family, link.index, sequence))
            listing = wgnl.PeerListing()
            interrupted = False
            for message in _answers(kernel, sequence, deadline):
                interrupted = interrupted or message.is_interrupted
                if message.is_last:
                    break
                listing.take(message.content)
            if not interrupted:
                return listing.peers
    raise DatapathError(f"{link.name}: its peers changed {_TRIES} times while they were listed")


def _answers(kernel: socket.socket, sequence: int, deadline: float) -> Iterator[wgnl.Message]:
    """What answers one request, without end. Raises OSError with the kernel's word where it refuses."""
    while True:
        _wait_until(kernel, deadline)
        for message in wgnl.messages(kernel.recv(1 << 18)):
            if message.sequence == sequence:
                if message.error:
                    raise OSError(message.error, os.strerror(message.error))
                yield message


def _wait_until(connection: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
