"""One atlas of a simulation on disk: its sites, and the federations that were run with it."""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from client import scans
from client.cases import Cases
from client.gate.policy import Policy
from client.preparation import Preparation
from client.site import Site
from client.withheld import Withheld
from configs import levels
from configs.phases import learning
from configs.schema import Experiment
from server.atlas import Atlas, save_atlas
from server.delivery import MOST_CROSSED
from server.state import SEGMENTER, RunState, Store
from simulation.arms.arm import POOLED
from simulation.atlases import write_splits
from simulation.engines import SiteFolder, run_federation
from simulation.progress import PlannedPhase, Progress, watch
from simulation.schemes import Roles, Scheme
from sst_models.wire.exchange import Arrays
from sst_models.wire.files import write_json


@dataclass(frozen=True)
class Stage:
    """What everything with one atlas works with."""

    folder: Path  # of the whole run
    roles: Roles
    experiment: Experiment
    atlas: Atlas
    data: dict[str, Path]  # site -> folder of scans, also of those that are kept out
    engine: str
    device: torch.device
    bias: bool = True  # the sites take their scanners' bias fields out
    levels: Mapping[str, str] = field(default_factory=dict)  # site -> level of sharing, of those that do not share all
    epsilon: float = math.inf  # of the sites' statistics; inf adds no noise

    @property
    def where(self) -> str:
        """How it is called on a display."""
        return f"atlas of {self.roles.source}"

    def site(self, name: str) -> SiteFolder:
        """Give a simulated site: a folder of NIfTI and one for its state, as a real one has."""
        folders = tuple(self.data[site] for site in (self.roles.members if name == POOLED else (name,)))
        state, splits, device = self.folder / "sites" / name, self._splits, self.device.type
        return SiteFolder(name, folders, state, None, splits, device, self.bias, self.level(name), self.epsilon)

    def level(self, site: str) -> str:
        """Give a site's level of sharing."""
        return self.levels.get(site, levels.MODELS)

    def own(self, scheme: Scheme, part: str, site: str) -> Arrays | None:
        """Give a part that a site keeps to itself in a federation; None where it keeps none."""
        folder = self.site(site)
        kept = Site(site, folder.data, folder.state, Policy(level=folder.level))
        return Withheld(kept, scheme.run(self.roles), scheme.experiment).last(part)

    def split(self, splits: Mapping[str, Mapping[str, str]]) -> None:
        """Fix which scan of which site (site -> case -> split) is for what, also where all scans are in one place."""
        pooled = {case: split for site in self.roles.members for case, split in splits[site].items()}
        write_splits({**splits, POOLED: pooled}, self._splits)

    @property
    def _splits(self) -> Path:
        return self.folder / "splits" / f"{self.roles.name}.tsv"

    def cases(self, site: str, split: str) -> Cases:
        """Give a site's prepared scans of one split, aligned to the atlas."""
        return scans.cases(self._prepared(site), split)

    def people(self, site: str, split: str) -> list[str]:
        """Give whose each scan of `cases` is."""
        return scans.people(self._prepared(site), split)

    def set_aside(self, site: str) -> list[tuple[str, str]]:
        """Give (file, reason) of the scans that a site could not use."""
        rows = json.loads((self._prepared(site) / scans.SET_ASIDE).read_text(encoding="utf-8"))
        return [(str(file), str(reason)) for file, reason in rows]

    def notes(self, site: str) -> list[str]:
        """Give what a person should know of the files of scans that are used."""
        return [str(note) for note in json.loads((self._prepared(site) / scans.NOTES).read_text(encoding="utf-8"))]

    def _prepared(self, site: str) -> Path:
        return self.folder / "sites" / site / "runs" / f"{self.roles.name}-prepared"


def prepare(stage: Stage, name: str, *, keep: bool = False) -> None:
    """Prepare one site's scans for an atlas, with the client's own code; federations then find them prepared.

    Args:
        stage: what there is with the atlas.
        name: of the site.
        keep: what does not depend on the atlas, for the next one; `forget_brains` lets go of it.
    """
    torch.set_num_threads(1)
    folder = stage.site(name)
    how = Preparation(bias=folder.bias, brains=folder.state / "brains" if keep and folder.bias else None)
    site = Site(name, folder.data, folder.state, Policy(), folder.splits, folder.device, how)
    run = f"{stage.roles.name}-prepared"
    affine = torch.tensor(stage.atlas.affine, dtype=torch.float64).numpy()
    scans.keep_atlas({"image": stage.atlas.image.numpy(), "affine": affine}, stage.atlas.digest, site.folder(run))
    scans.prepare_scans(site, run, stage.experiment)


def forget_brains(stage: Stage, name: str) -> None:
    """Let go of what `prepare` kept of a site for the next atlas: there is none."""
    shutil.rmtree(stage.site(name).state / "brains", ignore_errors=True)


def pool(stage: Stage) -> None:
    """Give the one site that has all scans what was prepared at each: the same files, by another name."""
    whole = stage.site(POOLED).state / "prepared"
    for name in stage.roles.members:
        own = stage.site(name).state / "prepared"
        for path in own.glob("*/*.safetensors"):
            link = whole / path.relative_to(own)
            link.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # it is there; or the disk has no links, and the scan is prepared once more
                os.link(path, link)


def federate(stage: Stage, scheme: Scheme, progress: Progress) -> RunState:
    """Run one federation to its end, or go on with it; give the hub's last state."""
    hub = scheme.hub(stage.folder, stage.roles)
    store = Store(hub / "state", scheme.experiment)
    if not (hub / "finished.json").exists():
        _set_up(stage, scheme, hub)
        if POOLED in scheme.sites:
            pool(stage)
        sites = [stage.site(name) for name in scheme.sites]
        states = {site.name: site.state for site in sites} | {"hub": hub}
        with watch(hub, states, progress, planned(stage, scheme)):
            run_federation(stage.engine, hub, sites, hub / "engine")
        write_json({}, hub / "finished.json")
    else:
        for phase in planned(stage, scheme):
            progress.stage(phase.name, phase.units)
    state = store.resume()
    assert state is not None
    return state


def _set_up(stage: Stage, scheme: Scheme, hub: Path) -> None:
    hub.mkdir(parents=True, exist_ok=True)
    (hub / "experiment.json").write_text(scheme.experiment.to_json(), encoding="utf-8")
    save_atlas(stage.atlas, hub)
    plan = {"run": scheme.run(stage.roles), "segment": scheme.segment, "device": stage.device.type}
    write_json(plan | {"common": scheme.common}, hub / "plan.json")


USUAL = 15
"""Training scans of a site, as far as a display knows before they are counted."""

TEST = 120.0
"""Work units of a test of one segmenter or arm at one site, on the scale of the costs in `configs.phases`: half a dozen
scans."""


def planned(stage: Stage, scheme: Scheme) -> Sequence[PlannedPhase]:
    """List the stages of a federation for the display, with work units: steps, weighed by what a step costs."""
    plan = []
    for phase in learning():
        rounds = scheme.experiment.phases.rounds(phase.name)
        settings = scheme.experiment.phases.of(phase.name)
        volumes = USUAL if phase.statistics else settings.steps * settings.batch
        workers = len(scheme.segment if SEGMENTER in phase.learns else scheme.sites)
        workers += scheme.common and not phase.message
        units = phase.cost * rounds * volumes * workers
        name = f"{stage.where}, {scheme.name}: {phase.name}"
        if units:
            plan.append(PlannedPhase(phase.name, rounds, units, name, at_hub=not phase.message))
    if tests := len(scheme.segment) + scheme.common:
        sites = len(scheme.sites) if tests <= MOST_CROSSED else 1
        name = f"{stage.where}, {scheme.name}: evaluate"
        plan.append(PlannedPhase("evaluate", tests, TEST * tests * sites, name))
    return plan
