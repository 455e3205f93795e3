"""What all steps of a run share: the hub's folder, its plan and preset, the atlas, and who takes part."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs import levels
from configs.errors import RunError
from configs.phases import Phase, phase_of
from configs.schema import Experiment, from_json
from server import board, events, vet
from server.atlas import Atlas, read_atlas
from server.federation import Federation
from server.members import Members
from server.state import LIBRARY, RunState, schedule
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply


@dataclass(frozen=True)
class Plan:
    """What a hub's folder says of a run beside the preset (`plan.json`)."""

    run: str  # name of the run; sites keep its state under it
    segment: tuple[str, ...] | None = None  # sites that get a segmenter; None: all
    device: str = "auto"
    common: bool = False  # one in all sites' styles is trained, too, whatever the preset says


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
        """List the sites that have their models, and need nothing more."""
        return events.served(events.read(self.folder))

    def answering(self, phase: Phase) -> list[str]:
        """List the sites whose level of sharing has a phase."""
        known = self.members.sharing
        return [site for site in self.sites if levels.reaches(known[site], phase.level)]

    def missed(self, phase: Phase) -> list[str]:
        """List the sites that came after the first round of a phase, those that were served already aside."""
        first = schedule(self.experiment).index((phase, 1))
        since, served = self.members.since, self.served
        return [site for site in self.sites if since[site] > first and site not in served]

    def came_after(self, parts: Sequence[str], site: str) -> bool:
        """Say whether a site came after the first round that learnt one of these parts: its gate takes none of them."""
        learnt = [place for place, (phase, _) in enumerate(schedule(self.experiment)) if set(parts) & set(phase.learns)]
        return bool(learnt) and self.members.since.get(site, 0) > learnt[0]

    def trains(self, site: str) -> bool:
        """Say whether a site trains networks with the others, by its level of sharing."""
        return levels.reaches(self.members.sharing[site], levels.NETWORKS)

    def segment(self) -> tuple[str, ...]:
        """List the sites that get a segmenter: those of the plan, or all that take part."""
        return self.plan.segment if self.plan.segment is not None else self.sites

    @property
    def trains_common(self) -> bool:
        """Whether the hub trains a segmenter in all sites' styles, also where each site that takes part has its own."""
        return self.plan.common or (self.experiment.generation.common_segmenter and self.plan.segment is None)

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

    def fault(self, reply: SiteReply) -> str:
        """Give an error code for what is wrong with a reply that brings no weights; "" where nothing is."""
        asked = PhaseRequest(self.plan.run, reply.phase, reply.round, reply.site, "")
        return vet.fault(reply, asked, phase_of(reply.phase), self.experiment)

    def tell(self, event: str, **values: object) -> None:
        """Append one event to `events.jsonl`, for displays and reports; what a round brought becomes curves, too."""
        events.tell(self.folder, event, self.plan.run, values)
        if event == "round.finished":
            board.update(self.folder)


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
    segment = None if wanted is None else tuple(wanted)
    plan = Plan(values["run"], segment, values.get("device", "auto"), values.get("common", False))
    return Hub(folder, plan, experiment, read_atlas(folder), federation, patience)
