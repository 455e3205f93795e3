"""What an audit found, as a page for people (`audit.html`) and as a file for programs (`audit.json`)."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from client.audit.membership import Estimate, Membership
from configs.phases import PARTS
from simulation.audit.attributes import Inferred
from simulation.audit.audit import Audit, Part, SiteAudit
from simulation.report import templates
from simulation.results import plain
from sst_models.wire.files import replace_file

FORMAT = 1
"""Version of `audit.json`."""

AUC, FOUND = 0.60, 0.10
"""What this project aims at: no attack above this area, nor above this share of members at 5 % false positives."""

WELL = 0.75
"""Area from which on the page says that an attack works well; a convention."""

NAMES = {"statistics": "the statistics", "moments": "the moments of style codes", "segmenter": "the segmenter"}
NAMES |= {"counts": "counts", "figures": "figures of a test", "curves": "training curves"}
"""Of what leaves, in words; networks have those of `configs.phases`."""


def write(found: Audit, folder: Path) -> Path:
    """Write `audit.json` and `audit.html` into a folder; give the path of the page."""
    text = json.dumps(as_document(found), indent=1, sort_keys=True, allow_nan=False)
    replace_file(folder / "audit.json", text + "\n")
    page = folder / "audit.html"
    replace_file(page, audit_html(found))
    return page


def as_document(found: Audit) -> dict[str, Any]:
    """Give what `audit.json` holds."""
    return {"format": FORMAT, **plain(asdict(found))}


def audit_html(found: Audit) -> str:
    """Give the page; the same findings give the same bytes."""
    environment = templates()
    environment.filters |= {"named": named, "figure": figure, "percent": percent, "epsilon": epsilon, "place": place}
    environment.filters |= {"verdict": verdict, "share": share}
    return environment.get_template("audit.html").render(
        audit=found, headline=headline(found), sentences=[(each, list(_of_site(each))) for each in found.sites]
    )


def headline(found: Audit) -> str:
    """Give the worst that could be judged in one sentence."""
    judged = [(one, each) for each in found.sites for one in each.parts if one.membership and one.membership.conclusive]
    if not judged:
        return "No attack had decisions enough to be judged."
    part, site = max(judged, key=lambda pair: _auc(pair[0]).value)
    reached = f"area under the ROC curve {_auc(part).value:.2f}, where 0.5 is chance and 1 is certainty"
    return f"The strongest attack that can be judged is on {named(part.release.part)} of {site.site}: {reached}."


def sentences(found: Audit) -> Iterator[str]:
    """Give a sentence for each part that was attacked at each site, and one for all that was not."""
    for site in found.sites:
        for words in _of_site(site):
            yield f"{site.site} (atlas of {site.atlas}): {words}"


def _of_site(site: SiteAudit) -> Iterator[str]:
    for part in site.parts:
        if part.membership:
            yield _attacked(part, part.membership)
    if not site.parts:
        yield "Nothing left."
    if site.copies:
        near = f"{site.copies.nearest_trained:.2f}, with one that never trained {site.copies.nearest_other:.2f}"
        yield f"Generated images: the highest similarity (MS-SSIM) with a scan that trained is {near}; 1 is a copy."
    if site.inferred:
        yield _inferred(site.inferred[0])
    untested = dict.fromkeys(named(part.release.part) for part in site.parts if not part.membership)
    if untested:
        yield f"Not attacked: {', '.join(untested)}."


def _inferred(found: Inferred) -> str:
    told = "".join(f"; told who is {name}: AUC {figure(one.auc)}" for name, one in found.attributes.items())
    return f"Worked out of one person by all others' numbers: {share(found.numbers)} of what hers differ by{told}."


def _attacked(part: Part, reached: Membership) -> str:
    found = f"AUC {figure(reached.auc)}, {percent(reached.tpr_5)} of members found at 5 % false positives"
    name, how = named(part.release.part), f"{reached.members + reached.others} decisions; {part.attack}"
    return f"{name[0].upper()}{name[1:]}: {verdict(reached)} ({found}; {how})."


def verdict(reached: Membership) -> str:
    """Say in words how strong an attack is, by the figures as they are shown."""
    if not reached.conclusive:
        return "too few decisions to conclude"
    area, found = round(reached.auc.value, 2), round(reached.tpr_5.value, 2)
    if area <= AUC and found <= FOUND:
        return "members are told from others hardly better than by chance"
    return f"members are told from others {'better than by chance' if area < WELL else 'well'}"


def named(part: str) -> str:
    """Give a part in words."""
    return NAMES.get(part) or PARTS.get(part, part)


def figure(found: Estimate) -> str:
    """Give a figure with its interval."""
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def percent(found: Estimate) -> str:
    """Give a share with its interval, in per cent."""
    return f"{100 * found.value:.0f} % ({100 * found.low:.0f} to {100 * found.high:.0f})"


def share(value: float) -> str:
    """Give a share in per cent; less than nothing is nothing."""
    return f"{100 * max(0.0, value):.0f} %"


def epsilon(value: float) -> str:
    """Give an epsilon."""
    return "without noise" if math.isinf(value) else f"{value:.3g}"


def place(value: float) -> str:
    """Give where an area lies on its scale from 0 to 1, in per cent of its length."""
    return f"{100 * value:.1f}"


def _auc(part: Part) -> Estimate:
    assert part.membership is not None
    return part.membership.auc
