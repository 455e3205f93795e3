"""One site: from a request of the hub to the reply, without any transport."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.policy import Policy
from client.preparation import Preparation
from configs.errors import FederationError
from sst_models.exchange import PhaseRequest, SiteReply

LEARNING = ("register", "style", "joint", "flow_codes", "adapt")
"""The phases in which a site trains."""


RUN = re.compile(r"(?!\.)[A-Za-z0-9._-]{0,64}")
"""What a run may be called: it names a folder at each site."""


@dataclass(frozen=True)
class Site:
    """What a site knows of itself; nothing of it comes from the hub."""

    name: str
    data: tuple[Path, ...]  # folders with scans
    state: Path  # folder of the site's own: prepared scans, optimisers, queue, ledger
    policy: Policy
    splits: Path | None = None  # a splits.tsv instead of the site's random split by person
    device: str = "auto"
    preparation: Preparation = Preparation()

    def folder(self, run: str) -> Path:
        """Give the folder of one run's state at this site.

        Raises:
            FederationError: the run's name, which the hub chose, could lead out of the state folder.
        """
        if not RUN.fullmatch(run):
            raise FederationError("the hub's name for the run is none: letters, digits, dots, - and _, at most 64")
        return self.state / "runs" / run


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
    if phase in LEARNING:
        from client.learn import learn

        return learn
    raise FederationError(f"phase '{phase}' is not known at this site; hub and site need the same version")
