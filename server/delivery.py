"""The end of a run: segmenters are tested at the sites (phase 7), and each site gets its model (phase 8)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from configs.errors import FederationError
from configs.phases import phase_of
from server.generators import style_source
from server.hub import Hub
from server.members import CLOSING, DECLINED
from server.state import COMMON, SEGMENTER, STATISTICS, RunState
from sst_models.wire import payload
from sst_models.wire.exchange import Arrays, SiteReply
from sst_models.wire.files import write_json

MOST_CROSSED = 16
"""Segmenters that are each tested at every site: as many as a site's policy allows as a rule (`most_segmenters`).

Where there are more, each is tested at its own site, and the common one everywhere: tests grow as the square of sites.
"""


@dataclass(frozen=True)
class Test:
    """One segmenter that is tested."""

    style: str  # whose it is, as the table has it
    part: str  # of the run's state
    sites: tuple[str, ...]  # that test it


@dataclass(frozen=True)
class Closing:
    """What the end of a run was decided to be when it began."""

    sites: tuple[str, ...]  # that take part, for the models' cards
    asked: tuple[str, ...]  # of those, the ones that have no model yet
    tests: tuple[Test, ...]
    tested: bool = False  # the cross-site table is whole


def closing(hub: Hub) -> bool:
    """Say whether the run is being ended."""
    return (hub.folder / CLOSING).exists()


def finish(hub: Hub) -> None:
    """Say that the run is finished."""
    hub.tell("run.finished")
    (hub.folder / CLOSING).unlink(missing_ok=True)


def evaluate(hub: Hub, state: RunState) -> None:
    """Phase 7: test each segmenter at each site that has labels; means and counts make the cross-site table.

    Where segmenters are many, see `MOST_CROSSED`.

    The common one is tested once at a site, however many have it. In a run that was opened again for sites that came
    later, those are asked, with what they get. A site whose policy keeps its figures is asked once.
    """
    own = _closing(hub, state)
    if own.tested:
        return
    path = hub.folder / "cross-site.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    table: list[dict[str, object]] = [row for row in before if row["site"] not in own.asked]
    members = hub.sites
    declined: set[str] = set()
    digests = {test.part: payload.digest(state.parts[test.part]) for test in own.tests}
    there = {site: dict.fromkeys(digests[test.part] for test in own.tests if site in test.sites) for site in members}
    for number, test in enumerate(own.tests, start=1):
        hub.tell("round.started", phase="evaluate", round=number)
        sites = [site for site in test.sites if site in members]
        segmenter = {"segmenter": state.parts[test.part]}
        asked = {s: hub.request("evaluate", number, s, segmenter) for s in sites if s not in declined}
        requests = {
            site: replace(
                one, settings={**one.settings, "segmenters": " ".join(dict.fromkeys(there[site])), "style": test.style}
            )
            for site, one in asked.items()
        }
        rows: dict[str, dict[str, object]] = {}

        def take(reply: SiteReply, rows: dict[str, dict[str, object]] = rows) -> str:
            code = hub.fault(reply)
            if not code:
                rows[reply.site] = {"scans": reply.count, "dice": dict(reply.metrics), "error": ""}
            return code

        failed = hub.members.collect(requests, take, consent=True, least=0) if requests else {}
        declined |= {site for site, code in failed.items() if code == DECLINED}
        failed |= {site: DECLINED for site in sites if site in declined}
        rows |= {site: {"scans": 0, "dice": {}, "error": code} for site, code in failed.items()}
        table += [{"style": test.style, "site": site, **row} for site, row in sorted(rows.items())]
        traffic = hub.members.traffic("evaluate", number, list(requests))
        hub.tell("round.finished", phase="evaluate", round=number, traffic=traffic, more=True)
    write_json(table, path)
    write_json(asdict(replace(own, tested=True)), hub.folder / CLOSING)


def deliver(hub: Hub, state: RunState) -> None:
    """Phase 8: give each site its model: its segmenter, the atlas's labels, and what its generator is made of.

    Where segmenter and registration are fused (`segmenter.fuse_registration`), E and F are in it, too.

    Raises:
        FederationError: a site could not keep it.
    """
    labels = {"labels": hub.atlas.packed()}
    own, figures, served = _closing(hub, state), _figures(hub), hub.served
    requests = {}
    for site, arrays in sorted(_segmenters(hub, state).items()):
        if site not in own.asked or site in served:
            continue
        style = style_source(hub.experiment, state, site)
        parts: dict[str, Arrays] = {"segmenter": arrays, "atlas": labels}
        if hub.experiment.appearance.weight and hub.trains(site):
            # Also where a site kept its A to itself: it has one to make a generator of.
            parts |= {part: state.parts[part] for part in ("decoder",) if part in state.parts}
        if style.appearance is not None:
            parts |= {"A": style.appearance}
        if style.moments is not None:
            parts["moments"] = style.moments
        if (measured := state.parts.get(f"{STATISTICS}.{site}")) is not None:  # its own; those of others stay here
            parts["statistics"] = measured
        if hub.experiment.segmenter.fuse_registration and hub.trains(site):
            parts |= {part: found for part in ("E", "F") if (found := state.of(part, site)) is not None}
        request = hub.request("deliver", 1, site, parts, state)
        shown = figures.get(site if _keeps(hub, state, site) else _whose(state, site), {})
        about = {"sites": json.dumps(own.sites), "figures": json.dumps(shown)}
        requests[site] = replace(request, settings={**request.settings, **about})
    if not requests:
        return

    def take(reply: SiteReply) -> str:
        code = hub.fault(reply)
        if not code:
            hub.tell("site.delivered", site=reply.site)
        return code

    for site, code in hub.members.collect(requests, take, consent=True, quorum=1.0, least=0).items():
        if site in hub.sites:
            raise FederationError(f"site {site} could not keep its segmenter ({code}); see its site.log")
    traffic = hub.members.traffic("deliver", 1, requests)
    hub.tell("round.finished", phase="deliver", round=1, traffic=traffic, more=True)


def _closing(hub: Hub, state: RunState) -> Closing:
    """Read what the end of the run was decided to be, or decide it."""
    path = hub.folder / CLOSING
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        tests = tuple(Test(test["style"], test["part"], tuple(test["sites"])) for test in kept["tests"])
        return Closing(tuple(kept["sites"]), tuple(kept["asked"]), tests, kept["tested"])
    members, served = hub.sites, hub.served
    asked = tuple(site for site in members if site not in served)
    decided = Closing(members, asked, tuple(_tests(hub, state, asked)))
    write_json(asdict(decided), path)
    return decided


def _tests(hub: Hub, state: RunState, asked: Sequence[str]) -> list[Test]:
    """List the segmenters that are tested, and where: each at all sites, but one that stays at its site there alone.

    Of more than `MOST_CROSSED` each is tested at its own site.
    """
    found = [site for site in _segmenters(hub, state) if site in asked]
    kept = [site for site in found if _keeps(hub, state, site)]
    there = [site for site in hub.answering(phase_of("evaluate")) if site in asked]
    tests = [Test(site, SEGMENTER, (site,)) for site in kept if site in there]
    styles = {_whose(state, site) for site in found}
    everywhere = len(styles) <= MOST_CROSSED
    for style in styles:
        own = style != COMMON
        sites = [s for s in there if everywhere or s == style] if own else [site for site in there if site not in kept]
        tests.append(Test(style, f"{SEGMENTER}.{style}" if own else SEGMENTER, tuple(sites)))
    return sorted(tests, key=lambda test: test.style)


def _segmenters(hub: Hub, state: RunState) -> dict[str, Arrays]:
    return {site: found for site in hub.segment() if (found := state.of(SEGMENTER, site)) is not None}


def _whose(state: RunState, site: str) -> str:
    """Say whose segmenter the hub has for a site: its own, or the common one."""
    return site if f"{SEGMENTER}.{site}" in state.parts else COMMON


def _keeps(hub: Hub, state: RunState, site: str) -> bool:
    """Say whether a site trained the common segmenter further, and what it became stays there."""
    return _whose(state, site) == COMMON and bool(hub.experiment.phases.rounds("adapt"))


def _figures(hub: Hub) -> dict[str, dict[str, object]]:
    """Give of each site's segmenter its mean Dice in percent, and the scans behind it, at every site that tested it."""
    table = json.loads((hub.folder / "cross-site.json").read_text(encoding="utf-8"))
    figures: dict[str, dict[str, object]] = {}
    for row in table:
        if row["dice"]:
            mean = round(100 * sum(row["dice"].values()) / len(row["dice"]), 2)
            figures.setdefault(row["style"], {})[row["site"]] = {"dice": mean, "scans": row["scans"]}
    return figures
