"""The program behind `traffic.SynSender`: sends numbered SYNs until SIGTERM, then writes how many.

Takes one argument, a JSON object: pairs ([source, destination] each), rate (a second), mss, acknowledge
(SYN-ACKs instead of SYNs), report (the file to write).
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from pathlib import Path

from .packet import ACK, SYN, build_syn

# After a stall the sender does not catch up by more than this many packets at once: queues are finite.
BURST = 40
TICK_SECONDS = 0.005


def main() -> None:
    order = json.loads(sys.argv[1])
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    sockets = {
        4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
    }
    pairs = [tuple(pair) for pair in order["pairs"]]
    flags = SYN | ACK if order["acknowledge"] else SYN
    sent = 0
    due = 0.0
    last = time.monotonic()
    while not stopping:
        now = time.monotonic()
        due = min(due + (now - last) * order["rate"], BURST)
        last = now
        for _ in range(int(due)):
            source, destination = pairs[sent % len(pairs)]
            packet = build_syn(
                source,
                destination,
                mss=order["mss"],
                sequence=sent,
                source_port=1024 + sent % 60000,
                flags=flags,
            )
            sockets[6 if ":" in destination else 4].sendto(packet, (destination, 0))
            sent += 1
            due -= 1
        time.sleep(TICK_SECONDS)
    Path(order["report"]).write_text(json.dumps({"sent": sent}))


if __name__ == "__main__":
    main()
