"""The daemon in its namespace: one of it, independent of others, and what it keeps over restarts.

client ────── gateway with clampd ══════ site        (lab.topology)
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Clampd, Lab, Refused, peer_table, wait_for
from lab.topology import SITE_PREFIXES, Ends, Line, line, mss_for

pytestmark = pytest.mark.netns

PEER_MTU = 1400
MEMORY_LIMIT = 60 << 20


def config(mtu: int = PEER_MTU, mode: str = "enforce") -> str:
    return f'mode = "{mode}"\n' + peer_table("site", "wan", SITE_PREFIXES, mtu)


def clamps(ends: Ends, mtu: int) -> bool:
    """Whether new connections start with the MSS of this MTU, both ways."""
    return ends.mss() == (mss_for(mtu, 4), mss_for(mtu, 4))


@pytest.fixture
def built(lab: Lab) -> Line:
    return line(lab)


@pytest.fixture
def clampd(lab: Lab, built: Line) -> Clampd:
    clampd = lab.clampd(built.gateway, config())
    clampd.attached(built.device)
    return clampd


@pytest.fixture
def ends(lab: Lab, built: Line) -> Ends:
    return Ends(lab, built)


class TestAlone:
    def test_a_second_one_refuses(self, lab: Lab, built: Line, clampd: Clampd, ends: Ends) -> None:
        second = lab.clampd_at_rest(built.gateway, config(1300))
        with pytest.raises(Refused) as refusal:
            second.start()
        assert refusal.value.status == 1
        assert str(clampd.pid) in refusal.value.text
        assert clamps(ends, PEER_MTU)

    def test_makes_room_when_it_dies(self, lab: Lab, built: Line, clampd: Clampd) -> None:
        clampd.kill()
        second = lab.clampd(built.gateway, config(1300))
        second.attached(built.device)
        assert second.peer("site")["mtu"] == 1300

    def test_two_namespaces(self, lab: Lab) -> None:
        """Same device names, same prefixes, other MTUs; what happens to one is nothing to the other."""
        lines = [line(lab), line(lab)]
        mtus = [1400, 1300]
        daemons = [lab.clampd(built.gateway, config(mtu)) for built, mtu in zip(lines, mtus, strict=True)]
        ends = [Ends(lab, built) for built in lines]
        for daemon in daemons:
            daemon.attached("wan")
        assert clamps(ends[0], 1400)
        assert clamps(ends[1], 1300)
        daemons[0].ctl("detach")
        assert not clamps(ends[0], 1400)
        assert clamps(ends[1], 1300)
        daemons[0].kill()
        daemons[1].attached("wan")
        assert clamps(ends[1], 1300)

    def test_is_small(self, clampd: Clampd) -> None:
        """The compiler ran in another process: no LLVM in this one."""
        loaded = Path(f"/proc/{clampd.pid}/maps").read_text()
        assert "LLVM" not in loaded
        assert "libbcc" not in loaded
        assert clampd.resident_bytes() <= MEMORY_LIMIT


class TestPins:
    def test_survive_restarts(self, clampd: Clampd, ends: Ends) -> None:
        clampd.ctl("pin", "site", "1380")
        assert clamps(ends, 1380)
        clampd.kill()
        clampd.start()
        clampd.attached("wan")
        peer = clampd.ctl_json("show", "site")["peer"]
        assert (peer["state"], peer["mtu"], peer["source"]) == ("pinned", 1380, "pin")
        assert clamps(ends, 1380)
        clampd.ctl("unpin", "site")
        assert clamps(ends, PEER_MTU)
        assert clampd.stop() == 0
        clampd.start()
        clampd.attached("wan")
        assert clampd.peer("site")["mtu"] == PEER_MTU

    @pytest.mark.parametrize("damage", ["garbage", "emptied header", "cut"])
    def test_a_damaged_database_is_set_aside(self, clampd: Clampd, ends: Ends, damage: str) -> None:
        clampd.ctl("pin", "site", "1380")
        assert clampd.stop() == 0
        (database,) = clampd.state_dir.glob("*.db")
        content = database.read_bytes()
        database.write_bytes(
            {
                "garbage": b"this is no database\n" * 1000,
                "emptied header": bytes(100) + content[100:],
                "cut": content[: len(content) // 2 + 100],
            }[damage]
        )
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        clampd.start()
        clampd.attached("wan")
        assert "damaged" in clampd.output()
        assert [path for path in clampd.state_dir.iterdir() if "damaged" in path.name]
        assert clamps(ends, PEER_MTU)
        clampd.ctl("pin", "site", "1360")
        assert clamps(ends, 1360)


class TestConfiguration:
    def test_a_bad_file_leaves_everything_as_it_was(self, clampd: Clampd, ends: Ends) -> None:
        before = clampd.ctl_json("peers")["peers"]
        clampd.config.write_text(config() + 'mtuu = 1300\n[[peer]]\nname = "x"\n')
        written = len(clampd.output())
        clampd.hang_up()
        wait_for(lambda: str(clampd.config) in clampd.output()[written:], "the error in the log")
        assert "mtuu" in clampd.output()[written:]
        answer = clampd.ctl("reload", check=False)
        assert answer.returncode == 1
        assert "mtuu" in answer.stderr
        assert clampd.ctl_json("peers")["peers"] == before
        assert clamps(ends, PEER_MTU)

    @pytest.mark.parametrize("way", ["SIGHUP", "clampctl reload"])
    def test_a_good_file_takes_effect(self, clampd: Clampd, ends: Ends, way: str) -> None:
        clampd.config.write_text(config(1300))
        if way == "SIGHUP":
            clampd.hang_up()
        else:
            clampd.ctl("reload")
        wait_for(lambda: clampd.peer("site")["mtu"] == 1300, "the new MTU")
        assert clamps(ends, 1300)
        clampd.config.write_text('mode = "enforce"\n')
        clampd.ctl("reload")
        assert not clampd.ctl_json("peers")["peers"]
        assert not clamps(ends, 1300)

    def test_a_bad_file_stops_the_start(self, lab: Lab, built: Line) -> None:
        broken = lab.clampd_at_rest(built.gateway, 'mode = "enforced"\n')
        with pytest.raises(Refused) as refusal:
            broken.start()
        assert refusal.value.status == 1
        assert str(broken.config) in refusal.value.text
        assert "enforced" in refusal.value.text
