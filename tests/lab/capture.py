"""Packets as they pass a device, seen through AF_PACKET.

Incoming packets are seen before the device's tc ingress programs, outgoing ones after its tc egress
programs: to see what a gateway did, capture on the devices of its neighbours.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from .command import wait_for
from .namespace import Namespace
from .packet import Segment, parse_segment

ETH_P_ALL = 3
ARPHRD_ETHER = 1
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_AUXDATA = 263, 8
TP_STATUS_VLAN_VALID = 1 << 4
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 64 << 20
FRAME_BYTES = 65535

# struct tpacket_auxdata: u32 status, len, snaplen; u16 mac, net, vlan_tci, vlan_tpid
AUXDATA = struct.Struct("=IIIHHHH")


@dataclass(frozen=True)
class Frame:
    """One captured packet: its bytes with the link header if there is one, and its VLAN tag's content."""

    data: bytes
    outgoing: bool
    ethernet: bool
    vlan: int | None

    @property
    def packet(self) -> bytes:
        """The bytes from the network header on."""
        return self.data[14:] if self.ethernet else self.data


class Capture:
    """Records every packet of one device from entering to leaving."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        self._device = device
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._frames: list[Frame] = []
        self._reader = threading.Thread(target=self._read, name=f"capture {device}", daemon=True)
        self._closing = False

    def __enter__(self) -> Capture:
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        # The timeout lets the reader notice that it shall end when nothing arrives.
        self._socket.settimeout(0.1)
        self._socket.bind((self._device, ETH_P_ALL))
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._reader.join()
        self._socket.close()

    def frames(self) -> list[Frame]:
        """Everything so far, oldest first."""
        return self._frames[:]

    def segments(self, wanted: Callable[[Segment], bool] = lambda _: True, *, incoming: bool = True) -> list[Segment]:
        """The TCP segments so far that arrived here (or left, with `incoming` false)."""
        parsed = (parse_segment(frame.packet) for frame in self.frames() if frame.outgoing != incoming)
        return [segment for segment in parsed if segment is not None and wanted(segment)]

    def wait_for_segments(
        self, wanted: Callable[[Segment], bool], what: str, *, count: int = 1, timeout: float = 5.0
    ) -> list[Segment]:
        """At least `count` segments that arrived here, or LabError after `timeout` seconds."""
        wait_for(lambda: len(self.segments(wanted)) >= count, f"{count} of {what}", timeout=timeout)
        return self.segments(wanted)

    @property
    def count(self) -> int:
        """How many packets so far, both ways: cheap to ask again and again."""
        return len(self._frames)

    def clear(self) -> None:
        """Forget what was seen so far."""
        self._frames.clear()

    def _read(self) -> None:
        while not self._closing:
            try:
                data, ancillary, _, (_, _, kind, hardware, _) = self._socket.recvmsg(FRAME_BYTES, 256)
            except TimeoutError:
                continue
            except OSError:
                return  # the device is gone, and nothing more will come
            ethernet = hardware == ARPHRD_ETHER
            self._frames.append(Frame(data, kind == PACKET_OUTGOING, ethernet, _vlan(ancillary)))


def _vlan(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, content in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tci, _ = AUXDATA.unpack_from(content)
            return tci if status & TP_STATUS_VLAN_VALID else None
    return None
