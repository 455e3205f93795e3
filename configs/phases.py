"""The phases of a run, one row each: the one place that says what a phase is, and everything that leaves a site in it.

Plain data. What else the project says of a phase is read from here: the hub's schedule and message types, what a site
answers and what its release check lets pass, the policy, the text that IT approves, displays, and the tables of the
documentation. The table declares; `client.gate.release` enforces.

A new phase that learns is one row here and one file, `sst_models/phases/NAME.py`, whose function `make` gives its
learner. `[phases.NAME]` of a preset then sets its rounds, steps, batch and rate.
"""

from dataclasses import dataclass

from configs import levels
from configs.structures import PAPER

PARTS: dict[str, str] = {
    "T": "the registration network T",
    "E": "the style encoder E",
    "D_style": "the style critic D_style",
    "A": "the appearance model A",
    "F": "the flow network F",
    "encoder": "the flow encoder",
    "decoder": "the flow decoder",
    "D_flow": "the flow critic D_flow",
    "segmenter": "the site's segmenter",
}
"""The networks, by the name that messages and files have for them."""

VALUES: dict[str, str] = {
    "name": "the site's name",
    "code": "digest of its code",
    "flwr": "version of Flower",
    "python": "version of Python",
    "torch": "version of torch",
    "level": "its level of sharing",
    "atlas": "digest of the atlas",
    "scans": "number of scans",
    "labelled": "number of labelled scans",
    "set_aside": "number of scans set aside",
}
"""The single values that a reply may hold, by name."""

TRAINING, PEOPLE, TESTING = "number of training scans", "number of people who train", "number of labelled test scans"
"""What the count of a reply is."""


@dataclass(frozen=True)
class Phase:
    """One phase. All that a reply may hold is declared here; `count`, its phase, round and error code are always in it.

    A phase with a `message` is asked of sites; one that `learns`, or measures `statistics`, has rounds.
    """

    name: str
    number: int  # of the documentation; "hello" and "join" are both 0
    at_site: str  # what a site does
    at_hub: str  # what the hub does
    level: str = levels.NETWORKS  # of sharing, from which on a site answers it
    message: str = ""  # Flower's message type
    learns: tuple[str, ...] = ()  # parts that are sent, trained, and come back
    uses: tuple[str, ...] = ()  # parts that are sent and stay as they are
    kept: tuple[str, ...] = ()  # of those that are learnt: each site's version is kept under its name, none is averaged
    moments: bool = False  # mean and standard deviation of the site's style codes come back, if its policy allows
    sums: bool = False  # what makes and takes off the masks of secure sums comes back, where the preset has these
    statistics: bool = False  # nothing is learnt: the mean of numbers of the site's people comes back, with noise
    foreign: bool = False  # moments of the other sites are sent
    labels: bool = False  # the atlas's labels are sent
    separable: bool = False  # its loss is a mean of terms, each of one person's scan, so that noise can hide people
    count: str = ""  # what the count of a reply is
    values: tuple[str, ...] = ()  # of `VALUES`
    losses: tuple[str, ...] = ()  # names of the loss curves, each a mean over steps
    figures: bool = False  # mean Dice of each group of the run's label table, each a mean over scans
    optional: bool = False  # a site may refuse it, and the run goes on without that site's reply
    cost: float = 0.0  # time of one scan of one step beside registration's: at 64 x 80 x 80 on 2 cores, for displays

    @property
    def parts(self) -> frozenset[str]:
        """Every part that a reply may hold: moments of style codes, statistics, weights of networks, masked or not."""
        more = [name for name in ("moments", "statistics", "sums") if getattr(self, name)]
        return frozenset({*self.learns, *more, *(("masked",) if self.averaged else ())})

    @property
    def has_rounds(self) -> bool:
        """Whether a preset gives it rounds: it learns, or measures statistics."""
        return bool(self.learns) or self.statistics

    @property
    def items(self) -> tuple["Item", ...]:
        """Everything that leaves a site, in the words that its IT reads, with the level from which on it does."""
        found = []
        for level, parts in ((levels.NETWORKS, self.averaged), (levels.MODELS, self.kept)):
            if parts:
                names = ", ".join(PARTS.get(part, part) for part in parts)
                summed = MASKED if level == levels.NETWORKS else ""
                found.append(Item(level, f"weights of {names}{summed}", f"weights of {', '.join(parts)}"))
        if self.sums:
            found.append(Item(levels.NETWORKS, SUMS[self.name]))
        if self.moments:
            found.append(Item(levels.NETWORKS, STYLE_MOMENTS, "moments of style codes"))
        if self.statistics:
            found.append(Item(levels.STATISTICS, STATISTICS, "mean of intensities by structure, with noise"))
        if self.losses:
            found.append(Item(levels.NETWORKS, f"training curves ({', '.join(self.losses)})", "training curves"))
        if self.figures:
            usual = f"mean Dice of each of {len(PAPER.groups)} structure groups"
            found.append(Item(levels.STATISTICS, f"{usual}, or of those of the run's own label table (if dice = true)"))
        found += [Item(self.level, text) for text in (*(VALUES[value] for value in self.values), self.count) if text]
        return tuple(found)

    @property
    def averaged(self) -> tuple[str, ...]:
        """The parts that are learnt and averaged over sites."""
        return tuple(part for part in self.learns if part not in self.kept)

    def leaves(self, level: str = levels.MODELS) -> tuple[str, ...]:
        """Give what leaves a site of a level, item by item; nothing of a phase that it does not answer."""
        return tuple(item.text for item in self.items if levels.reaches(level, item.level))

    @property
    def consent(self) -> str:
        """The sentence that a site's IT reads before it approves."""
        return "; ".join(self.leaves()) or NOTHING


@dataclass(frozen=True)
class Item:
    """One thing that leaves a site."""

    level: str  # from which on
    text: str
    short: str = ""  # for a table


NOTHING = "nothing but that it was done"

STATISTICS = "mean over the people who train of how bright each structure is, with noise (as epsilon and delta say)"

STYLE_MOMENTS = (
    "mean and standard deviation of style codes "
    "(if moments = true and style is among the phases; after the last round, unless moments_each_round)"
)

MASKED = " (masked, where the run has secure sums)"

SUMS = {
    "keys": "public keys, and shares of its secrets that the other sites alone can read (for secure sums)",
    "unmask": "shares that take the masks off a sum of several sites (for secure sums)",
}
"""What leaves in the phases of secure sums."""

PHASES: tuple[Phase, ...] = (
    Phase(
        "hello",
        0,
        "says its name and versions",
        "finds out which site a node is, where no key names it",
        level=levels.NOTHING,
        message="query.hello",
        values=("name", "code", "flwr", "python", "torch"),
    ),
    Phase(
        "join",
        0,
        "checks and prepares its scans, stores the atlas",
        "publishes the atlas; refuses a site that holds another one",
        level=levels.NOTHING,
        message="query.join",
        values=("level", "atlas", "scans", "labelled", "set_aside"),
        count=TRAINING,
    ),
    Phase(
        "keys",
        0,
        "makes keys for secure sums, shares its secrets with the other sites",
        "passes keys and shares on, in runs of secure sums",
        message="query.keys",
        sums=True,
    ),
    Phase(
        "unmask",
        0,
        "gives shares of what masks a sum, after each round that is averaged",
        "takes the masks off the sum, and sees no single site's weights",
        message="query.unmask",
        sums=True,
    ),
    Phase(
        "register",
        1,
        "trains T on pairs of its own scans and the atlas",
        "mean, weighted by scans",
        message="train.register",
        learns=("T",),
        separable=True,
        losses=("total", "reconstruction", "smoothness"),
        count=TRAINING,
        cost=1.0,
    ),
    Phase(
        "style",
        2,
        "trains E by contrast; its queue of keys stays at the site",
        "mean; passes moments on, as the other sites' negatives",
        message="train.style",
        learns=("E", "D_style"),
        uses=("T",),
        moments=True,
        foreign=True,
        losses=("total", "contrastive", "adversarial", "critic"),
        count=TRAINING,
        cost=0.4,
    ),
    Phase(
        "joint",
        3,
        "trains E, A and F; the atlas is among the sources",
        "mean of E and F; keeps A under the site's name, or averages it",
        message="train.joint",
        learns=("E", "D_style", "A", "F"),
        uses=("T",),
        kept=("A",),
        moments=True,
        foreign=True,
        losses=(
            *("total", "contrastive", "adversarial", "cycle", "identity", "quantiles"),
            *("reconstruction", "smoothness", "critic"),
        ),
        count=TRAINING,
        cost=3.5,
    ),
    Phase(
        "flow_codes",
        4,
        "trains the autoencoder on flows of the atlas to its scans",
        "mean",
        message="train.flow_codes",
        learns=("encoder", "decoder", "D_flow"),
        uses=("E", "A", "F"),
        moments=True,
        separable=True,
        losses=("total", "flow", "image", "adversarial", "critic"),
        count=TRAINING,
        cost=0.7,
    ),
    Phase(
        "statistics",
        4,
        "aligns the atlas to its scans, measures how bright each structure is",
        "keeps the mean under the site's name; pairs are drawn by it",
        level=levels.STATISTICS,
        message="train.statistics",
        statistics=True,
        labels=True,
        count=PEOPLE,
        optional=True,
        cost=6.0,
    ),
    Phase(
        "segment",
        5,
        "nothing",
        "generates pairs in the style of each site, trains its U-Net on them",
        learns=("segmenter",),
        kept=("segmenter",),
        losses=("total",),
        cost=2.8,
    ),
    Phase(
        "adapt",
        6,
        "goes on training its U-Net, on its scans and on the atlas aligned to them",
        "keeps it as that site's segmenter",
        level=levels.NOTHING,
        message="train.adapt",
        learns=("segmenter",),
        uses=("E", "A", "F"),
        kept=("segmenter",),
        labels=True,
        losses=("total",),
        count=TRAINING,
        optional=True,
        cost=2.8,
    ),
    Phase(
        "evaluate",
        7,
        "tests segmenters on its labelled test scans, where it has any",
        "the cross-site table",
        level=levels.STATISTICS,
        message="evaluate.evaluate",
        figures=True,
        count=TESTING,
        optional=True,
    ),
    Phase(
        "deliver",
        8,
        "keeps its model",
        "sends segmenter, atlas labels, generator, and E and F for label fusion",
        level=levels.NOTHING,
        message="query.deliver",
        optional=True,
    ),
)
"""All phases in the order in which a run goes through them."""

KEPT = frozenset(part for phase in PHASES for part in phase.kept)
"""The parts that are each site's own: kept under its name, and leaving it at the highest level of sharing alone."""


def phase_of(name: str) -> Phase:
    """Give a phase by its name.

    Raises:
        KeyError: there is none of this name.
    """
    return {phase.name: phase for phase in PHASES}[name]


def averaging() -> tuple[Phase, ...]:
    """Give the phases in which sites train what the hub averages."""
    return tuple(phase for phase in training() if phase.averaged)


def asked() -> tuple[Phase, ...]:
    """Give the phases that a hub asks of sites, and that a policy lists; `hello` needs no leave."""
    return tuple(phase for phase in PHASES if phase.message and phase.name != "hello")


def at_sites() -> tuple[Phase, ...]:
    """Give the phases in which sites work on their training scans: they train, or measure statistics."""
    return tuple(phase for phase in asked() if phase.has_rounds)


def training() -> tuple[Phase, ...]:
    """Give the phases in which sites train networks."""
    return tuple(phase for phase in at_sites() if phase.learns)


def learning() -> tuple[Phase, ...]:
    """Give the phases that have rounds, at sites or at the hub."""
    return tuple(phase for phase in PHASES if phase.has_rounds)


def markdown() -> str:
    """Give the table of phases as ARCHITECTURE has it: who does what."""
    rows = ["| # | phase | a site | the hub |", "|---|---|---|---|"]
    rows += [f"| {phase.number} | {phase.name} | {phase.at_site} | {phase.at_hub} |" for phase in PHASES]
    return "\n".join(rows)


def markdown_leaves() -> str:
    """Give the table of what leaves a site as README and ARCHITECTURE have it: by phase, and from which level on."""
    rows = ["| # | phase | leaves the site | from level |", "|---|---|---|---|"]
    for phase in (phase for phase in PHASES if phase.message):
        number, name = str(phase.number), phase.name
        for level in levels.LEVELS:
            items = [item.short or item.text for item in phase.items if item.level == level]
            if items or (level == phase.level and not phase.items):
                rows.append(f"| {number} | {name} | {'; '.join(items) or NOTHING} | {level} |")
                number = name = ""
    return "\n".join(rows)
