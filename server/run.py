"""The hub's run: join, the rounds of each phase, a segmenter for each site, its test, and its delivery.

Read `run` first; everything else is one step of it.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from configs.errors import FederationError, RunError
from configs.schema import Experiment, from_json
from server import segmenters, vet
from server.atlas import Atlas, read_atlas
from server.federation import Federation
from server.fold import Fold
from server.state import MOMENTS, OWN, RunState, Store, fresh_parts, schedule
from server.vet import Strikes
from sst_models import weights
from sst_models.device import choose
from sst_models.exchange import Arrays, PhaseRequest
from sst_models.files import write_json
from sst_models.phases import ADAPT, SitePhase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a hub's folder says of a run beside the preset (`plan.json`)."""

    run: str  # name of the run; sites keep its state under it
    segment: tuple[str, ...] | None = None  # sites that get a segmenter; None: all
    device: str = "auto"


@dataclass(frozen=True)
class Hub:
    """What all steps of a run share."""

    folder: Path
    plan: Plan
    experiment: Experiment
    atlas: Atlas
    federation: Federation
    sites: tuple[str, ...]

    @property
    def segment(self) -> tuple[str, ...]:
        """List the sites that get a segmenter."""
        return self.sites if self.plan.segment is None else self.plan.segment

    def request(self, phase: str, number: int, site: str, arrays: Mapping[str, Arrays]) -> PhaseRequest:
        """Make one request of this run."""
        settings = {"atlas": self.atlas.digest}
        return PhaseRequest(self.plan.run, phase, number, site, self.experiment.to_json(), arrays, settings)

    def tell(self, event: str, **values: object) -> None:
        """Append one event to `events.jsonl`, for displays and reports."""
        line = json.dumps({"time": time.time(), "event": event, **values})
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def run(folder: Path, federation: Federation) -> RunState:
    """Run an experiment to its end, or go on from its last finished round.

    Args:
        folder: the hub's: `experiment.json`, the atlas, `plan.json`; the state is kept here.
        federation: the only way to the sites.

    Raises:
        FederationError: no quorum, or sites that do not fit together.
        RunError: the folder is incomplete, or holds the state of another experiment.
    """
    hub = open_hub(folder, federation)
    store = Store(folder / "state", hub.experiment)
    state = store.resume() or RunState()
    join(hub)
    for phase, number in schedule(hub.experiment)[state.done :]:
        state = run_round(hub, state, phase, number)
        store.save(state)
    for number, site in enumerate(hub.segment, start=1):
        make_segmenter(hub, state, site, number)
    for number in range(1, hub.experiment.phases.adapt.rounds + 1):
        adapt(hub, state, number)
    evaluate(hub)
    deliver(hub, state)
    hub.tell("run.finished")
    return state


def open_hub(folder: Path, federation: Federation) -> Hub:
    """Read the hub's folder.

    Raises:
        RunError: a file is missing.
    """
    try:
        experiment = from_json((folder / "experiment.json").read_text(encoding="utf-8"))
        values = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{folder} is not a hub's folder: {Path(error.filename).name} is missing") from error
    wanted = values.get("segment")
    plan = Plan(values["run"], None if wanted is None else tuple(wanted), values.get("device", "auto"))
    return Hub(folder, plan, experiment, read_atlas(folder), federation, tuple(sorted(federation.sites())))


def join(hub: Hub) -> None:
    """Phase 0: publish the atlas, and see that every site holds the same one.

    Raises:
        FederationError: a site cannot join, or answers another atlas's digest.
    """
    hub.tell("round.started", phase="join", round=1)
    arrays = {"image": hub.atlas.image.numpy(), "affine": np.array(hub.atlas.affine, dtype=np.float64)}
    requests = [hub.request("join", 1, site, {"atlas": arrays}) for site in hub.sites]
    counts = {}
    for reply in hub.federation.ask(requests):
        if reply.error:
            raise FederationError(f"site {reply.site} could not join ({reply.error}); its own site.log says why")
        if reply.settings.get("atlas") != hub.atlas.digest:
            raise FederationError(f"site {reply.site} holds another atlas; start it with a fresh state folder")
        counts[reply.site] = dict(reply.settings)
    hub.tell("round.finished", phase="join", round=1, sites=counts, traffic=_traffic(hub, "join", 1))


def run_round(hub: Hub, state: RunState, phase: SitePhase, number: int) -> RunState:
    """One round of one phase: ask all sites, fold their replies into the mean as they come."""
    hub.tell("round.started", phase=phase.name, round=number)
    log.info("round started phase=%s round=%d sites=%d", phase.name, number, len(hub.sites))
    if number == 1:
        state = RunState(state.done, {**state.parts, **fresh_parts(phase, state, hub.experiment)})
    strikes = Strikes(hub.folder / "strikes.json")
    sites = [site for site in hub.sites if site not in strikes.out]
    requests = {site: hub.request(phase.name, number, site, _arrays(hub, state, phase, site)) for site in sites}
    fold = Fold(phase, hub.experiment, requests, hub.folder / "spool")
    for reply in hub.federation.ask(list(requests.values())):
        fold.add(reply)
    parts = fold.close(hub.experiment.federation.quorum, len(hub.sites))
    for site in sorted(fold.bad):
        if strikes.add(site):
            log.warning("quarantined site=%s phase=%s why=%s", site, phase.name, fold.failed[site])
            hub.tell("site.quarantined", site=site, phase=phase.name, why=fold.failed[site])
    hub.tell(
        "round.finished",
        phase=phase.name,
        round=number,
        series=fold.series,
        failed=fold.failed,
        traffic=_traffic(hub, phase.name, number),
    )
    return state.with_parts(parts)


def _arrays(hub: Hub, state: RunState, phase: SitePhase, site: str) -> dict[str, Arrays]:
    arrays: dict[str, Arrays] = {}
    for part in phase.learns + phase.uses:
        found = state.of(part, site)
        assert found is not None, part
        arrays[part] = found
    if hub.experiment.federation.foreign_negatives and phase.name in ("style", "joint"):
        start = f"{MOMENTS}."
        arrays |= {p: a for p, a in state.parts.items() if p.startswith(start) and p != f"{start}{site}"}
    return arrays


def _traffic(hub: Hub, phase: str, number: int) -> list[dict[str, object]]:
    return [
        {"site": item.site, "down": item.down, "up": item.up}
        for item in hub.federation.traffic
        if item.phase == phase and item.round == number
    ]


def look(experiment: Experiment, state: RunState, site: str) -> segmenters.Look:
    """Give the look of a site's scanner, as far as the run learnt it."""
    appearance = state.of(OWN, site) if experiment.appearance.weight else None
    return segmenters.Look(site, appearance, state.parts.get(f"{MOMENTS}.{site}"))


def make_segmenter(hub: Hub, state: RunState, site: str, number: int) -> None:
    """Phase 5: generate pairs in a site's style, and train its segmenter, the `number`-th, on them."""
    folder, device = segmenter_folder(hub.folder, site), choose(hub.plan.device)
    own = look(hub.experiment, state, site)
    generator = segmenters.make_generator(hub.experiment, hub.atlas, own, state.parts["decoder"], device)
    phase = hub.experiment.phases.segment
    hub.tell("round.started", phase="segment", round=number)

    def watch(step: int, loss: float) -> None:
        shown = {"phase": "segment", "round": number, "site": site, "step": step, "steps": phase.rounds * phase.steps}
        write_json({**shown, "loss": loss}, hub.folder / "progress.json")

    pairs = segmenters.generated(generator, hub.experiment, own)
    curves = segmenters.train_segmenter(hub.experiment, pairs, site, folder, device, watch)
    for done, series in enumerate(curves, start=phase.rounds - len(curves) + 1):
        hub.tell("segmenter.learnt", phase="segment", round=done, site=site, series={site: series})
    hub.tell("round.finished", phase="segment", round=number)


def adapt(hub: Hub, state: RunState, number: int) -> None:
    """One round at the sites on their segmenters; a site that does not take part keeps what it has."""
    sites = [site for site in hub.segment if site in hub.sites]
    if not sites or all(len(segmenters.adapted(segmenter_folder(hub.folder, site))) >= number for site in sites):
        return
    hub.tell("round.started", phase=ADAPT.name, round=number)
    labels = {"labels": hub.atlas.labels.to(torch.uint8).numpy()}
    own = _segmenters(hub)
    requests = []
    for site in sites:
        arrays: dict[str, Arrays] = {"segmenter": own[site], "atlas": labels}
        arrays |= {part: found for part in ADAPT.uses if (found := state.of(part, site)) is not None}
        requests.append(hub.request(ADAPT.name, number, site, arrays))
    failed, series = {}, {}
    asked = {request.site: request for request in requests}
    for reply in hub.federation.ask(requests):
        word = reply.error or vet.fault(reply, asked[reply.site], ADAPT, hub.experiment.style.code)
        if word:
            failed[reply.site] = word
            continue
        series[reply.site] = dict(reply.series)
        tensors = {name: torch.from_numpy(array.copy()) for name, array in reply.arrays["segmenter"].items()}
        weights.save(tensors, segmenter_folder(hub.folder, reply.site) / f"adapted-{number}.safetensors")
    told = {"series": series, "failed": failed, "traffic": _traffic(hub, ADAPT.name, number)}
    hub.tell("round.finished", phase=ADAPT.name, round=number, **told)


def segmenter_folder(hub: Path, site: str) -> Path:
    """Give the folder of a site's segmenter at the hub."""
    return hub / "segmenters" / site


def _segmenters(hub: Hub) -> dict[str, Arrays]:
    last = {site: segmenters.last(segmenter_folder(hub.folder, site)) for site in hub.segment}
    return {site: {n: t.numpy() for n, t in weights.load(path).items()} for site, path in last.items()}


def evaluate(hub: Hub) -> None:
    """Phase 6: test each segmenter at each site that has labels; means and counts make the cross-site table."""
    table = []
    for number, (style, arrays) in enumerate(sorted(_segmenters(hub).items()), start=1):
        hub.tell("round.started", phase="evaluate", round=number)
        requests = [hub.request("evaluate", number, site, {"segmenter": arrays}) for site in hub.sites]
        for reply in hub.federation.ask(requests):
            row = {"style": style, "site": reply.site, "scans": reply.count, "dice": dict(reply.metrics)}
            table.append({**row, "error": reply.error})
        hub.tell("round.finished", phase="evaluate", round=number, traffic=_traffic(hub, "evaluate", number))
    write_json(table, hub.folder / "cross-site.json")


def deliver(hub: Hub, state: RunState) -> None:
    """Phase 7: give each site its model: its segmenter, the atlas's labels, and what its generator is made of.

    Raises:
        FederationError: a site could not keep it.
    """
    labels = {"labels": hub.atlas.labels.to(torch.uint8).numpy()}
    figures = _figures(hub)
    requests = []
    for site, arrays in sorted(_segmenters(hub).items()):
        if site not in hub.sites:
            continue
        own = look(hub.experiment, state, site)
        parts: dict[str, Arrays] = {"segmenter": arrays, "atlas": labels}
        if own.appearance is not None:
            parts |= {"A": own.appearance, "decoder": state.parts["decoder"]}
        if own.moments is not None:
            parts["moments"] = own.moments
        request = hub.request("deliver", 1, site, parts)
        told = {"sites": json.dumps(hub.sites), "figures": json.dumps(figures.get(site, {}))}
        requests.append(replace(request, settings={**request.settings, **told}))
    for reply in hub.federation.ask(requests):
        if reply.error:
            raise FederationError(f"site {reply.site} could not keep its segmenter ({reply.error}); see its site.log")
    hub.tell("round.finished", phase="deliver", round=1, traffic=_traffic(hub, "deliver", 1))


def _figures(hub: Hub) -> dict[str, dict[str, object]]:
    """Give of each site's segmenter its mean Dice in percent, and the scans behind it, at every site that tested it."""
    table = json.loads((hub.folder / "cross-site.json").read_text(encoding="utf-8"))
    figures: dict[str, dict[str, object]] = {}
    for row in table:
        if row["dice"]:
            mean = round(100 * sum(row["dice"].values()) / len(row["dice"]), 2)
            figures.setdefault(row["style"], {})[row["site"]] = {"dice": mean, "scans": row["scans"]}
    return figures
