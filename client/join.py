"""Phase 0 at a site: store the atlas, prepare the scans, answer with the atlas's digest and counts."""

from client.progress import Progress
from client.scans import keep_atlas, prepare_scans
from client.site import Site
from configs.schema import from_json
from sst_models.wire.exchange import PhaseRequest, SiteReply


def join(request: PhaseRequest, site: Site) -> SiteReply:
    """Join a run: counts of scans leave, names and reasons stay in the site's folder.

    Where the hub says that the site comes too late for a model, nothing is prepared; the gate notes it.

    Raises:
        DataError: no scan can be used.
    """
    if request.settings.get("late"):
        return SiteReply(site.name, request.phase, request.round, 0)
    experiment = from_json(request.experiment)
    digest = str(request.settings["atlas"])
    keep_atlas(request.arrays["atlas"], digest, site.folder(request.run))
    progress = Progress(site, request)
    prepared, splits = prepare_scans(site, request.run, experiment, progress.scans)
    train = sum(split == "train" for split in splits.values())
    labelled = sum(case.labelled for case in prepared.cases)
    settings: dict[str, int | float | str | bool] = {
        "level": site.policy.level,
        "atlas": digest,
        "scans": len(prepared.cases),
        "labelled": labelled,
        "set_aside": len(prepared.set_aside),
    }
    return SiteReply(site.name, request.phase, request.round, train, settings=settings)
