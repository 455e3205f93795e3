"""What holds for all tests: few threads, nothing drawn on a screen, and no network but loopback."""

import os
import socket
from typing import Any

import pytest

from simulation.engines import QUIET

os.environ.setdefault("OMP_NUM_THREADS", "2")  # read when torch is first imported
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ |= QUIET

_connect = socket.socket.connect


def _connect_to_loopback(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(address[0])):
        raise OSError(f"a test tried to reach the network: {address}")
    _connect(self, address)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1", "0.0.0.0", "") or host.startswith("127.")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _connect_to_loopback)
