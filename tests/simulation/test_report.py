"""The report and the table of the terminal: complete, self-contained, honest about what is missing or worse."""

import re
import warnings
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from client.pictures import paint, png_uri
from configs.shown import size_text
from configs.structures import PAPER
from parsed_page import Page
from simulation.arms import ARMS
from simulation.figures import losses_chart
from simulation.gains import gains
from simulation.measured import Crossing, Curve
from simulation.overview import brief
from simulation.report import headline, report_html, write_report
from simulation.report_pictures import paint_mistakes, strips
from simulation.report_tables import crossing_tables, duration_text, score_tables, traffic_tables
from simulation.results import ArmScore, Results, ScanScore, SetAside
from simulation.table import print_table, table_text
from synthetic_run import arm_score, run_panels, run_results


@pytest.fixture(scope="module")
def page() -> str:
    """The report of the whole synthetic run."""
    return report_html(run_results(), run_panels())


def test_the_report_needs_nothing_else(page: str) -> None:
    """One file: no script, no style sheet or picture from elsewhere."""
    parsed = Page(page)
    assert parsed.open == []
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "link", "iframe", "object")]
    sources = [
        attrs.get("src") or attrs.get("xlink:href") or "" for tag, attrs in parsed.tags if tag in ("img", "image")
    ]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    links = [attrs["href"] or "" for tag, attrs in parsed.tags if tag == "a"]
    assert links and all(link.startswith("#") for link in links)
    assert "url(http" not in page and "@import" not in page


def test_everything_drawn_has_words(page: str) -> None:
    """Each picture has an alt text and each chart a label; the language is set; all links lead somewhere."""
    parsed = Page(page)
    assert all(attrs.get("alt") for tag, attrs in parsed.tags if tag == "img")
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for tag, attrs in parsed.tags if tag == "svg")
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert all(attrs["href"].removeprefix("#") in ids for tag, attrs in parsed.tags if tag == "a" and attrs["href"])
    assert ("html", {"lang": "en"}) in parsed.tags


def test_charts_take_the_colours_of_the_page(page: str) -> None:
    """No stand-in colour is left, so that text is readable on light and on dark paper."""
    assert not re.search("#0(10101|20202|30303)", page)
    assert "var(--ink)" in page and "prefers-color-scheme: dark" in page


def test_every_arm_direction_and_reason_is_there(page: str) -> None:
    """Nothing that was measured is missing from the page."""
    for text in ("oasis → ixi", "ixi → oasis", "the file ends early", "12 min 34 s", "3.1 GB", "made-up scans"):
        assert text in page, text
    for score in run_results().scores:
        assert f"{score.mean:.1f} ± {score.std:.1f}" in page
        assert ARMS[score.arm].meaning.split(",")[0].replace("'", "&#39;") in page


def test_same_results_same_bytes(page: str) -> None:
    """The report can be compared between two machines."""
    assert report_html(run_results(), run_panels()) == page


def test_what_was_not_measured_has_no_heading() -> None:
    """A run with nothing but its settings shows them and nothing else."""
    parsed = Page(report_html(Results(run={"preset": "tiny"}), []))
    assert parsed.headings == ["This run"]


def test_a_single_scan_and_a_single_arm_make_a_report(tmp_path: Path) -> None:
    """The smallest run that has a score, with a structure that no scan has."""
    scan = ScanScore.of("sub-1", {"Caudate": 70.0, "CSF": float("nan")})
    results = Results(run={}, scores=(ArmScore("affine", "a", "a", (scan,)),))
    path = write_report(results, [], tmp_path / "run")
    text = path.read_text(encoding="utf-8")
    assert (
        path.name == "report.html"
        and "70.0 ± 0.0" in text
        and "nan" not in re.sub("<svg.*?</svg>", "", text, flags=re.S)
    )
    assert Page(text).open == []


def test_text_from_a_user_cannot_become_markup() -> None:
    """File names and reasons are shown as they are."""
    nasty = SetAside("<b>", "a&b.nii.gz", "<script>alert(1)</script>")
    score = arm_score(np.random.default_rng(0), "F", ("x<y", "$a_{b}$"), 70.0)
    text = report_html(Results(run={}, set_aside=(nasty,), scores=(score,)), [])
    assert "<script" not in text and "&lt;script&gt;" in text and "a&amp;b.nii.gz" in text
    assert Page(text).open == []


def test_the_headline_says_when_adaptation_made_it_worse() -> None:
    """A loss is a loss, in words and in the tile."""
    results = run_results()
    worse = replace(results.score("U-Net w/ adaptation", "oasis", "ixi"), arm="U-Net w/o adaptation")  # type: ignore[type-var]
    swapped = replace(results.score("U-Net w/o adaptation", "oasis", "ixi"), arm="U-Net w/ adaptation")  # type: ignore[type-var]
    results = Results(run={}, scores=(worse, swapped))
    sentence = headline(gains(results), results)
    assert "lowered the Dice score by" in sentence and "at ixi" in sentence
    assert "−" in report_html(results, [])


def test_the_headline_says_the_verb_once() -> None:
    """Two sites that both gained share one verb."""
    results = run_results()
    sentence = headline(gains(results), results)
    assert (
        sentence.count("raised") == 1 and " at oasis" in sentence and " and by " in sentence and " at ixi" in sentence
    )


@pytest.mark.parametrize(("sign", "doubted"), [((1, 1, 1, 1, 1, 1), False), ((1, -1, 1, -1, 1, 1), True)])
def test_the_headline_says_what_may_be_chance(sign: tuple[int, ...], doubted: bool) -> None:
    """Six scans that all gained are an effect; four of six are not."""

    def scored(arm: str, means: list[float]) -> ArmScore:
        scans = [ScanScore.of(f"sub-{number}", dict.fromkeys(PAPER.groups, mean)) for number, mean in enumerate(means)]
        return ArmScore(arm, "oasis", "ixi", tuple(scans))

    gained = [70.0 + (2 + number / 10) * way for number, way in enumerate(sign)]
    scores = scored("U-Net w/o adaptation", [70.0] * 6), scored("U-Net w/ adaptation", gained)
    results = Results(run={}, scores=scores)
    assert ("may be chance" in headline(gains(results), results)) == doubted


def test_the_headline_without_a_comparison() -> None:
    """A run without both segmenters says what it tested."""
    results = Results(run={}, scores=(arm_score(np.random.default_rng(0), "F", ("x", "y"), 70.0),))
    assert headline(gains(results), results) == "1 way of segmenting tested in 1 direction."


def test_the_best_of_a_part_is_marked_and_the_bound_is_not() -> None:
    """Bold marks the best arm; the supervised bound and the paper's rows never."""
    table = score_tables(run_results())[0]
    within = next(part for part in table.parts if part.heading == "Within ixi")
    best = [row.name for row in within.rows if row.mean.best]
    assert len(best) == 1 and best != ["supervised"]
    assert not any(row.mean.best for part in table.parts if part.paper for row in part.rows)


def test_traffic_adds_up() -> None:
    """Totals are the sums of both ways over phases and rounds."""
    results = run_results()
    (table,) = traffic_tables(results.traffic)
    assert table.total == sum(item.down + item.up for item in results.traffic)
    assert [row[0] for row in table.rows] == ["register", "style", "joint", "flow_codes"]
    assert table.rows[0][1:] == ("3", ("13.2 MB", "13.2 MB") * 2)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (4.1e12, "4.1 TB")]
)
def test_sizes_for_people(size: float, text: str) -> None:
    """Bytes in powers of 1000."""
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.0, "12 s"), (59.9, "1 min 0 s"), (90.0, "1 min 30 s"), (4320, "1 h 12 min")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    """Seconds, minutes, hours."""
    assert duration_text(seconds) == text


def test_structures_are_painted_in_their_colours() -> None:
    """Background stays grey, a structure takes its colour, a mistake turns orange."""
    image = np.full((1, 3), 0.5, np.float32)
    labels = np.array([[0, 2, 2]], np.uint8)
    pixels = paint(image, labels, opacity=1.0)
    assert pixels[0, 0].tolist() == [128, 128, 128] and pixels[0, 1].tolist() == [205, 62, 78]
    wrong = paint_mistakes(image, labels, np.array([[0, 2, 1]], np.uint8))
    assert wrong[0, 2].tolist() == [255, 140, 26] and wrong[0, 1, 0] == wrong[0, 1, 1]
    assert png_uri(pixels).startswith("data:image/png;base64,iVBOR")


def test_a_strip_goes_from_scan_to_reference_to_arms() -> None:
    """Whatever the order of the panels, the scan comes first and the arms in their own order."""
    strip = strips(run_results(), list(reversed(run_panels())), "6")[0]
    assert [card.title for card in strip.cards] == ["Scan", "Reference", "affine", "T", "F"]
    own = next(s for s in run_results().scores if (s.arm, s.source) == ("affine", "ixi")).scans[0]
    assert strip.cards[2].note == f"Dice {own.mean:.1f} on this scan"
    assert not strip.cards[1].mistakes and all(card.mistakes for card in strip.cards[2:])


def test_the_table_of_the_terminal_fits_and_is_complete() -> None:
    """100 columns hold four directions, the longest arm and the paper's numbers."""
    results = run_results()
    text = table_text(results)
    assert max(len(line) for line in text.splitlines()) <= 100
    for score in results.scores:
        assert f"{score.mean:.1f} ± {score.std:.1f}" in text
    assert "74.0 / 49.1" in text and "Dice points, better on" in text and "…" not in text


def test_the_table_of_many_sites_is_split() -> None:
    """Six directions make two tables, none too wide."""
    rng = np.random.default_rng(0)
    pairs = [(a, b) for a in "xyz" for b in "xyz" if a != b]
    results = Results(run={}, scores=tuple(arm_score(rng, "F", pair, 70.0) for pair in pairs))
    text = table_text(results)
    assert text.count("Mean Dice") == 2 and max(map(len, text.splitlines())) <= 100


def test_site_names_are_not_read_as_markup() -> None:
    """A site called [red] is printed as it is."""
    results = Results(run={}, scores=(arm_score(np.random.default_rng(0), "F", ("[red]", "y"), 70.0),))
    file = StringIO()
    print_table(results, Console(file=file, width=100))
    assert "[red]" in file.getvalue()


TEN = tuple(f"site-{number}" for number in range(10))


def test_ten_sites_are_told_in_brief() -> None:
    """Means over pairs of sites come first; each site's own table is there, folded; the page stays one of a few MB."""
    results = run_results(sites=TEN)
    page = report_html(results, run_panels(sites=TEN))
    assert page.count("<details") == 2 * len(TEN) and page.count('class="tile"') == 1
    assert f"of {len(TEN) * (len(TEN) - 1)} pairs of sites" in page
    assert "other sites → each site" in page and "within each site" in page
    assert len(page) < 6_000_000
    gain, several = gains(brief(results))[0], gains(results)
    assert gain.points == pytest.approx(np.mean([one.points for one in several])) and len(several) == gain.scans == 90
    text = table_text(results)
    assert "other sites" in text and len(text.splitlines()) < 60


def test_three_sites_are_told_one_by_one() -> None:
    """Each pair of sites has its own figures, and none of them is a mean over pairs."""
    results = run_results(sites=("a", "b", "c"))
    assert brief(results) is results
    assert report_html(results, run_panels(sites=("a", "b", "c"))).count('class="tile"') == 6


def test_each_model_has_its_cell_at_each_site(page: str) -> None:
    """The cross-site table: a row whose style, a column where it was tested, the best of a column marked."""
    table = next(table for table in crossing_tables(run_results().crossings) if table.source == "oasis")
    assert (
        table.columns == ("ixi", "oasis")
        and table.corner == "Style of"
        and [style for style, _ in table.rows] == ["ixi", "oasis"]
    )
    assert [sum(cells[column].best for _, cells in table.rows) for column in (0, 1)] == [1, 1]
    assert "Each site's model at each site" in page or "Each site&#39;s model" in page


def test_of_many_sites_each_has_a_row_with_its_own_model() -> None:
    """Where no site tested another's, a square of empty cells would say nothing."""
    names = [f"site-{number}" for number in range(30)]
    own = [Crossing("site-0", style, site, 50.0 + len(style), 4) for site in names for style in (site, "all sites")]
    (table,) = crossing_tables(own)
    assert table.columns == ("its own", "all sites") and table.corner == "Site"
    assert [site for site, _ in table.rows] == sorted(names)
    assert [[cell.text for cell in cells] for _, cells in table.rows][0] == ["56.0", "59.0"]
    (alone,) = crossing_tables([item for item in own if item.style != "all sites"])
    assert alone.columns == ("its own",) and len(alone.rows) == 30


def test_a_chart_of_many_sites_losses_has_room_for_its_lines() -> None:
    """A hundred names leave none; matplotlib's warning would say so, and fail."""
    curves = [
        Curve("register", f"site-{n:03d}", "federated", (1, 2), {"total": (1.0, 0.5 + n / 100)}) for n in range(100)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = losses_chart(curves)
    assert "100 sites" in chart and "site-001" not in chart
    assert "site-001" in losses_chart(curves[:12])


def test_agreement_is_never_called_accuracy(page: str) -> None:
    """What was held against registration, for want of labels, is in a table of its own and in no other."""
    results = run_results()
    assert "bare" not in {table.target for table in score_tables(results)}
    assert "Sites without a reference" in page and "bare" in page
