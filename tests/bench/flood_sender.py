"""The program behind flood.py: UDP packets of one size with DF at a steady rate, until SIGTERM.

Arguments: address, size of the IP packets, packets a second. One send is many packets (UDP_SEGMENT), split by the
sending device: so the sender costs little of the machine that it disturbs.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
import time

SOL_UDP, UDP_SEGMENT = 17, 103
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
BURST = 40
HEADERS = 28


def main() -> None:
    address, size, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    stopping: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
    out.connect((address, 9))
    payload = bytes((size - HEADERS) * BURST)
    segment = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size - HEADERS))]
    due, last = 0.0, time.monotonic()
    while not stopping:
        now = time.monotonic()
        due = min(due + (now - last) * rate, rate / 20)
        last = now
        while due >= BURST:
            with contextlib.suppress(OSError):  # refused by the far host, or told "too big": both are the point
                out.sendmsg([payload], segment)
            due -= BURST
        time.sleep(0.001)


if __name__ == "__main__":
    main()
