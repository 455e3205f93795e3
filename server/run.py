"""The hub's run: join, the rounds of each phase, at sites and at the hub, the test of the segmenters, their delivery.

Read `run` first; everything else is one step of it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from configs import levels
from configs.errors import FederationError, RunError
from configs.phases import Phase, phase_of
from configs.schema import Experiment, from_json
from server import board, bounds, events, segmenters, vet
from server.atlas import Atlas, published, read_atlas
from server.federation import Federation
from server.fold import Fold
from server.joining import Joining
from server.members import Members
from server.state import LIBRARY, MOMENTS, SEGMENTER, STATISTICS, RunState, Store, fresh_parts, schedule, store
from sst_models.networks.build import first
from sst_models.phases.generate import PairGenerator
from sst_models.training.device import choose
from sst_models.wire import payload, weights
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.files import write_json

COMMON = "all sites"
"""Whose the common segmenter is, where sites have names; no site can be called that."""


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
    patience: float = 0.0  # seconds that a round waits for its quorum

    @property
    def library(self) -> Path:
        """The folder of the state that holds what is one site's."""
        return self.folder / "state" / LIBRARY

    @property
    def members(self) -> Members:
        """The sites that take part."""
        return Members(self.federation, self.folder, self.experiment.federation.quorum, self.patience, self.tell)

    @property
    def sites(self) -> tuple[str, ...]:
        """List the sites that take part, there or away."""
        return self.members.names

    @property
    def served(self) -> tuple[str, ...]:
        """List the sites that need nothing more: they had their models before the run was opened again for others."""
        return events.served(self.folder)

    def answering(self, phase: Phase) -> list[str]:
        """List the sites whose level of sharing has a phase."""
        known = self.members.sharing
        return [site for site in self.sites if levels.reaches(known[site], phase.level)]

    def missed(self, phase: Phase) -> list[str]:
        """List the sites that came after the first round of a phase, those that were served already aside."""
        first = schedule(self.experiment).index((phase, 1))
        since, served = self.members.since, self.served
        return [site for site in self.sites if since[site] > first and site not in served]

    def trains(self, site: str) -> bool:
        """Say whether a site trains networks with the others, by its level of sharing."""
        return levels.reaches(self.members.sharing[site], levels.NETWORKS)

    def segment(self) -> tuple[str, ...]:
        """List the sites that get a segmenter: those of the plan, or all that take part."""
        return self.plan.segment if self.plan.segment is not None else self.sites

    @property
    def trains_common(self) -> bool:
        """Whether the hub trains a segmenter in all sites' styles, also where each site that takes part has its own."""
        return self.experiment.generation.common_segmenter and self.plan.segment is None

    def late(self, state: RunState) -> bool:
        """Say whether a site that joins now gets no segmenter.

        There is none in its scanner's style once no round is left that learns it, and one in all sites' styles only
        where the preset has it.
        """
        if self.trains_common:
            return False
        left = (phase for phase, _ in schedule(self.experiment)[state.done :])
        return not any("A" in phase.kept or phase.statistics for phase in left)

    def request(
        self, phase: str, number: int, site: str, arrays: Mapping[str, Arrays], state: RunState | None = None
    ) -> PhaseRequest:
        """Make one request of this run; with the state, what changed in it can travel as its last difference."""
        settings = {"atlas": self.atlas.digest}
        asked = PhaseRequest(self.plan.run, phase, number, site, self.experiment.to_json(), arrays, settings)
        return replace(asked, payload=self.experiment.federation.payload, deltas=state.deltas if state else {})

    def tell(self, event: str, **values: object) -> None:
        """Append one event to `events.jsonl`, for displays and reports; what a round brought becomes curves, too."""
        events.tell(self.folder, event, self.plan.run, values)
        if event == "round.finished":
            board.update(self.folder)


def run(folder: Path, federation: Federation, patience: float = 0.0, least: int = 1) -> RunState:
    """Run an experiment to its end, or go on from its last finished round.

    Args:
        folder: the hub's: `experiment.json`, the atlas, `plan.json`; the state is kept here.
        federation: the only way to the sites.
        patience: seconds that a round waits for its quorum.
        least: sites that must have joined before the first round.

    Raises:
        FederationError: no quorum, sites that do not fit together, or too few for a trimmed mean.
        RunError: the folder is incomplete, or holds the state of another experiment.
    """
    hub = open_hub(folder, federation, patience)
    store = Store(folder / "state", hub.experiment)
    state = store.resume() or RunState()
    joining = joining_of(hub, state.done)
    joining.gather(max(least, len(hub.served) + 1), hub.late(state))
    for phase, number in schedule(hub.experiment)[state.done :]:
        joining.welcome(hub.late(state))
        state = run_round(hub, state, phase, number)
        store.save(state)
        joining.done = state.done
    joining.welcome(hub.late(state))
    if hub.trains_common:
        joining.wait()
    state = catch_up(hub, state)
    store.save(state)
    evaluate(hub, state)
    deliver(hub, state)
    hub.tell("run.finished")
    return state


def open_hub(folder: Path, federation: Federation, patience: float = 0.0) -> Hub:
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
    return Hub(folder, plan, experiment, read_atlas(folder), federation, patience)


def joining_of(hub: Hub, done: int = 0) -> Joining:
    """Phase 0: publish the atlas, and see that every site holds the same one; `done` rounds are over."""
    arrays = published(hub.atlas)

    def ask(site: str, late: bool) -> PhaseRequest:
        request = hub.request("join", 1, site, {} if late else {"atlas": arrays})
        return replace(request, settings={**request.settings, "late": True}) if late else request

    own = hub.experiment.federation
    return Joining(hub.members, ask, partial(_fault, hub), hub.atlas.digest, (own.deadline, own.join_deadline), done)


def run_round(hub: Hub, state: RunState, phase: Phase, number: int) -> RunState:
    """One round of one phase, at the sites or at the hub.

    Raises:
        FederationError: no quorum.
    """
    return ask_sites(hub, state, phase, number) if phase.message else train_segmenters(hub, state, phase, number)


def catch_up(hub: Hub, state: RunState) -> RunState:
    """Let sites that came late go through the phases that each goes through by itself, from their first rounds on.

    A site whose part came back has been through them; one that keeps its part answers again from its disk.
    """
    before = state.parts
    for phase, number in schedule(hub.experiment):
        if by_itself(phase):
            late = [site for site in hub.missed(phase) if not any(f"{part}.{site}" in before for part in phase.learns)]
            state = replace(ask_sites(hub, state, phase, number, late), done=state.done) if late else state
    return state


def by_itself(phase: Phase) -> bool:
    """Say whether each site learns something of its own in a phase, and nothing with the others."""
    return bool(phase.message and phase.learns) and not phase.averaged


def ask_sites(hub: Hub, state: RunState, phase: Phase, number: int, late: Sequence[str] = ()) -> RunState:
    """Ask sites for a round, fold their replies as they come.

    Asked are the sites whose level of sharing has the phase; where there is none, nothing is learnt. A site without a
    segmenter has nothing to adapt. A site may refuse a phase that is optional.

    Args:
        hub: with the sites.
        state: after the round before.
        phase: with its message.
        number: of the round, from 1.
        late: the sites that catch up with it; empty asks all others.

    Raises:
        FederationError: no quorum, or too few sites for the preset's kind of mean.
    """
    if not hub.sites:
        raise FederationError("no site takes part any more: look into strikes.json and left.json in the hub's folder")
    fresh = fresh_parts(phase, state, hub.experiment) if number == 1 else {}
    begun = replace(state, parts={**state.parts, **fresh})
    answering = hub.answering(phase)
    if not answering:
        hub.tell("round.skipped", phase=phase.name, round=number, levels=hub.members.sharing)
    wanted = hub.segment() if SEGMENTER in phase.learns else answering
    sites = [s for s in answering if s in wanted and all(begun.of(part, s) is not None for part in phase.learns)]
    if by_itself(phase):
        sites = sorted(set(sites) & set(late) if late else set(sites) - set(hub.missed(phase)))
    if not sites:
        return state.with_parts({})
    hub.tell("round.started", phase=phase.name, round=number)
    requests = {site: hub.request(phase.name, number, site, _arrays(hub, begun, phase, site), begun) for site in sites}
    before = state.moved if number > 1 else {}
    fold = Fold(phase, hub.experiment, requests, hub.folder / "spool", hub.library, hub.members.counts, before)
    least = bounds.least(hub.experiment, len(sites)) if fold.averages else 1
    failed = hub.members.collect(requests, fold.add, fold.drop_outliers, consent=phase.optional, least=least)
    parts = fold.close()
    if parts or fold.series:
        state = begun  # else nobody learnt, and what nobody trained is no part of the state
    brought = {"series": fold.series, "failed": failed, "traffic": hub.members.traffic(phase.name, number)}
    more = {**({"clipped": fold.clipped} if fold.clipped else {}), **({"more": True} if late else {})}
    hub.tell("round.finished", phase=phase.name, round=number, **brought, **more)
    moved = {part: (*before.get(part, ()), way) for part, way in fold.moved.items()}
    return replace(state.with_parts(parts, coded=hub.experiment.federation.payload == "half"), moved=moved)


def train_segmenters(hub: Hub, state: RunState, phase: Phase, number: int) -> RunState:
    """Train each site's segmenter for a round on pairs that are generated in its style (eq. 12).

    Sites that said nothing of their style share one, the common segmenter. The first round decides who gets one of its
    own.
    """
    sites = _styles(hub, state) if number == 1 else [s for s in (*hub.segment(), COMMON) if s in state.memory]
    if not sites:
        return state.with_parts({})
    hub.tell("round.started", phase=phase.name, round=number)
    parts, memory, series = {}, dict(state.memory), {}
    for place, site in enumerate(sites):
        trained = _train(hub, state, site, number, (place, len(sites)))
        parts[SEGMENTER if site == COMMON else f"{SEGMENTER}.{site}"] = store(trained.weights, hub.library)
        memory[site] = store(trained.memory, hub.library)
        series[site] = trained.series
    hub.tell("round.finished", phase=phase.name, round=number, series=series)
    last = number == hub.experiment.phases.segment.rounds
    return replace(state.with_parts(parts), memory={} if last else memory)


def _styles(hub: Hub, state: RunState) -> list[str]:
    """List whose segmenters the hub trains: those of sites whose style it knows, and the common one where it is wanted.

    Where pairs are made by networks, a site's style is its A, or that of the atlas.
    """
    wanted = hub.segment()
    measured = _measured(state)
    known = [site for site in wanted if measured is None or site in measured]
    return [*known, *([COMMON] if hub.trains_common or len(known) < len(wanted) else [])]


def _measured(state: RunState) -> dict[str, Arrays] | None:
    """Give the statistics by site, of those that released some; None where pairs are made by networks instead."""
    start = f"{STATISTICS}."
    found = {part.removeprefix(start): arrays for part, arrays in state.parts.items() if part.startswith(start)}
    return found if found or "decoder" not in state.parts else None


def _train(hub: Hub, state: RunState, site: str, number: int, of: tuple[int, int]) -> segmenters.Trained:
    """Train one site's segmenter for a round; `of` is how many of the round's segmenters are done, of how many."""
    device, phase = choose(hub.plan.device), hub.experiment.phases.segment
    generator = generator_of(hub.experiment, hub.atlas, state, site, hub.members.counts, device)
    pairs = segmenters.generated(generator, hub.experiment, site)
    done, all_ = (count * phase.steps for count in of)

    def watch(step: int, loss: float) -> None:
        shown = {"phase": "segment", "round": number, "site": site, "step": done + step, "steps": all_}
        write_json({**shown, "loss": loss}, hub.folder / "progress.json")

    how = segmenters.Training(device, watch)
    return segmenters.train_round(hub.experiment, pairs, site, number, state.memory.get(site), how)


def _arrays(hub: Hub, state: RunState, phase: Phase, site: str) -> dict[str, Arrays]:
    arrays: dict[str, Arrays] = {}
    uses = phase.uses
    if phase.level == levels.NOTHING and not (
        any(state.of(part, site) is not None for part in uses) and hub.trains(site)
    ):
        uses = ()  # the site has them as they begin
    for part in phase.learns + uses:
        found = state.of(part, site)
        arrays[part] = weights.parameters(first(part, hub.experiment)) if found is None else found
    if phase.labels:
        arrays["atlas"] = {"labels": hub.atlas.labels.packed()}
    if phase.foreign and hub.experiment.federation.foreign_negatives:
        start = f"{MOMENTS}."
        arrays |= {p: a for p, a in state.parts.items() if p.startswith(start) and p != f"{start}{site}"}
    return arrays


def generator_of(
    experiment: Experiment, atlas: Atlas, state: RunState, site: str, counts: Mapping[str, int], device: torch.device
) -> PairGenerator:
    """Give what makes a site's pairs: the sites' statistics where they released some, else networks that they trained.

    Where they did neither, pairs are the atlas with looks and shapes at random.
    """
    found = _measured(state)
    if found is not None:
        known = {name: counts.get(name, 1) for name in {*counts, *found}}
        weigh = bounds.weights_of(known, found)
        return segmenters.make_statistics_generator(experiment, atlas, found, site, weigh, device)
    source = style_source(experiment, state, site)
    return segmenters.make_generator(experiment, atlas, source, state.parts["decoder"], device)


def style_source(experiment: Experiment, state: RunState, site: str) -> segmenters.StyleSource:
    """Give the style of a site's scanner, as far as the run learnt it; a site may keep its A to itself."""
    whose = f"A.{site}" if experiment.federation.style == "weights" else "A"
    appearance = state.parts.get(whose) if experiment.appearance.weight else None
    return segmenters.StyleSource(site, appearance, state.parts.get(f"{MOMENTS}.{site}"))


def _segmenters(hub: Hub, state: RunState) -> dict[str, Arrays]:
    return {site: found for site in hub.segment() if (found := state.of(SEGMENTER, site)) is not None}


def _whose(state: RunState, site: str) -> str:
    """Say whose segmenter a site has: its own, or the common one."""
    return site if f"{SEGMENTER}.{site}" in state.parts else COMMON


def evaluate(hub: Hub, state: RunState) -> None:
    """Phase 7: test each segmenter at each site that has labels; means and counts make the cross-site table.

    The common one is tested once, however many sites have it. In a run that was opened again for sites that came later,
    those are asked, with what they get.
    """
    path, served = hub.folder / "cross-site.json", hub.served
    before = json.loads(path.read_text(encoding="utf-8")) if served and path.exists() else []
    table: list[dict[str, object]] = [row for row in before if row["site"] in served]
    own = {site: arrays for site, arrays in _segmenters(hub, state).items() if site not in served}
    tested = sorted({_whose(state, site): arrays for site, arrays in own.items()}.items())
    announced = " ".join(dict.fromkeys(payload.digest(arrays) for _, arrays in tested))
    for number, (style, arrays) in enumerate(tested, start=1):
        hub.tell("round.started", phase="evaluate", round=number)
        sites = [site for site in hub.answering(phase_of("evaluate")) if site not in served]
        asked = {site: hub.request("evaluate", number, site, {"segmenter": arrays}) for site in sites}
        about = {"segmenters": announced, "style": style}
        requests = {site: replace(one, settings={**one.settings, **about}) for site, one in asked.items()}
        rows: dict[str, dict[str, object]] = {}

        def take(reply: SiteReply, rows: dict[str, dict[str, object]] = rows) -> str:
            code = _fault(hub, reply)
            if not code:
                rows[reply.site] = {"scans": reply.count, "dice": dict(reply.metrics), "error": ""}
            return code

        failed = hub.members.collect(requests, take, consent=True) if requests else {}
        rows |= {site: {"scans": 0, "dice": {}, "error": code} for site, code in failed.items()}
        table += [{"style": style, "site": site, **row} for site, row in sorted(rows.items())]
        traffic = hub.members.traffic("evaluate", number)
        hub.tell("round.finished", phase="evaluate", round=number, traffic=traffic, more=bool(served))
    write_json(table, path)


def deliver(hub: Hub, state: RunState) -> None:
    """Phase 8: give each site its model: its segmenter, the atlas's labels, and what its generator is made of.

    Where segmenter and registration are fused (`segmenter.fuse_registration`), E and F are in it, too.

    Raises:
        FederationError: a site could not keep it.
    """
    labels = {"labels": hub.atlas.labels.packed()}
    figures, members, served = _figures(hub), hub.sites, hub.served
    requests = {}
    for site, arrays in sorted(_segmenters(hub, state).items()):
        if site not in members or site in served:
            continue
        own = style_source(hub.experiment, state, site)
        parts: dict[str, Arrays] = {"segmenter": arrays, "atlas": labels}
        if hub.experiment.appearance.weight and hub.trains(site):
            # Also where a site kept its A to itself: it has one to make a generator of.
            parts |= {part: state.parts[part] for part in ("decoder",) if part in state.parts}
        if own.appearance is not None:
            parts |= {"A": own.appearance}
        if own.moments is not None:
            parts["moments"] = own.moments
        if (measured := state.parts.get(f"{STATISTICS}.{site}")) is not None:  # its own; those of others stay here
            parts["statistics"] = measured
        if hub.experiment.segmenter.fuse_registration and hub.trains(site):
            parts |= {part: found for part in ("E", "F") if (found := state.of(part, site)) is not None}
        request = hub.request("deliver", 1, site, parts, state)
        about = {"sites": json.dumps(members), "figures": json.dumps(figures.get(_whose(state, site), {}))}
        requests[site] = replace(request, settings={**request.settings, **about})
    if not requests:
        return
    for site, code in hub.members.collect(requests, partial(_fault, hub), consent=True, quorum=1.0).items():
        raise FederationError(f"site {site} could not keep its segmenter ({code}); see its site.log")
    traffic = hub.members.traffic("deliver", 1)
    hub.tell("round.finished", phase="deliver", round=1, traffic=traffic, more=bool(served))


def _fault(hub: Hub, reply: SiteReply) -> str:
    """Give an error code for what is wrong with a reply that brings no weights; "" where nothing is."""
    asked = PhaseRequest(hub.plan.run, reply.phase, reply.round, reply.site, "")
    return vet.fault(reply, asked, phase_of(reply.phase), hub.experiment.style.code)


def _figures(hub: Hub) -> dict[str, dict[str, object]]:
    """Give of each site's segmenter its mean Dice in percent, and the scans behind it, at every site that tested it."""
    table = json.loads((hub.folder / "cross-site.json").read_text(encoding="utf-8"))
    figures: dict[str, dict[str, object]] = {}
    for row in table:
        if row["dice"]:
            mean = round(100 * sum(row["dice"].values()) / len(row["dice"]), 2)
            figures.setdefault(row["style"], {})[row["site"]] = {"dice": mean, "scans": row["scans"]}
    return figures
