"""Sites that come: each is asked to join beside the rounds, so that no round waits for one that prepares its scans.

A site takes part from the first round that begins after its answer. One that comes when no round is left in which it
could still get a model is told so, and does not take part.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from configs import levels
from configs.errors import FederationError
from server.members import FIRST, LAST, Members
from sst_models.wire.exchange import PhaseRequest, SiteReply

MISMATCH = "mismatch"
"""Error code for a site that holds another atlas, and a site's own for what does not fit together."""

LOOK = 0.5
"""Seconds between two looks for answers, where nothing else is done meanwhile."""

log = logging.getLogger(__name__)


@dataclass
class Joining:
    """The sites that were asked to join and have not answered, and what came of the others.

    Args:
        members: the sites that take part.
        ask: makes the request for a site; the other argument is whether it comes too late.
        fault: gives an error code for what is wrong with a reply.
        atlas: digest of the run's atlas.
        deadlines: seconds that a member has, which has its scans prepared, and a site that is new.
        done: rounds of the run that are over, which a site that joins now has missed.
        served: sites that have their models, of whom nothing is asked.
        closed: the run is being ended, and nobody new is asked to join.
    """

    members: Members
    ask: Callable[[str, bool], PhaseRequest]
    fault: Callable[[SiteReply], str]
    atlas: str
    deadlines: tuple[float, float]
    done: int = 0
    served: frozenset[str] = frozenset()
    closed: bool = False
    under_way: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)  # those that were told that they come too late
    failed: dict[str, str] = field(default_factory=dict)  # why a site could not join, by its error code
    _joined: dict[str, dict[str, object]] = field(
        default_factory=dict
    )  # since the last event: counts of those that did
    _failed: set[str] = field(default_factory=set)  # since the last event: those that did not

    def gather(self, least: int, late: bool = False, awaited: Collection[str] = ()) -> None:
        """Wait until `least` sites have joined, and those that took part before have shown what they hold.

        Sites that joined before need not be there, or take part, any more. One that is new holds up nobody once enough
        have joined.

        Args:
            least: how many have to have joined, ever.
            late: tell those that are new that they come too late.
            awaited: sites of which one has to have joined, too, unless all of them were dismissed meanwhile.

        Raises:
            FederationError: too few can join, and waiting for them to be mended took too long.
        """
        before, end = set(self.members.names) - self.served, time.monotonic() + self.members.patience
        self.begin(self.members.here(), late)
        pause, again = FIRST, time.monotonic() + FIRST
        while True:
            self.take(late)
            wanted = self.members.not_out(awaited)
            enough = len(self.members.joined) >= least and (not wanted or bool(set(wanted) & set(self.members.joined)))
            if enough and not before & self.under_way:
                return self.tell()
            now = time.monotonic()
            if not self.under_way and now + FIRST > end:
                self.tell()
                why = "; ".join(cannot_join(site, code) for site, code in sorted(self.failed.items()))
                short = f"none of {', '.join(wanted)} joined" if wanted else ""
                raise FederationError(why or short or f"{len(self.members.joined)} of {least} sites joined")
            time.sleep(LOOK if self.under_way else FIRST)
            if again <= time.monotonic() <= end:
                self.tell()
                missing = dict.fromkeys(wanted, "unavailable") | self.failed
                self.members.tell("round.waiting", phase="join", round=1, missing=missing)
                self.begin(self.members.strangers(), late)
                again, pause = time.monotonic() + pause, min(LAST, 2 * pause) if wanted else FIRST

    def welcome(self, late: bool = False) -> None:
        """Ask sites that came since the last round to join, and let those take part that have answered."""
        self.begin(self.members.strangers(), late)
        self.take(late)
        self.tell()

    def wait(self) -> None:
        """Wait until those that were asked have answered, or their deadline is over."""
        while self.under_way:
            time.sleep(LOOK)
            self.take()
        self.tell()

    def begin(self, sites: Iterable[str], late: bool = False) -> None:
        """Ask sites to join, those that are not being asked; `take` has the answers when they are there.

        Args:
            sites: that are there.
            late: tell those that are new that they come too late.
        """
        known = set(self.members.joined)
        wanted = sorted(set(sites) - self.under_way - self.late - self.served)
        if self.closed:
            wanted = [site for site in wanted if site in known]
        members, new = [site for site in wanted if site in known], [site for site in wanted if site not in known]
        if wanted and not (late and not members):
            self.members.tell("round.started", phase="join", round=1)
        federation, (usual, long) = self.members.federation, self.deadlines
        federation.begin([self.ask(site, False) for site in members], usual)
        federation.begin([self.ask(site, late) for site in new], usual if late else long)
        self.under_way |= set(wanted)
        for site in new if late else ():
            self.late.add(site)
            self.members.tell("site.late", site=site)

    def take(self, late: bool = False) -> None:
        """Take the answers that have come; a new site whose answer comes too late is told so."""
        while replies := self.members.federation.answered():
            for reply in replies:
                self.under_way.discard(reply.site)
                if reply.site not in self.late:
                    self._take(reply, late)

    def _take(self, reply: SiteReply, late: bool) -> None:
        site, code = reply.site, reply.error or self.fault(reply)
        self.members.judge(reply, code)
        self.failed.pop(site, None)
        if not code and reply.settings.get("atlas") != self.atlas:
            code = MISMATCH
        if code:
            self.failed[site] = code
            self._failed.add(site)
            log.warning("%s", cannot_join(site, code))
        elif late and site not in self.members.joined:
            self.begin([site], late=True)
        else:
            self._joined[site] = dict(reply.settings)
            self.members.add(site, reply.count, str(reply.settings.get("level", levels.MODELS)), self.done)

    def tell(self) -> None:
        """Let the hub's events have what came since the last time, where anything did."""
        failed = {site: code for site, code in sorted(self.failed.items()) if site in self._failed}
        if self._joined or failed:
            traffic = self.members.traffic("join", 1)
            told = {"sites": dict(self._joined), "failed": failed, "traffic": traffic, "more": True}
            self.members.tell("round.finished", phase="join", round=1, **told)
        self._joined.clear()
        self._failed.clear()


WHY: Mapping[str, str] = MappingProxyType(
    {
        MISMATCH: "holds another atlas, or is of another version; start it with a fresh state folder",
        "load": "did not run the app: it has approved another version; send it its kit, for sst site approve --kit",
        "refused": "has approved another run, preset or atlas; send it its kit, for sst site approve --kit",
        "too-few": "has fewer scans than its policy asks for",
    }
)
"""What a code means for a site that wants to join."""


def cannot_join(site: str, code: str) -> str:
    """Say why a site does not take part, and what to do."""
    if code in WHY:
        return f"site {site} {WHY[code]} ({code})"
    return f"site {site} could not join ({code}); its own site.log says why"
