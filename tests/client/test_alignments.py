"""Alignments that a site keeps: never another scan's, and never a reason to fail."""

import errno
from pathlib import Path

import pytest
import torch

from client import alignments
from client.alignments import KeptAlignments
from client.cases import Cases
from configs.schema import load
from sst_models.networks.build import first

EXPERIMENT = load("tiny")
FLOW, LABELS = torch.ones(1, 3, 2, 2, 2).half(), torch.ones(2, 2, 2, dtype=torch.uint8)


@pytest.fixture
def kept(tmp_path: Path) -> KeptAlignments:
    """Those of one scan."""
    scan = tmp_path / "scan.safetensors"
    scan.write_bytes(b"first")
    nets = {part: first(part, EXPERIMENT) for part in ("E", "A", "F")}
    return KeptAlignments.of(tmp_path / "run", Cases.of([scan]), nets, EXPERIMENT)


def test_what_was_saved_is_found_and_nothing_else(kept: KeptAlignments, tmp_path: Path) -> None:
    """Not for a scan that was prepared anew, nor by networks that have learnt since; a damaged file counts as none."""
    assert kept.load(0) is None
    kept.save(0, FLOW, LABELS)
    found = kept.load(0)
    assert found is not None and torch.equal(found[0], FLOW) and torch.equal(found[1], LABELS)
    nets = {part: first(part, EXPERIMENT) for part in ("E", "A", "F")}
    with torch.no_grad():
        next(nets["F"].parameters()).add_(1)
    assert KeptAlignments.of(tmp_path / "run", kept.scans, nets, EXPERIMENT).load(0) is None
    (file,) = (kept.run / "own" / "aligned").iterdir()
    file.write_bytes(b"half")
    assert kept.load(0) is None
    kept.save(0, FLOW, LABELS)
    kept.scans.paths[0].write_bytes(b"second, with another mask")
    assert kept.load(0) is None


def test_a_full_disk_costs_time_alone(kept: KeptAlignments, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there already makes room, and the phase goes on."""
    kept.save(0, FLOW, LABELS)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(alignments.weights, "save", full)
    kept.save(0, FLOW, LABELS)
    assert not (kept.run / "own" / "aligned").exists() and kept.load(0) is None
