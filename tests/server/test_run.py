"""The hub's run: which sites may join, and which may not."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import FederationError
from configs.phases import phase_of
from configs.schema import load
from server import run, segmenters
from server.atlas import Atlas
from server.federation import Late, Traffic
from server.run import Hub, Plan, gather, join
from server.state import RunState
from sst_models.volume.labels import AtlasLabels
from sst_models.wire.exchange import PhaseRequest, SiteReply

DIGEST, OTHER = "a" * 64, "b" * 64


class Joining:
    """A federation whose sites say which atlas they hold, None for a site that fails."""

    def __init__(self, atlases: dict[str, str | None]) -> None:
        """Take the digest by site."""
        self.atlases = atlases
        self.traffic: list[Traffic] = []
        self.late: list[Late] = []
        self.asked: list[PhaseRequest] = []

    def sites(self) -> tuple[str, ...]:
        """Who is there."""
        return tuple(sorted(self.atlases))

    def ask(self, requests: Sequence[PhaseRequest]) -> Iterator[SiteReply]:
        """Answer with counts and the digest, or with a code."""
        for request in requests:
            self.asked.append(request)
            atlas = self.atlases[request.site]
            settings: dict[str, int | float | str | bool] = {"atlas": atlas, "scans": 9} if atlas else {}
            error = "data" if atlas is None else ""
            yield SiteReply(request.site, request.phase, request.round, 9, settings=settings, error=error)


def hub_of(folder: Path, federation: Joining) -> Hub:
    """A hub with an atlas of one cube."""
    image = torch.ones(1, 4, 4, 4)
    affine = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))
    atlas = Atlas(image, AtlasLabels(image[0].long()), affine, 1.0, DIGEST, "atlas.nii.gz")  # type: ignore[arg-type]
    return Hub(folder, Plan("run"), load("tiny"), atlas, federation)


def test_a_site_that_holds_another_atlas_does_not_take_part(tmp_path: Path) -> None:
    """Nor one that holds none or fails; each is named, with the reason, and the others join."""
    hub = hub_of(tmp_path, Joining({"good": DIGEST, "other": OTHER, "none": "", "broken": None}))
    why = join(hub, hub.federation.sites())
    assert hub.sites == ("good",)
    assert set(why) == {"other", "none", "broken"}
    assert "another atlas" in why["other"] and "another atlas" in why["none"] and "(data)" in why["broken"]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert events[-1]["failed"] == {"other": "mismatch", "none": "mismatch", "broken": "data"}
    assert set(events[-1]["sites"]) == {"good"}


def test_every_site_is_sent_the_atlas_and_its_digest(tmp_path: Path) -> None:
    """The image and where it lies; its labels stay at the hub until a phase needs them."""
    federation = Joining({"one": DIGEST, "two": DIGEST})
    join(hub_of(tmp_path, federation), ("one", "two"))
    assert [request.site for request in federation.asked] == ["one", "two"]
    for request in federation.asked:
        assert request.settings["atlas"] == DIGEST
        assert set(request.arrays) == {"atlas"} and set(request.arrays["atlas"]) == {"image", "affine"}


def test_a_run_does_not_begin_with_sites_of_another_atlas(tmp_path: Path) -> None:
    """Two are wanted and one fits: the line names the other and says what to do."""
    with pytest.raises(FederationError, match="site other holds another atlas; start it with a fresh state folder"):
        gather(hub_of(tmp_path, Joining({"good": DIGEST, "other": OTHER})), least=2)


def test_a_site_that_joins_while_segmenters_are_trained_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first round decides who gets one: a training that lacks its first round would be no fair one."""
    hub = hub_of(tmp_path, Joining({"early": DIGEST, "late": DIGEST}))
    asked: list[tuple[str, tuple[int, int]]] = []

    def train(hub: Hub, state: RunState, site: str, number: int, of: tuple[int, int]) -> segmenters.Trained:
        asked.append((site, of))
        return segmenters.Trained({"w": np.full(2, number, np.float32)}, {"m": np.zeros(1, np.float32)}, {})

    monkeypatch.setattr(run, "_train", train)
    join(hub, ("early",))
    first = run.run_round(hub, RunState(), phase_of("segment"), 1)
    join(hub, ("late",))
    second = run.run_round(hub, first, phase_of("segment"), 2)
    assert asked == [("early", (0, 1)), ("early", (0, 1))]
    assert second.done == 2 and set(second.parts) == {"segmenter.early"}
    assert [float(arrays["w"][0]) for arrays in second.trained["early"]] == [1.0, 2.0]
    assert second.memory == {}  # tiny has two rounds: nothing goes on from here
