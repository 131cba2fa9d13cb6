"""`make silence`: idle peers for ten minutes, 100 with clampd and 10 without: outer packets and handshakes.

Two chains (lab.chain) side by side, each with a crowd of live peers that get a few large packets first and then nothing
any more. clampd is told to check as often as it can be told to. WireGuard is silent then; exit status 1 if either chain
is not.

(The crowds are as large as fs.inotify.max_user_instances, 128, lets them be.)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import Lab, LabError, wait_for
from lab.chain import Chain, chain
from lab.crowd import Crowd, crowd
from lab.finder import finder

PEERS = {"with clampd": 100, "without": 10}
SECONDS = 600.0
QUIET_SECONDS = 15.0
"""Longer than WireGuard itself has something to say, which is a keepalive 10 s after the last packet."""


def main() -> int:
    """Prints what was counted."""
    with Lab() as lab:
        chains = {name: chain(lab, 4) for name in PEERS}
        crowds = {name: crowd(lab, chains[name], count) for name, count in PEERS.items()}
        found = finder(lab, chains["with clampd"], mtu="recheck = 1\nraise = 1")
        ids = [found.name_of(key) for key in crowds["with clampd"].keys]
        for name, built in chains.items():
            _talk(built, crowds[name])

        def all_known() -> bool:
            listed = found.listed()
            return all(listed[each]["state"] == "confirmed" for each in ids)

        wait_for(all_known, "all peers to be confirmed", timeout=60)
        time.sleep(QUIET_SECONDS)
        before = {name: (built.outer_packets(), _handshakes(built)) for name, built in chains.items()}
        time.sleep(SECONDS)
        packets = 0
        for name, built in chains.items():
            sent, shaken = before[name]
            caused, again = built.outer_packets() - sent, _handshakes(built) - shaken
            print(f"{name}: {PEERS[name]} idle peers, {SECONDS:g} s: {caused} outer packets, {len(again)} handshakes")
            packets += caused
    return int(packets > 0)


def _talk(built: Chain, sites: Crowd) -> None:
    gateway = built.ends[0].gateway
    for address in sites.addresses:
        done = gateway.run("ping", "-c", "3", "-i", "0.05", "-W", "2", "-M", "do", "-s", "1392", address, check=False)
        if done.returncode != 0:
            raise LabError(f"{address} does not answer: {done.stdout}")


def _handshakes(built: Chain) -> set[str]:
    """Each peer's last one, beside its key."""
    near = built.ends[0]
    return set(near.gateway.run("wg", "show", near.tunnel.name, "latest-handshakes").stdout.splitlines())


if __name__ == "__main__":
    sys.exit(main())
