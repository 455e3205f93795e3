"""The page and the file of an audit: whole, self-contained, in words that fit the figures, and described."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.audit.membership import Estimate, Membership, measure
from client.audit.statistics import Attacked
from parsed_page import Page
from simulation.audit.attributes import FEMALE, Inferred
from simulation.audit.audit import Audit, Part, SiteAudit
from simulation.audit.copies import Copies
from simulation.audit.releases import UNTESTED, Noise, Release
from simulation.audit.report import audit_html, headline, sentences, verdict, write


def reached(auc: float, found: float = 0.05, decisions: int = 1000) -> Membership:
    """What an attack reached."""
    area, rate = (Estimate(value, max(0.0, value - 0.1), min(1.0, value + 0.1)) for value in (auc, found))
    return Membership(area, rate, rate, decisions // 2, decisions - decisions // 2, 20)


def site(name: str, *parts: Part) -> SiteAudit:
    """A site of which some parts left."""
    rows = tuple(Attacked(e, 12, reached(0.6), reached(0.6), 0.7, 0.73) for e in (4.0, math.inf))
    near = Copies(24, 0.93, 0.92, reached(0.5, decisions=20))
    noise = Noise(4.0, 1e-5, 4.0, math.inf)
    worked_out = tuple(Inferred(e, share, {FEMALE: reached(0.55)}) for e, share in ((4.0, -0.01), (math.inf, 1.0)))
    return SiteAudit("oasis", name, "networks", 20, 12, noise, parts, rows, worked_out, near)


WEAK = Part(Release("statistics", "statistics", 1, 1168), "LiRA with shadow sites", reached(0.58))
FEW = Part(Release("register", "T", 3, 4_400_000), "registration loss", reached(0.99, 0.9, 19))
NOT = Part(Release("style", "E", 3, 5_700_000), untested=UNTESTED["E"])
FOUND = Audit({"preset": "tiny", "data": "made-up <scans>"}, (site("oasis", WEAK, FEW, NOT), site("ixi")))


def test_the_page_needs_nothing_else_and_is_whole() -> None:
    """One file without a script or anything from elsewhere; every tag is closed; each site and part is there."""
    page = audit_html(FOUND)
    parsed = Page(page)
    assert not parsed.open
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe"}
    assert not re.search(r"(?:src|href)=[\"'](?!#)", page) and "url(" not in page and "@import" not in page
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in parsed.tags
    assert {"In short", "oasis, atlas of oasis", "What the figures mean", "This run"} <= {
        heading.strip() for heading in parsed.headings
    }
    assert "made-up &lt;scans&gt;" in page and UNTESTED["E"] in page and "without noise" in page
    assert audit_html(FOUND) == page


def test_words_fit_the_figures() -> None:
    """Too few decisions say nothing, however high the area; a strong attack is called one."""
    assert verdict(reached(0.99, 0.9, 499)) == "too few decisions to conclude"
    assert "hardly better than by chance" in verdict(reached(0.60, 0.10))
    assert verdict(reached(0.60, 0.11)).endswith("better than by chance") and "hardly" not in verdict(
        reached(0.60, 0.11)
    )
    assert verdict(reached(0.8, 0.4)).endswith("others well")


def test_each_part_has_a_sentence_and_the_headline_is_the_worst_that_can_be_judged() -> None:
    """What has too few decisions is no headline; what was not attacked is named."""
    said = list(sentences(FOUND))
    assert "statistics of oasis" in headline(FOUND) and "0.58" in headline(FOUND)
    assert any("The registration network T: too few decisions" in line for line in said)
    assert any("0 % of what hers differ by; told who is female: AUC 0.55" in line for line in said)
    assert any(line.endswith("Not attacked: the style encoder E.") for line in said)
    assert "Nothing left." in " ".join(line for line in said if line.startswith("ixi"))
    assert "No attack" in headline(replace(FOUND, sites=(site("ixi", FEW),)))


def test_the_file_has_all_figures(tmp_path: Path) -> None:
    """Each figure with its interval; an infinite epsilon is null."""
    page = write(FOUND, tmp_path)
    assert page == tmp_path / "audit.html" and page.read_text(encoding="utf-8") == audit_html(FOUND)
    document = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    first = document["sites"][0]
    assert document["format"] == 1 and first["noise"]["spent"] is None and first["statistics"][1]["epsilon"] is None
    assert first["parts"][0]["membership"]["auc"] == {"value": 0.58, "low": 0.48, "high": 0.6799999999999999}
    assert first["parts"][2]["membership"] is None and first["parts"][2]["untested"]


def test_a_measured_attack_can_be_reported() -> None:
    """What `measure` gives has all that a page shows."""
    draws = np.random.default_rng(0)
    found = measure(draws.normal(0, 1, 600), np.arange(600) < 300, np.arange(600))
    assert "hardly better" in verdict(found)
