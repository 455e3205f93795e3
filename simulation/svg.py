"""Drawing for a page: SVG that takes its ink from the page's own colours, so that it reads on light and on dark paper.

A chart is drawn in the stand-in colours below; afterwards they become the variables `--ink`, `--soft` and `--line` of
the page's style sheet. Matplotlib is imported when a chart is drawn, not before.
"""

import hashlib
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# No chart may use these for anything but text, secondary text, and axes and grid.
INK, SOFT, LINE = "#010101", "#020202", "#030303"

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": INK,
}


def svg(draw: Callable[["Figure"], None], inches: tuple[float, float], label: str) -> str:
    """Draw a figure and return it as SVG without a size of its own, in the colours of the page.

    Args:
        draw: Puts axes into the empty figure that it is given.
        inches: Width and height, which set the proportions and the size of the text against the lines.
        label: What the chart shows, for those who hear the page read to them.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The salt keeps names inside one chart from meeting those of another on the same page, and the bytes the same.
    style: Any = {**STYLE, "svg.hashsalt": label}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a person's own matplotlibrc shall not change the report
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(file.getvalue(), label)


def _with_plain_ids(text: str, label: str) -> str:
    """Number the ids: matplotlib makes those of clip paths from addresses in memory, which differ in each process."""
    salt = hashlib.sha256(label.encode()).hexdigest()[:8]
    for number, old in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', text))):
        text = re.sub(rf'(id="|#){re.escape(old)}(?=["\)])', rf"\g<1>c{salt}-{number}", text)
    return text


def _for_page(text: str, label: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = _with_plain_ids(text, label)
    text = re.sub(r"font: ([^;\"']*?)'[^\"]*?(?=[;\"])", r"font: \1system-ui, sans-serif", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for stand_in, color in ((INK, "var(--ink)"), (SOFT, "var(--soft)"), (LINE, "var(--line)")):
        text = text.replace(stand_in, color)
    return text.replace("<svg", f'<svg role="img" aria-label={quoteattr(label)}', 1)
