"""The preset of an experiment: one frozen dataclass per TOML table, checked key by key.

Defaults are the paper's settings (Sec. 4, "Experimental Settings") wherever it states one; a preset names what it
changes. `load` reads a preset by name or path, `to_json` and `from_json` carry it to the sites unchanged.
"""

import difflib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from configs.contrast import T1, Contrast
from configs.errors import ConfigError
from configs.phases import PHASES, averaging, learning
from configs.presets import find
from configs.structures import LabelTable, Row, read_table, table_of

_STRICT = ConfigDict(extra="forbid", strict=True)

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Sharing = Literal["weights", "moments"]
Widths = Annotated[tuple[Positive, ...], Field(min_length=2)]


@dataclass(frozen=True, config=_STRICT)
class Grid:
    """The voxel grid of a run. Every network takes volumes whose sides divide by 16."""

    shape: tuple[Positive, Positive, Positive] = (128, 160, 160)  # voxels: left-right, back-front, bottom-top
    spacing: Rate = 1.2  # mm, isotropic
    label_oversampling: Literal[1, 3] = 1  # the atlas keeps labels of so many parts along a side of each voxel


@dataclass(frozen=True, config=_STRICT)
class Federation:
    """How sites and hub work together."""

    style: Sharing = "weights"  # each site's own A in the hub's library, or one mean A
    foreign_negatives: Natural = 0  # style codes drawn from the other sites' moments, per step, as extra negatives
    deadline: Rate = 3600.0  # seconds that a site has for one request
    join_deadline: Rate = 14_400.0  # seconds that a new site has to prepare its scans; no round waits for it
    quorum: Share = 1.0  # share of the sites whose reply a round needs
    # auto: mean by scans, trimmed from 5 sites on; secure: a mean of which the hub sees no single site's part
    aggregation: Literal["auto", "mean", "trimmed", "median", "secure"] = "auto"
    payload: Literal["half", "full"] = "half"  # changes as half-precision differences, or all weights as float32


@dataclass(frozen=True, config=_STRICT)
class Registration:
    """The networks T and F (about 1.1 M parameters each at the paper's size) and their loss (eq. 8 and 9)."""

    kind: Literal["unet", "pyramid"] = "unet"  # VoxelMorph-like (the paper), or coarse-to-fine with residual flows
    widths: Widths = (16, 32, 64, 64, 64)  # channels from the finest to the coarsest level
    smoothness: Weight = 0.1  # lambda_reg of eq. 9
    lncc_weight: Weight = 0.0  # of 1 - LNCC beside the image loss of eq. 8


@dataclass(frozen=True, config=_STRICT)
class Propagation:
    """How the atlas's labels get onto a scan, beside what T and F learn; nothing of it is in the paper."""

    demons_iterations_per_level: Natural = 0  # at each level of a pyramid, before its learnt residual
    demons_iterations_full_resolution: Natural = 0  # after the network, where a flow is used; not while it is learnt
    lncc_ascent_iterations: Natural = 0  # greedy steps up the gradient of LNCC, after those
    second_initialisation: Weight = 0.0  # weight of intensities in the demons of a second start (multi-start); 0: none
    tissue_matching: Weight = 0.0  # mm, sigma within which tissue intensities are matched to the scan's; 0: no matching
    em_weight: Weight = 0.0  # weight of a scan's intensities in the EM refinement of its labels; 0: no refinement
    mirror: bool = False  # propagate labels by two flows, onto a scan and onto its mirror image


@dataclass(frozen=True, config=_STRICT)
class Style:
    """Style encoder E and its queue."""

    widths: Widths = (16, 32, 64, 128, 256)
    quantiles: Natural = 0  # of the brain's intensities that E reads beside its convolutions; 0: the paper's E
    code: Positive = 128  # numbers in a style code, a unit vector
    temperature: Rate = 0.7  # tau of eq. 1; 0.07 has been used, too
    queue: Positive = 256  # keys


@dataclass(frozen=True, config=_STRICT)
class Appearance:
    """Appearance model A."""

    width: Positive = 16
    weight: Weight = 5.0  # lambda_1 of eq. 11; 0 trains F without A (Table 2, "w/o L_app")
    quantile_loss: Weight = 0.0  # of the distance of intensity quantiles, restyled source to target; not in the paper


@dataclass(frozen=True, config=_STRICT)
class FlowCodes:
    """The adversarial autoencoder of the atlas's flows."""

    widths: Widths = (32, 64, 128, 256)  # one per halving
    latent: Positive = 64  # channels of the code
    scale: Rate = 4.8  # mm of displacement that become 1 at the input


@dataclass(frozen=True, config=_STRICT)
class Segmenter:
    """The 3D U-Net that learns from generated pairs, and how it is used."""

    widths: Widths = (16, 32, 64, 128)
    normalise: Literal["minmax", "zscore"] = "minmax"
    location_prior: Weight = 0.0  # mm, sigma of label maps blurred to a prior that is added to the logits; 0: none
    affine_probability: Share = 0.0  # chance that a training pair is moved by a small affine
    test_time_augmentation: Literal["none", "mirror", "mirror+shifts"] = "none"  # whose mean is taken; see the docs
    fuse_registration: bool = False  # `sst segment` fuses the network's labels with those that F propagates

    @property
    def mirror(self) -> bool:
        """Whether half of the training pairs are mirrored, and a scan's mirror image is segmented, too."""
        return self.test_time_augmentation != "none"


@dataclass(frozen=True, config=_STRICT)
class Learning:
    """How long one phase learns, and how."""

    rounds: Natural = 1  # after each, the hub takes the sites' weights together; 0: its networks stay as they begin
    steps: Positive = 100  # local steps of each site in a round
    batch: Positive = 1  # volumes or pairs a step
    rate: Rate = 2e-4  # learning rate


@dataclass(frozen=True, config=_STRICT)
class Joint(Learning):
    """The joint phase: E, A and F by eq. 11."""

    batch: Positive = 4  # volumes a step
    atlas_probability: Share = 0.5  # chance that the source of a step is the atlas
    appearance_rate: Rate = 2e-4  # learning rate of A
    detach_style: bool = False  # E learns from eq. 1 and 10 alone, not from A's and F's losses (the paper: all)
    flow_weight: Weight = 1.0  # lambda_2 of eq. 11


@dataclass(frozen=True, config=_STRICT)
class Segment(Learning):
    """The hub's training of a segmenter."""

    rounds: Positive = 1
    optimiser: Literal["adam", "muon"] = "adam"  # muon: for the convolutions, see `sst_models.training.muon`
    decay: Share = 0.0  # share of the phase's steps, at its end, over which the rate falls to 0


@dataclass(frozen=True, config=_STRICT)
class Adapt(Segment):
    """The site's own rounds on its segmenter, with pairs that lie on its scans; not in the paper, so 0 rounds."""

    rounds: Natural = 0  # 0: the site keeps the segmenter that the hub trained
    real_probability: Share = 0.5  # chance that a pair's image is the scan; otherwise the atlas, restyled and warped
    flow_mixing: Share = 0.0  # chance that a restyled pair's flow is a blend of two scans' flows


@dataclass(frozen=True, config=_STRICT)
class Measure:
    """The measuring of statistics; nothing of it is in the paper."""

    rounds: Annotated[int, Field(ge=0, le=1)] = 0  # 1: the hub's pairs are drawn from the sites' statistics


@dataclass(frozen=True, config=_STRICT)
class Phases:
    """All phases that learn, in their order (`configs.phases` says what each is)."""

    critic_rate: Rate = 2e-4  # learning rate of D_style and D_flow
    register: Learning = Learning(rounds=4, steps=1000)
    style: Learning = Learning(rounds=4, steps=250, batch=32)
    joint: Joint = Joint(rounds=10, steps=1000)
    flow_codes: Learning = Learning(rounds=4, steps=500, batch=4)
    statistics: Measure = Measure()
    segment: Segment = Segment(rounds=10, steps=185)
    adapt: Adapt = Adapt()
    more: dict[str, Learning] = field(default_factory=dict, hash=False)  # of other phases of `configs.phases`

    def of(self, name: str) -> Learning:
        """Give a phase's settings; a phase that has none in the preset learns for one round of the defaults."""
        found: Learning = getattr(self, name) if name in OWN_SETTINGS else self.more.get(name, Learning())
        return found

    def rounds(self, name: str) -> int:
        """Give a phase's number of rounds, of one that learns or measures."""
        return self.statistics.rounds if name == "statistics" else self.of(name).rounds


OWN_SETTINGS = tuple(item.name for item in fields(Phases) if item.name not in ("critic_rate", "statistics", "more"))
"""The phases that learn and whose table of a preset is a field of `Phases`."""


@dataclass(frozen=True, config=_STRICT)
class Generation:
    """What the generator draws from (eq. 12); flow codes come from N(0, I), never from patients' codes."""

    pairs: Positive = 1850  # distinct pairs that a segmenter sees (Sec. 4)
    cached_styles: Natural = 0  # distinct styles, each made once and kept in memory; 0: every pair has its own
    styles: Literal["prior", "moments"] = "prior"  # style codes: the prior, or the site's own moments
    common_segmenter: bool = False  # one in all sites' styles, too: for a site that comes when statistics are measured


FLOW_REDUCTION = 2
"""Factor by which flows are averaged before they are coded: flows are smooth."""


@dataclass(frozen=True, config=_STRICT)
class Experiment:
    """A whole preset."""

    name: str  # of the preset; its file's name, where it gives none
    seed: Natural = 1  # of everything that is drawn: first weights, steps, splits
    bf16_cpu: bool = False  # bfloat16 for A and the segmenter on CPUs with AMX; a GPU uses it always
    space_to_depth: Literal[1, 2] = 1  # 2: networks read volumes at half resolution, all voxels folded into channels
    grid: Grid = Grid()
    federation: Federation = Federation()
    registration: Registration = Registration()
    propagation: Propagation = Propagation()
    style: Style = Style()
    appearance: Appearance = Appearance()
    flow_codes: FlowCodes = FlowCodes()
    segmenter: Segmenter = Segmenter()
    phases: Phases = Phases()
    generation: Generation = Generation()
    contrast: Contrast = T1  # of all scans, the atlas among them, by the suffix that BIDS has for it
    label_table: tuple[Row, ...] = ()  # in a preset the path of its file; none: the paper's 28 structures

    @property
    def table(self) -> LabelTable:
        """The label table."""
        return table_of(self.label_table)

    @property
    def latent(self) -> tuple[int, ...]:
        """Give the shape of one flow code, (latent, d, h, w)."""
        own = self.flow_codes
        shrink = FLOW_REDUCTION * 2 ** len(own.widths)
        return (own.latent, *(-(-side // shrink) for side in self.grid.shape))

    @property
    def schedule(self) -> list[tuple[str, int]]:
        """List all rounds of a run in their order, at sites or at the hub: (phase, number of the round from 1)."""
        return [(phase.name, n + 1) for phase in learning() for n in range(self.phases.rounds(phase.name))]

    @property
    def sums(self) -> tuple[str, ...]:
        """The secure sums of a run, a name for each round that is averaged; none in a run without them."""
        if self.federation.aggregation != "secure":
            return ()
        averaged = {phase.name for phase in averaging()}
        return tuple(f"{phase} {number}" for phase, number in self.schedule if phase in averaged)

    @property
    def trained(self) -> frozenset[str]:
        """The networks that this preset trains; others stay as they begin."""
        return frozenset(part for phase in learning() if self.phases.rounds(phase.name) for part in phase.learns)

    def to_json(self) -> str:
        """Give the preset as one line of JSON with sorted keys: the same preset, the same bytes."""
        return json.dumps(asdict(self), sort_keys=True)


_ADAPTER = TypeAdapter(Experiment)


def load(preset: str, changes: Sequence[str] = ()) -> Experiment:
    """Read a preset by its name, or from a TOML file by its path.

    A preset that begins with `extends = "NAME"` takes everything from that preset and names only what it changes; a
    path is relative to the file.

    Args:
        preset: name or path.
        changes: what is to be different, as "table.key=value" with the value as TOML has it; a plain word is a text.

    Raises:
        ConfigError: no such preset, not TOML, an unknown or renamed key, a wrong type, or a value out of range.
    """
    path = find(preset)
    values = _read(path, ())
    for change in changes:
        _change(values, change)
    return from_dict({"name": path.stem, **values}, path.name)


def _read(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """Read a preset and those that it extends; `below` are the files that led here."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}") from error
    _read_label_table(values, path.parent)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path.name}: key 'extends' must be the name or path of a preset, not {base!r}")
    if path.resolve() in below:
        raise ConfigError(f"{path.name}: presets extend one another in a circle; take one 'extends' out")
    return _merged(_read(find(base, path.parent), (*below, path.resolve())), values)


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Give `base` with what `values` changes, table by table."""
    tables = {key for key, value in values.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **{key: _merged(base[key], value) if key in tables else value for key, value in values.items()}}


def _change(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not (key.strip() and equals and text.strip()):
        raise ConfigError(f"'{change}' is no change of a preset; give table.key=value, e.g. propagation.em_weight=0")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *tables, last = (part.strip() for part in key.split("."))
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"'{change}': '{table}' is no table of a preset")
    values[last] = value
    if key.strip() == "label_table":
        _read_label_table(values, Path())


def _read_label_table(values: dict[str, Any], beside: Path) -> None:
    """Put the rows of a label table in the place of its file's path, which is relative to a folder."""
    if isinstance(path := values.get("label_table"), str):
        values["label_table"] = [asdict(row) for row in read_table(beside / path)]


def from_json(text: str) -> Experiment:
    """Read back what `Experiment.to_json` wrote.

    Raises:
        ConfigError: as `load`.
    """
    return from_dict(json.loads(text), "the experiment")


def from_dict(values: dict[str, Any], source: str) -> Experiment:
    """Check nested tables against the schema; `source` names them in an error.

    Raises:
        ConfigError: as `load`.
    """
    _refuse_old_keys(values, source)
    try:
        experiment: Experiment = _ADAPTER.validate_json(json.dumps(_with_more_phases(values), default=str))
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error)}") from error
    _check_grid(experiment, source)
    try:
        table_of(experiment.label_table)
    except ConfigError as error:
        raise ConfigError(f"{source}: label_table: {error}") from error
    own = experiment.federation
    if own.aggregation == "secure" and (own.foreign_negatives or own.style != "weights"):
        raise ConfigError(
            f'{source}: with federation.aggregation = "secure" moments of style codes stay at their sites: set '
            'federation.foreign_negatives = 0 and federation.style = "weights"'
        )
    if not (experiment.phases.flow_codes.rounds or experiment.phases.statistics.rounds):
        raise ConfigError(
            f"{source}: pairs have no source: give phases.flow_codes rounds, or phases.statistics.rounds = 1"
        )
    if experiment.generation.common_segmenter and not experiment.phases.statistics.rounds:
        raise ConfigError(
            f"{source}: a common segmenter learns from sites' statistics: give phases.statistics.rounds = 1, or take "
            "generation.common_segmenter out"
        )
    return experiment


RENAMED: dict[str, str] = {
    "amx": "bf16_cpu",
    "grid.finer": "grid.label_oversampling",
    "federation.mean": "federation.aggregation",
    "registration.stem": "space_to_depth",
    "registration.pulls": "propagation.demons_iterations_per_level",
    "registration.polish": "propagation.demons_iterations_full_resolution",
    "registration.ascent": "propagation.lncc_ascent_iterations",
    "registration.rival": "propagation.second_initialisation",
    "registration.likelihood": "propagation.em_weight",
    "registration.mirror": "propagation.mirror",
    "registration.lncc": "registration.lncc_weight",
    "appearance.stem": "space_to_depth",
    "appearance.spread": "appearance.quantile_loss",
    "appearance.tissue": "propagation.tissue_matching (mm)",
    "segmenter.stem": "space_to_depth",
    "segmenter.prior": "segmenter.location_prior (mm)",
    "segmenter.likelihood": "propagation.em_weight",
    "segmenter.shifts": 'segmenter.test_time_augmentation = "mirror+shifts"',
    "segmenter.mirror": 'segmenter.test_time_augmentation = "mirror"',
    "segmenter.together": "segmenter.fuse_registration",
    "segmenter.moved": "segmenter.affine_probability",
    "segmenter.augment": "segmenter.affine_probability",
    "phases.style.critic_rate": "phases.critic_rate",
    "phases.joint.critic_rate": "phases.critic_rate",
    "phases.flow_codes.critic_rate": "phases.critic_rate",
    "phases.joint.atlas": "phases.joint.atlas_probability",
    "phases.joint.through": "phases.joint.detach_style (the opposite)",
    "phases.joint.flow": "phases.joint.flow_weight",
    "phases.adapt.real": "phases.adapt.real_probability",
    "phases.adapt.mix": "phases.adapt.flow_mixing",
    "generation.palette": "generation.cached_styles",
}
"""Keys of presets before version 0.2, and what they are called since."""

REMOVED: dict[str, str] = {
    "registration.integration": "the network's output is the displacement",
    "registration.lncc_window": "it is 7 voxels",
    "style.momentum": "it is 0.99, the paper's",
    "style.prior": "lambda_3 is 0.1, the paper's",
    "flow_codes.stem": "flows are read at half resolution",
    "flow_codes.prior": "the weight is 0.1",
    "flow_codes.image": "the weight is 1",
    "generation.flows": "flow codes are drawn from N(0, I)",
    "phases.register.atlas": "the chance is one half",
    "phases.joint.start": "F starts with the weights of T",
    **{f"phases.{name}.deadline": "federation.deadline holds for all phases" for name in OWN_SETTINGS},
    **{f"phases.{name}.critic_rate": "the phase has no critic" for name in ("register", "segment", "adapt")},
    **{f"phases.{name}.average": "the running mean has a momentum of 0.99" for name in ("segment", "adapt")},
}
"""Keys of presets before version 0.2 that are none any more, and what holds instead."""


def _refuse_old_keys(values: dict[str, Any], source: str) -> None:
    """Name the new key for an old one.

    Raises:
        ConfigError: there is one.
    """
    for key in _leaves(values):
        if key in RENAMED:
            raise ConfigError(f"{source}: key '{key}' is called {RENAMED[key]} since version 0.2")
        if key in REMOVED:
            raise ConfigError(f"{source}: key '{key}' is gone since version 0.2: {REMOVED[key]}; take it out")


def _leaves(values: dict[str, Any], above: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += _leaves(value, f"{above}{key}.") if isinstance(value, dict) else [f"{above}{key}"]
    return found


def _with_more_phases(values: dict[str, Any]) -> dict[str, Any]:
    """Put the tables of phases that are no field of `Phases`, but a row of `configs.phases`, into `phases.more`."""
    tables = values.get("phases")
    if not isinstance(tables, dict):
        return values
    known = {phase.name for phase in PHASES if phase.learns} - set(OWN_SETTINGS)
    more = {name: table for name, table in tables.items() if name in known}
    rest = {name: table for name, table in tables.items() if name not in known}
    return {**values, "phases": {**rest, "more": {**rest.get("more", {}), **more}}} if more else values


def _check_grid(experiment: Experiment, source: str) -> None:
    codes, unet = experiment.flow_codes, experiment.segmenter
    multiples = {
        "every network": 16,
        "flow_codes, with its widths,": FLOW_REDUCTION * 2 ** len(codes.widths),
        "segmenter, with its widths and space_to_depth,": experiment.space_to_depth * 2 ** (len(unet.widths) - 1),
    }
    for side in experiment.grid.shape:
        for part, multiple in multiples.items():
            if side % multiple or side < 32:
                least = f"{part} needs sides that divide by {multiple}, from 32 on"
                raise ConfigError(f"{source}: grid.shape has a side of {side}; {least}")


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    key = ".".join(place)
    if first["type"] == "unexpected_keyword_argument":
        known = _keys_at(place[:-1])
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.0)
        return f"unknown key '{key}'; did you mean '{'.'.join([*place[:-1], *near])}'?"
    return f"key '{key}': {first['msg'].lower()}, not {first['input']!r}"


def _keys_at(place: list[str]) -> list[str]:
    here: Any = Experiment
    for part in place:
        here = get_type_hints(here).get(part) if is_dataclass(here) else None
    return [item.name for item in fields(here)] if is_dataclass(here) else []
