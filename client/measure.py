"""The phase "statistics" at a site: numbers of its people, of which the gate lets out a mean with noise."""

import numpy as np

from client import scans
from client.alignments import KeptAlignments
from client.progress import Progress
from client.site import Site
from configs.errors import DataError, TooFewError
from configs.schema import from_json
from sst_models.phases.statistics import untrained_aligner
from sst_models.statistics.measure import measure as measure_scans
from sst_models.training.device import choose
from sst_models.wire.exchange import PhaseRequest, SiteReply


def measure(request: PhaseRequest, site: Site) -> SiteReply:
    """Measure a site's training scans.

    The atlas is aligned by networks with their first weights, which every site can make: what they bring is the demons
    iterations, and a site needs nothing of another's scans.

    Returns:
        For the gate alone: "people" (people, NUMBERS), a row for each, the mean of her scans. None of it may leave as
        it is (`client.gate.noise`).

    Raises:
        DataError: the site has not joined, or the request holds no labels of the atlas.
        TooFewError: fewer people train here than its policy asks for.
    """
    experiment, folder = from_json(request.experiment), site.folder(request.run)
    own, whose = scans.cases(folder, "train"), scans.people(folder, "train")
    count, least = len(set(whose)), max(1, site.policy.min_cases)
    if count < least:
        raise TooFewError(f"scans of {count} people to train on; statistics are of {least} or more")
    sent = request.arrays.get("atlas", {})
    if "labels" not in sent:
        raise DataError("the request holds no labels of the atlas; hub and site need the same version")
    device = choose(site.device)
    atlases = scans.atlases(folder, sent["labels"], experiment, device)
    aligner = untrained_aligner(experiment, atlases, device)
    progress = Progress(site, request, len(own))
    again = experiment.phases.rounds("adapt") and site.policy.answers("adapt")
    kept = KeptAlignments.of(folder, own, aligner.nets, experiment) if again else None
    rows = measure_scans(own, aligner, lambda done: progress.learnt(done, 0.0), kept).cpu().numpy()
    people = np.stack([rows[[one == person for one in whose]].mean(0) for person in sorted(set(whose))])
    return SiteReply(site.name, request.phase, request.round, count, arrays={"statistics": {"people": people}})
