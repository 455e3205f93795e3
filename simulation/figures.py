"""The charts of the report, each as SVG text to be put inside the page.

Every chart names what it shows by shape as well as by colour; the colours are those of Okabe and Ito (2008), which
people with any colour vision tell apart. Matplotlib is imported when a chart is drawn, not before.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from simulation.gains import WITH, WITHOUT
from simulation.measured import ArmScore, Curve, PairsPoint, Results, arms_in_order
from simulation.panels import direction_name
from simulation.svg import INK, LINE, SOFT, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES: dict[str, tuple[str, str]] = {  # arm -> colour, marker
    "affine": ("#8b919c", "s"),
    "T": ("#b58a00", "v"),
    "F": ("#009e73", "^"),
    "F refined": ("#1b6b52", "p"),
    "F w/o appearance": ("#6aa58f", "<"),
    WITHOUT: ("#e07b00", "D"),
    WITH: ("#1f78d1", "o"),
    "U-Net w/o adaptation refined": ("#9c5600", "D"),
    "U-Net w/ adaptation refined": ("#0f4c8a", "o"),
    "U-Net w/ adaptation and F": ("#06284d", "o"),
    "U-Net w/ adaptation (moments)": ("#56b4e9", "h"),
    "U-Net in-site": ("#c0679b", "P"),
    "U-Net in-site refined": ("#8a3a68", "P"),
    "U-Net in-site and F": ("#52203d", "P"),
    "U-Net alone": ("#a6761d", "X"),
    "U-Net pooled": ("#7570b3", ">"),
    "U-Net federated": ("#17929f", "d"),
    "supervised": (INK, "*"),
}
_FALLBACK = ("#8b919c", ".")
_SITE_COLORS = ("#1f78d1", "#e07b00", "#009e73", "#c0679b", "#b58a00", "#56b4e9")

# Few enough to tell apart in one chart; the table has all.
_MAIN_ARMS = ("affine", "F", WITHOUT, WITH, "supervised")


def arms_chart(results: Results) -> str:
    """Every arm in every direction: a mark for the mean, a line for mean +- std, a pale dot for each scan."""
    directions = results.directions
    rows = [_arms_of(results, d) for d in directions]

    def draw(figure: "Figure") -> None:
        axes = _stack(figure, [len(r) for r in rows])
        for ax, direction, arms in zip(axes, directions, rows, strict=True):
            for y, score in enumerate(arms):
                _lane(ax, len(arms) - 1 - y, [s.mean for s in score.scans], score)
            ax.set_yticks(range(len(arms)), [s.arm for s in reversed(arms)])
            ax.set_ylim(-0.6, len(arms) - 0.4)
            ax.set_title(_title(*direction))
        _dice_axis(axes)

    height = sum(0.28 * len(r) + 0.55 for r in rows) + 0.35
    return svg(draw, (9.4, height), "Mean Dice score of every arm in every direction")


def structures_chart(results: Results, direction: tuple[str, str]) -> str:
    """Dice per structure (as Fig. 4): for each main arm a mark for the mean and a line from lowest to highest."""
    scores = _main_scores(results, direction)
    groups = results.groups

    def draw(figure: "Figure") -> None:
        ax = figure.subplots()
        lane = 0.76 / max(1, len(scores))
        for y, group in enumerate(reversed(groups)):
            if y % 2:
                ax.axhspan(y - 0.5, y + 0.5, color=LINE, alpha=0.35, lw=0)
            for number, score in enumerate(scores):
                offset = 0.38 - lane * (number + 0.5)
                _range(ax, y + offset, [s.dice.get(group, math.nan) for s in score.scans], score.arm)
        ax.set_yticks(range(len(groups)), [plain_group(g) for g in reversed(groups)])
        ax.set_ylim(-0.5, len(groups) - 0.5)
        ax.grid(axis="y", visible=False)
        _dice_axis([ax])
        _legend(figure, [s.arm for s in scores])

    size = (9.4, 0.9 + len(groups) * (0.13 + 0.085 * max(2, len(scores))))
    return svg(draw, size, f"Dice score of each structure, {_title(*direction)}")


def pairs_chart(points: Sequence[PairsPoint]) -> str:
    """Dice against the number of generated pairs (Fig. 7): a box and its scans for each number, a plot a direction."""
    directions = sorted({(p.source, p.target) for p in points}, key=lambda d: (d[0] == d[1], d))
    arms = arms_in_order(p.arm for p in points)
    counts = sorted({p.pairs for p in points})

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(1, len(directions), sharey=True, squeeze=False)[0]
        for ax, direction in zip(axes, directions, strict=True):
            chosen = [p for p in points if (p.source, p.target) == direction]
            _boxes(ax, chosen, arms, counts)
            ax.set_title(_title(*direction))
            ax.set_xlabel("pairs in training")
        axes[0].set_ylabel("mean Dice")
        _legend(figure, arms)

    return svg(draw, (min(9.4, 1.2 + 4.1 * len(directions)), 3.4), "Mean Dice against the number of generated pairs")


NAMED = 12
"""Sites up to which a chart of losses says which line is whose."""


def losses_chart(curves: Sequence[Curve]) -> str:
    """The loss curves of one phase: one small plot for each loss, one line for each site and way of training.

    Of more than `NAMED` sites all have one colour, and no name.
    """
    names = list(dict.fromkeys(name for c in curves for name in c.losses))
    sites = sorted({c.site for c in curves})
    colors = {site: _SITE_COLORS[n % 6] if len(sites) <= NAMED else SOFT for n, site in enumerate(sites)}
    schemes = sorted({c.scheme for c in curves})
    columns = min(4, len(names))
    rows = math.ceil(len(names) / max(1, columns))

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, name in zip(axes, names, strict=False):
            for curve in curves:
                _line(ax, curve, name, colors[curve.site], schemes.index(curve.scheme))
            ax.set_title(name, fontsize=9.5)
            ax.locator_params(nbins=4)
            ax.tick_params(axis="y", labelcolor=SOFT, labelsize=8.5)
        for ax in axes[len(names) :]:
            ax.set_visible(False)
        shown = colors if len(sites) <= NAMED else {f"{len(sites)} sites": SOFT}
        _curve_legend(figure, shown, schemes)

    return svg(draw, (9.4, 1.55 * rows + 0.55), f"Losses of the phase {curves[0].phase} against training steps")


_ABBREVIATIONS = {"WM": "white matter", "CX": "cortex", "Vent": "ventricle", "DC": "diencephalon", "Proper": ""}
"""What parts of FreeSurfer's names stand for."""


def plain_group(group: str) -> str:
    """A structure group in words: `Cerebral-WM` is `cerebral white matter`; a word in capitals stays so."""
    parts = re.sub("(?<=[a-z])(?=DC$)", "-", group.replace("Cerebellum-", "Cerebellar-")).replace("_", "-").split("-")
    words = [_ABBREVIATIONS.get(part, part if part.isupper() else part.lower()) for part in parts]
    return " ".join(filter(None, words))


def _title(source: str, target: str) -> str:
    return f"within {source}" if source == target else direction_name(source, target)


def _arms_of(results: Results, direction: tuple[str, str]) -> list[ArmScore]:
    found = (results.score(arm, *direction) for arm in arms_in_order(s.arm for s in results.scores))
    return [score for score in found if score is not None]


def _main_scores(results: Results, direction: tuple[str, str]) -> list[ArmScore]:
    """The main arms of a direction and the tested site's own supervised one; all arms if none is a main one."""
    own = [s for s in _arms_of(results, direction) if s.arm in _MAIN_ARMS]
    upper = results.score("supervised", direction[1], direction[1])
    if own and upper is not None and all(s.arm != "supervised" for s in own):
        own.append(upper)
    return own or _arms_of(results, direction)


def _style(arm: str) -> tuple[str, str]:
    return _STYLES.get(arm, _FALLBACK)


def _size(marker: str) -> float:
    return {"*": 9.0, "D": 5.0, "s": 5.0}.get(marker, 6.0)


def _stack(figure: "Figure", rows: Sequence[int]) -> list["Axes"]:
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=[n + 0.2 for n in rows])
    return [ax for (ax,) in axes]


def _lane(ax: "Axes", y: float, values: Sequence[float], score: ArmScore) -> None:
    color, marker = _style(score.arm)
    ax.plot(values, [y] * len(values), "o", color=color, alpha=0.35, ms=4.5, mew=0)
    ax.plot([score.mean - score.std, score.mean + score.std], [y, y], color=color, lw=2, solid_capstyle="round")
    ax.plot(score.mean, y, marker, color=color, ms=_size(marker) + 1.5, mec=INK, mew=0.4)
    if not math.isnan(score.mean):
        top = max([score.mean + score.std, *values])
        ax.annotate(f"{score.mean:.1f}", (top, y), (7, 0), textcoords="offset points", va="center", fontsize=9)


def _range(ax: "Axes", y: float, values: Sequence[float], arm: str) -> None:
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return
    color, marker = _style(arm)
    ax.plot([min(known), max(known)], [y, y], color=color, lw=1.6, alpha=0.5, solid_capstyle="round")
    ax.plot(sum(known) / len(known), y, marker, color=color, ms=_size(marker) - 0.5, mew=0)


def _boxes(ax: "Axes", points: Sequence[PairsPoint], arms: Sequence[str], counts: Sequence[int]) -> None:
    width = 0.7 / len(arms)
    for point in points:
        color, marker = _style(point.arm)
        x = counts.index(point.pairs) + (arms.index(point.arm) - (len(arms) - 1) / 2) * width
        known = [v for v in point.scans if not math.isnan(v)]
        line = {"color": color, "lw": 1.4}
        ax.boxplot(
            known, positions=[x], widths=width * 0.75, showfliers=False, manage_ticks=False,
            boxprops=line, whiskerprops=line, capprops=line, medianprops=line | {"lw": 2.2},
        )  # fmt: skip
        ax.plot([x] * len(known), known, marker, color=color, alpha=0.45, ms=4, mew=0)
    ax.set_xticks(range(len(counts)), [str(c) for c in counts])
    ax.set_xlim(-0.6, len(counts) - 0.4)
    ax.grid(axis="x", visible=False)


def _line(ax: "Axes", curve: Curve, name: str, color: str, scheme: int) -> None:
    values = curve.losses.get(name, ())
    steps = curve.steps[: len(values)]
    style = ("-", "--", ":", "-.")[scheme % 4]
    ax.plot(steps, values[: len(steps)], style, color=color, lw=1.5, marker="o" if len(steps) == 1 else None, ms=4)


def _dice_axis(axes: Sequence["Axes"]) -> None:
    for ax in axes:
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    axes[-1].set_xlabel("Dice score: 0 no overlap with the reference, 100 the same outline")
    low, high = axes[-1].get_xlim()
    axes[-1].set_xlim(max(0.0, 10 * math.floor(low / 10)), min(102.0, max(high + 2, 60.0)))


def _legend(figure: "Figure", arms: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    marks = []
    for arm in arms:
        color, marker = _style(arm)
        marks.append(Line2D([], [], color=color, marker=marker, ms=_size(marker) + 0.5, lw=1.6, mew=0, label=arm))
    figure.legend(handles=marks, loc="outside upper left", ncols=min(5, len(marks)), columnspacing=1.6)


def _curve_legend(figure: "Figure", colors: Mapping[str, str], schemes: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], color=color, lw=2, label=site) for site, color in colors.items()]
    if len(schemes) > 1:
        styles = ("-", "--", ":", "-.")
        marks += [Line2D([], [], color=SOFT, ls=styles[n % 4], lw=1.5, label=s) for n, s in enumerate(schemes)]
    figure.legend(handles=marks, loc="outside upper left", ncols=min(6, len(marks)), columnspacing=1.6)
