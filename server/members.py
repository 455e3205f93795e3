"""Which sites take part in a run, and asking them until enough have answered.

A site takes part from the first round that begins after it came, and until the operator dismisses it: one that is away
still counts for the quorum, so that a run does not go on without a hospital only because its link was down.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import levels
from configs.errors import FederationError
from server.federation import Federation
from server.office import LEFT
from server.vet import Strikes
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.files import write_json

AWAY = frozenset({"lost", "unavailable", "crashed", "deadline"})
"""Codes for a site that did not answer; any other code is its answer."""

DECLINED = "declined"
"""Code of a site whose policy leaves a phase out: it counts as an answer in every phase, and the run goes on."""

BAD = frozenset({"malformed", "digest"})
"""Codes of the hub's own for a reply that it could not read."""

STRIKES = "strikes.json"
"""In the hub's folder: how often each site's reply failed a check."""

CLOSING = "closing.json"
"""In the hub's folder while a run is being ended: whom it serves, and with what. A restart asks the same, word for
word, as sites answer no other request for a round than the one that they have taken."""

MEMBERS = "members.json"
"""In the hub's folder: the sites that joined, each with its number of training scans, its level of sharing, and how
many rounds of the run were over when it joined."""

FIRST, LAST = 5.0, 120.0
"""Seconds between two tries of sites that a phase waits for: doubled from the first to the last."""

Take = Callable[[SiteReply], str]
"""Takes a reply in; gives an error code where it fails a check of the hub."""


@dataclass(frozen=True)
class Members:
    """The sites of one run."""

    federation: Federation
    folder: Path  # the hub's
    quorum: float  # share of the sites whose reply a round needs
    patience: float  # seconds that a round waits for its quorum
    tell: Callable[..., None]  # the hub's events

    @property
    def names(self) -> tuple[str, ...]:
        """The sites that take part, there or away, without those in quarantine; sorted."""
        return self.not_out(self.joined)

    @property
    def joined(self) -> tuple[str, ...]:
        """The sites that ever joined, those in quarantine and those that were dismissed, too; sorted."""
        return joined(self.folder)

    @property
    def counts(self) -> dict[str, int]:
        """How many scans each site has to train on, as it said when it joined; a version before 0.3 kept no counts."""
        found = {site: about.get("scans") for site, about in _read(self.folder / MEMBERS).items()}
        return {site: count for site, count in sorted(found.items()) if isinstance(count, int)}

    @property
    def sharing(self) -> dict[str, str]:
        """The level of sharing of each site, as it said when it joined; one that said none, before 0.4, shared all."""
        return {site: about.get("level", levels.MODELS) for site, about in _read(self.folder / MEMBERS).items()}

    @property
    def since(self) -> dict[str, int]:
        """How many rounds of the run were over when each site joined."""
        return {site: int(about.get("since", 0)) for site, about in _read(self.folder / MEMBERS).items()}

    @property
    def strikes(self) -> Strikes:
        """What the hub found wrong with replies, by site."""
        return Strikes(self.folder / STRIKES)

    def strangers(self) -> tuple[str, ...]:
        """Give the sites that are there and do not take part yet; sorted."""
        return tuple(sorted(set(self.here()) - set(self.joined)))

    def here(self) -> tuple[str, ...]:
        """Give the sites that are there, without those in quarantine and those that were dismissed; sorted."""
        return self.not_out(self.federation.sites())

    def traffic(self, phase: str, number: int, among: Collection[str] | None = None) -> list[dict[str, object]]:
        """Give the bytes to and from each site, or some of them, in one round."""
        return [
            {"site": item.site, "down": item.down, "up": item.up}
            for item in self.federation.traffic
            if item.phase == phase and item.round == number and (among is None or item.site in among)
        ]

    def not_out(self, sites: Collection[str]) -> tuple[str, ...]:
        """Give those of some sites that are neither in quarantine nor dismissed; sorted."""
        return tuple(sorted(set(sites) - self._left() - self.strikes.out))

    def add(self, site: str, count: int, level: str = levels.MODELS, done: int = 0) -> None:
        """Let a site take part from now on, with so many scans to train on, at a level of sharing.

        One that joins again, after a restart, has taken part since it first did.
        """
        known = _read(self.folder / MEMBERS)
        since = known[site].get("since", 0) if site in known else done
        about = {**known, site: {"scans": count, "level": level, "since": since}}
        write_json(dict(sorted(about.items())), self.folder / MEMBERS)

    def collect(
        self,
        requests: Mapping[str, PhaseRequest],
        take: Take,
        drop_outliers: Callable[[], Mapping[str, str]] = dict,
        consent: bool = False,
        quorum: float | None = None,
        least: int = 1,
    ) -> dict[str, str]:
        """Ask until the quorum's replies count; a request that is repeated is answered from the site's cache.

        Args:
            requests: of one round, by site.
            take: takes in a reply without an error.
            drop_outliers: called when all have answered; drops replies that are wrong beside the others'.
            consent: a site may say no to this round, and that counts as its answer.
            quorum: instead of the run's.
            least: replies that must count in any case; 0 where the run can go on when all that were asked have left.

        Returns:
            For each site without a reply that counts, why: the site's error code, or the hub's.

        Raises:
            FederationError: no quorum, and waiting for it took longer than `patience`.
        """
        some = next(iter(requests.values()))
        failed: dict[str, str] = {}
        todo, pause, end = list(requests.values()), FIRST, time.monotonic() + self.patience
        while True:
            for reply in self.federation.ask(todo):
                failed.pop(reply.site, None)
                if code := reply.error or take(reply):
                    failed[reply.site] = code
                    self.judge(reply, code)
                del reply  # else it would live while the next one is unpacked
            for site, code in drop_outliers().items():
                failed[site] = code
                self._strike(site, some.phase, code)
            self._tell_late()
            gone = self.strikes.out | self._left()
            needed = max(least, (self.quorum if quorum is None else quorum) * len(set(requests) - gone))
            missing = {s: code for s, code in failed.items() if code in AWAY or not (consent or code == DECLINED)}
            if len(requests) - len(missing) >= needed or (consent and self.patience == 0):
                return failed
            if time.monotonic() + pause > end:
                raise _no_quorum(some.phase, missing, len(requests))
            self.tell("round.waiting", phase=some.phase, round=some.round, missing=missing)
            todo = self._await([requests[site] for site in sorted(set(missing) - gone)], pause, end)
            pause = min(LAST, 2 * pause)

    def _await(self, missing: list[PhaseRequest], pause: float, end: float) -> list[PhaseRequest]:
        """Wait until a site came back, or `pause` is over and one is there; give the requests of all that are."""
        again = time.monotonic() + pause
        away = {request.site for request in missing} - set(self.federation.sites())
        while True:
            time.sleep(min(FIRST, pause))
            there, gone = set(self.federation.sites()), self.strikes.out | self._left()
            missing = [request for request in missing if request.site not in gone]
            back = [request for request in missing if request.site in there]
            now = time.monotonic()
            if away & there - gone or (back and now > again) or not missing or now > end:
                return back

    def judge(self, reply: SiteReply, code: str) -> None:
        """Count a strike where the hub found a reply to be wrong; an error that a site may say is none."""
        if code and (not reply.error or reply.error in BAD):
            self._strike(reply.site, reply.phase, code)

    def _strike(self, site: str, phase: str, code: str) -> None:
        if self.strikes.add(site):
            self.tell("site.quarantined", site=site, phase=phase, why=code)

    def _tell_late(self) -> None:
        while self.federation.late:
            late = self.federation.late.pop(0)
            self.tell("reply.late", site=late.site, phase=late.phase, round=late.round)

    def _left(self) -> set[str]:
        return set(_read(self.folder / LEFT))


def joined(folder: Path) -> tuple[str, ...]:
    """Give the sites that ever joined the run of a hub's folder; sorted."""
    return tuple(sorted(_read(folder / MEMBERS)))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Read names, with what is known of each where the file has it; before 0.4 that was a number of scans."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    if not isinstance(found, dict):
        return {str(site): {} for site in found}
    return {site: about if isinstance(about, dict) else {"scans": about} for site, about in found.items()}


def _no_quorum(phase: str, failed: Mapping[str, str], asked: int) -> FederationError:
    why = ", ".join(f"{site}: {code}" for site, code in sorted(failed.items()))
    return FederationError(
        f"phase {phase}: {asked - len(failed)} of {asked} sites answered ({why}); "
        "see site.log at those sites, then start the run again"
    )
