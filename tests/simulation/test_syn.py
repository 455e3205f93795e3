"""SyN as an arm: it bends the atlas onto a scan, and is refused in one line where ANTs is not installed."""

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from configs.errors import ConfigError
from simulation import cli
from simulation.arms import ARMS, syn
from simulation.control import random_flow
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.metrics import mean_dice
from sst_models.volume.warp import warp


def test_an_arm_whose_package_is_missing_is_refused_and_not_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no antspyx is told how to get it; `all` is all that can run."""

    def nowhere(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "version", nowhere)
    assert "SyN" not in cli.parse_arms("all") and "control" in cli.parse_arms("all")
    with pytest.raises(ConfigError, match=r"'SyN' needs antspyx; pip install '.\[baselines\]'"):
        cli.parse_arms("affine,SyN")
    monkeypatch.setattr(cli, "version", lambda name: "1")
    assert "SyN" in cli.parse_arms("all") and cli.parse_arms("syn") == ("SyN",)


def test_joint_label_fusion_wants_two_atlases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one there is nothing to fuse: it is said, and `all` leaves it out."""
    monkeypatch.setattr(cli, "version", lambda name: "1")
    with pytest.raises(ConfigError, match="'joint label fusion' needs 2 atlases; give --atlas"):
        cli.parse_arms("joint label fusion")
    assert "joint label fusion" not in cli.parse_arms("all")
    assert "joint label fusion" in cli.parse_arms("all", atlases=2)


def test_syn_bends_the_atlas_onto_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a brain that was bent, labels come to lie better than where they were, by a flow in voxels of the grid."""
    pytest.importorskip("ants")
    shape, draws = (40, 44, 48), torch.Generator().manual_seed(2)
    far = [(torch.arange(side) - side / 2) / (side / 2) for side in shape]
    x, y, z = torch.meshgrid(*far, indexing="ij")
    labels = torch.zeros(shape, dtype=torch.uint8)
    for index, (size, at) in enumerate(((0.8, 0.0), (0.6, 0.05), (0.25, 0.2), (0.2, -0.25)), start=1):
        labels[((x - at) ** 2 + y**2 + (z + at / 2) ** 2).sqrt() < size] = index
    image = torch.tensor([0.0, 0.6, 0.9, 0.3, 0.75])[labels.long()]
    flow = 1.5 * random_flow(shape, 2.4, draws)
    scan, truth = warp(image[None, None], flow)[0], AtlasLabels(labels).propagate(flow)
    settings = SimpleNamespace(grid=SimpleNamespace(spacing=2.4), seed=1, propagation=SimpleNamespace(em_weight=0.7))
    own = AtlasLabels(labels)
    atlas, turned = (image[None], own), (image[None].flip(1), AtlasLabels(labels.flip(0)))

    def reached(arm: str, *atlases: tuple[torch.Tensor, AtlasLabels]) -> float:
        bench = cast(Any, SimpleNamespace(atlas=atlas, atlases=list(atlases), experiment=settings))
        found = ARMS[arm].predict(bench, ARMS[arm], "here")(scan)
        assert not found.folded >= 1  # NaN where there is no one flow
        return mean_dice(found.labels, truth)

    before, after = mean_dice(own.on_grid, truth), reached("SyN", atlas)
    assert before < 0.85 and after > 0.93, (before, after)
    monkeypatch.setattr(syn, "ITERATIONS", (20, 10, 0))  # little is left to be done at the finest level here
    assert reached("SyN refined", atlas) > 0.9
    assert reached("joint label fusion", atlas, turned) > 0.9
