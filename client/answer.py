"""From a request of the hub to the site's reply, without any transport."""

from collections.abc import Callable

from client.site import Site
from configs.errors import FederationError
from configs.phases import at_sites
from sst_models.wire.exchange import PhaseRequest, SiteReply


def answer(request: PhaseRequest, site: Site) -> SiteReply:
    """Answer one request of the hub.

    Raises:
        SstError: the site's scans, its state or the request cannot be used.
    """
    return _handler(request.phase)(request, site)


def _handler(phase: str) -> Callable[[PhaseRequest, Site], SiteReply]:
    # Imported where used: each message may be a new process, and not each needs torch's or SimpleITK's seconds.
    if phase == "join":
        from client.join import join

        return join
    if phase in ("evaluate", "deliver"):
        from client import deliver

        return deliver.evaluate if phase == "evaluate" else deliver.deliver
    if phase == "statistics":
        from client.measure import measure

        return measure
    if phase in {phase.name for phase in at_sites()}:
        from client.learn import learn

        return learn
    raise FederationError(f"phase '{phase}' is not known at this site; hub and site need the same version")
