"""What holds for all tests: their tier, few threads, nothing drawn on a screen, and no network but loopback."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from simulation.engines import QUIET

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported; `make test` runs two processes
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ |= QUIET

TIERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "live": ("live/",),
        "federation": (
            "client/test_api.py",
            "client/test_bad_files.py::test_random_headers_and_truncations_never_crash",
            "client/gate/test_confined.py",
            "client/gate/test_hostile_hub.py",
            "client/gate/test_networks.py",
            "client/test_cli.py",
            "client/test_dicom.py",
            "client/test_export.py",
            "client/test_killed.py",
            "client/test_segment.py",
            "server/test_dashboard.py",
            "server/test_federation.py",
            "server/test_fit.py",
            "server/test_journal.py",
            "server/test_launch.py::test_a_list_names_all_that_is_in_the_app",
            "server/test_launch.py::test_an_app_that_is_unpacked_and_built_again_is_the_same",
            "server/test_fold.py::test_random_replies_never_get_in",
            "simulation/test_audit_run.py",
            "simulation/test_bayesian.py",
            "simulation/test_dataaug.py",
            "simulation/test_engines.py",
            "simulation/test_label_table_run.py",
            "simulation/test_ltnet.py",
            "simulation/test_many_sites.py",
            "simulation/test_secure_runs.py",
            "simulation/test_simulate.py",
            "simulation/test_styleseg.py",
            "simulation/test_syn.py",
            "simulation/test_voxelmorph.py",
            "simulation/test_watching.py",
            "test_deploy.py",
            "test_examples.py",
            "test_join.py",
            "test_new_phase.py",
            "test_planted.py",
            "test_private.py",
            "test_wheel.py",
        ),
        "unit": ("",),
    }
)
"""Tier -> folders, files and single tests; the first that fits counts. pyproject.toml says what each tier is."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark each test with its tier."""
    place = f"{item.path.relative_to(Path(__file__).parent).as_posix()}::{item.name}"
    tier = next(tier for tier, places in TIERS.items() if place.startswith(places))
    item.add_marker(tier)
    if tier == "live" and " " in sys.prefix:
        item.add_marker(pytest.mark.skip("no SuperLink starts from a path with a space: docs/flower.md, 30"))


@pytest.fixture
def tiers() -> Mapping[str, tuple[str, ...]]:
    """The table of tiers."""
    return TIERS


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
