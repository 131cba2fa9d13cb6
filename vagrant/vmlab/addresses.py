"""Addresses of the test site, by family. The box gives the machines theirs (vagrant/box/files)."""

from __future__ import annotations

HOST_A = {4: "10.1.0.2", 6: "fd00:1::2"}
HOST_B = {4: "10.2.0.2", 6: "fd00:2::2"}
OTHER_A = {4: "10.4.0.2", 6: "fd00:4::2"}
OTHER_B = {4: "10.3.0.2", 6: "fd00:3::2"}
"""Addresses of the same hosts that no WireGuard peer stands for: other tunnels are tried with these."""

OUTER_A = {4: "192.0.2.11", 6: "2001:db8:1::11"}
OUTER_B = {4: "198.51.100.11", 6: "2001:db8:2::11"}
