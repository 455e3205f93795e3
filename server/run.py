"""The hub's run: join, the rounds of each phase, at sites and at the hub, then the end (`server.delivery`).

Read `run` first; everything else is one step of it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs import levels
from configs.errors import FederationError
from configs.phases import Phase
from server import bounds, drawn, events, generators, segmenters, sums
from server.atlas import published
from server.delivery import closing, deliver, evaluate, finish
from server.federation import Federation
from server.fold import Fold
from server.hub import Hub, open_hub
from server.joining import Joining
from server.state import COMMON, MOMENTS, SEGMENTER, RunState, Store, fresh_parts, schedule, store
from sst_models.networks.build import first
from sst_models.training.device import choose
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays, PhaseRequest
from sst_models.wire.files import write_json


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
    joining.gather(least, hub.late(state), events.awaited(events.read(folder)))
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
    finish(hub)
    return state


def joining_of(hub: Hub, done: int = 0) -> Joining:
    """Phase 0: publish the atlas, and see that every site holds the same one; `done` rounds are over."""
    arrays = published(hub.atlas)

    def ask(site: str, late: bool) -> PhaseRequest:
        request = hub.request("join", 1, site, {} if late else {"atlas": arrays})
        return replace(request, settings={**request.settings, "late": True}) if late else request

    own = hub.experiment.federation
    deadlines, served = (own.deadline, own.join_deadline), frozenset(hub.served)
    return Joining(hub.members, ask, hub.fault, hub.atlas.digest, deadlines, done, served, closing(hub))


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
    setup = sums.set_up(hub) if hub.experiment.sums and phase.averaged and answering else None
    if setup:
        sites = [site for site in sites if site in setup.agreed]
    if by_itself(phase):
        sites = sorted(set(sites) & set(late) if late else set(sites) - set(hub.missed(phase)))
    if not sites:
        return state.with_parts({})
    hub.tell("round.started", phase=phase.name, round=number)
    requests = {site: hub.request(phase.name, number, site, _arrays(hub, begun, phase, site), begun) for site in sites}
    before = state.moved if number > 1 else {}
    plain = Fold(phase, hub.experiment, requests, hub.folder / "spool", hub.library, hub.members.counts, before)
    fold = sums.MaskedFold(hub, setup, plain, f"{phase.name} {number}") if setup else plain
    least = bounds.least(hub.experiment, len(sites)) if plain.averages else 0 if late else 1
    failed = hub.members.collect(requests, fold.add, fold.drop_outliers, consent=phase.optional, least=least)
    parts = fold.close()
    if parts or fold.series:
        state = begun  # else nobody learnt, and what nobody trained is no part of the state
    brought: dict[str, object] = {
        "series": fold.series,
        "failed": failed,
        "traffic": hub.members.traffic(phase.name, number, sites),
    }
    if fold.clipped:
        brought["clipped"] = fold.clipped
    if late:
        brought["more"] = True
    hub.tell("round.finished", phase=phase.name, round=number, **brought)
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
    measured = generators.measured(state)
    known = [site for site in wanted if measured is None or site in measured]
    return [*known, *([COMMON] if hub.trains_common or len(known) < len(wanted) else [])]


def _train(hub: Hub, state: RunState, site: str, number: int, of: tuple[int, int]) -> segmenters.Trained:
    """Train one site's segmenter for a round; `of` is how many of the round's segmenters are done, of how many."""
    device, phase = choose(hub.plan.device), hub.experiment.phases.segment
    generator = generators.generator_of(hub.experiment, hub.atlas, state, site, hub.members.counts, device)
    pairs = generators.generated(generator, hub.experiment, site)
    drawn.draw(hub.folder, generator, hub.experiment, site, number)
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
        any(state.of(part, site) is not None for part in uses) and hub.trains(site) and not hub.came_after(uses, site)
    ):
        uses = ()  # the site has them as they begin
    for part in phase.learns + uses:
        found = state.of(part, site)
        arrays[part] = weights.parameters(first(part, hub.experiment)) if found is None else found
    if phase.labels:
        arrays["atlas"] = {"labels": hub.atlas.packed()}
    if phase.foreign and hub.experiment.federation.foreign_negatives:
        start = f"{MOMENTS}."
        arrays |= {p: a for p, a in state.parts.items() if p.startswith(start) and p != f"{start}{site}"}
    return arrays
