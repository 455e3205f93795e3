"""The end of a run: segmenters are tested at the sites (phase 7), and each site gets its model (phase 8)."""

import json
from dataclasses import replace

from configs.errors import FederationError
from configs.phases import phase_of
from server.generators import style_source
from server.hub import Hub
from server.state import COMMON, SEGMENTER, STATISTICS, RunState
from sst_models.wire import payload
from sst_models.wire.exchange import Arrays, SiteReply
from sst_models.wire.files import write_json


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
            code = hub.fault(reply)
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
    for site, code in hub.members.collect(requests, hub.fault, consent=True, quorum=1.0).items():
        raise FederationError(f"site {site} could not keep its segmenter ({code}); see its site.log")
    traffic = hub.members.traffic("deliver", 1)
    hub.tell("round.finished", phase="deliver", round=1, traffic=traffic, more=bool(served))


def _figures(hub: Hub) -> dict[str, dict[str, object]]:
    """Give of each site's segmenter its mean Dice in percent, and the scans behind it, at every site that tested it."""
    table = json.loads((hub.folder / "cross-site.json").read_text(encoding="utf-8"))
    figures: dict[str, dict[str, object]] = {}
    for row in table:
        if row["dice"]:
            mean = round(100 * sum(row["dice"].values()) / len(row["dice"]), 2)
            figures.setdefault(row["style"], {})[row["site"]] = {"dice": mean, "scans": row["scans"]}
    return figures
