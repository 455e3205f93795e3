"""The preset of an experiment: one frozen dataclass per TOML table, checked key by key.

Defaults are the paper's settings (Sec. 4, "Experimental Settings") wherever it states one; a preset names what it
changes. `load` reads a preset by name or path, `to_json` and `from_json` carry it to the sites unchanged.
"""

import difflib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from configs.errors import ConfigError

_STRICT = ConfigDict(extra="forbid", strict=True)

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Sharing = Literal["weights", "statistics"]
Widths = Annotated[tuple[Positive, ...], Field(min_length=2)]


@dataclass(frozen=True, config=_STRICT)
class Grid:
    """The voxel grid of a run. Every network takes volumes whose sides divide by 16."""

    shape: tuple[Positive, Positive, Positive] = (128, 160, 160)  # voxels: left-right, back-front, bottom-top
    spacing: Rate = 1.2  # mm, isotropic
    finer: Literal[1, 3] = 1  # parts along a side of each voxel that the atlas keeps labels of; 1: as the grid


@dataclass(frozen=True, config=_STRICT)
class Federation:
    """How sites and hub work together."""

    style: Sharing = "weights"  # each site's own A in the hub's library, or one mean A
    foreign_negatives: Natural = 0  # style codes drawn from the other sites' moments, per step, as extra negatives
    deadline: Rate = 3600.0  # seconds that a site has for one request
    quorum: Share = 1.0  # share of the sites whose reply a round needs
    mean: Literal["mean", "trimmed", "median"] = "mean"  # weighted by scans; the others count sites alike, and outvote
    payload: Literal["half", "full"] = "half"  # what changed, as half-precision differences; or all, as float32


@dataclass(frozen=True, config=_STRICT)
class Registration:
    """The networks T and F (METHOD: about 1.1 M parameters each at the paper's size)."""

    kind: Literal["unet", "pyramid"] = "unet"  # VoxelMorph-like (the paper), or coarse-to-fine with residual flows
    widths: Widths = (16, 32, 64, 64, 64)  # channels from the finest to the coarsest level
    stem: Literal[1, 2] = 1  # 1: flow at full resolution; 2: flow at half resolution, then linear upsampling
    pulls: Natural = 0  # demons steps at each level of a pyramid, before its learnt residual
    polish: Natural = 0  # demons steps at full resolution that end a flow where it is used; learning goes without
    rival: Weight = 0.0  # of brightness in another first alignment, kept where it explains a scan better; 0: none
    ascent: Natural = 0  # steps up the gradient of LNCC after those
    likelihood: Weight = 0.0  # of a scan's intensities where carried labels are refined by them; 0: not at all
    mirror: bool = False  # carry labels by two flows, onto a scan and onto its mirror image
    integration: Natural = 0  # squarings of a stationary velocity; 0: the network's output is the displacement
    smoothness: Weight = 0.1  # lambda_reg of eq. 9
    lncc: Weight = 0.0  # weight of 1 - LNCC beside the image loss of eq. 8
    lncc_window: Positive = 7  # voxels


@dataclass(frozen=True, config=_STRICT)
class Style:
    """Style encoder E, its queue and its critic."""

    widths: Widths = (16, 32, 64, 128, 256)
    quantiles: Natural = 0  # of the brain's intensities that E reads beside its convolutions; 0: the paper's E
    code: Positive = 128  # numbers in a style code, a unit vector
    temperature: Rate = 0.7  # tau of eq. 1; the released code used 0.07 (METHOD)
    momentum: Share = 0.99  # of the key encoder
    queue: Positive = 256  # keys
    prior: Weight = 0.1  # lambda_3 of eq. 11


@dataclass(frozen=True, config=_STRICT)
class Appearance:
    """Appearance model A."""

    width: Positive = 16
    stem: Literal[1, 2] = 1  # resolution at which the image is read: full or half
    weight: Weight = 5.0  # lambda_1 of eq. 11; 0 trains F without A (Table 2, "w/o L_app")
    spread: Weight = 0.0  # weight of the distance of intensity quantiles, restyled source to target; not in the paper
    tissue: Weight = 0.0  # voxels over which tissues' intensities are matched once labels lie on a scan; 0: not at all


@dataclass(frozen=True, config=_STRICT)
class FlowCodes:
    """The adversarial autoencoder of the atlas's flows."""

    widths: Widths = (32, 64, 128, 256)  # one per halving
    latent: Positive = 64  # channels of the code (METHOD: 64 x 4 x 5 x 5)
    stem: Literal[1, 2] = 2  # resolution at which the flow is read
    scale: Rate = 4.0  # voxels that become 1 at the input
    prior: Weight = 0.1
    image: Weight = 1.0  # weight of the image term beside the L1 of the flow


@dataclass(frozen=True, config=_STRICT)
class Segmenter:
    """The 3D U-Net that learns from generated pairs."""

    widths: Widths = (16, 32, 64, 128)
    stem: Literal[1, 2] = 1
    prior: Weight = 0.0  # voxels by which labels are blurred to a prior of place, added to the logits; 0: none
    likelihood: Weight = 0.0  # of a scan's intensities beside the network's word on it; 0: the network alone
    normalise: Literal["minmax", "zscore"] = "minmax"
    mirror: bool = False  # learn from half of the pairs mirrored, and give the mean of a scan and its mirror image
    shifts: bool = False  # give the mean of a scan where it is and moved by one voxel along each axis
    together: bool = False  # `sst segment` gives the mean of the network's word and of the labels that F carries
    augment: Literal["none", "space", "all"] = "none"  # on top of a pair: a small affine, or gamma and noise as well
    moved: Share = 1.0  # chance that a pair gets that affine, which blurs what it moves: no scan is blurred


@dataclass(frozen=True, config=_STRICT)
class Phase:
    """How long one phase learns, and how."""

    rounds: Positive = 1
    steps: Positive = 100  # local steps of each site in a round
    batch: Positive = 1
    rate: Rate = 2e-4  # Adam
    critic_rate: Rate = 2e-4  # Adam of the critic, betas (0.5, 0.999)
    deadline: Rate | None = None  # seconds that a site has for one round; None: as federation.deadline


@dataclass(frozen=True, config=_STRICT)
class Register(Phase):
    """The registration phase: T."""

    atlas: Share = 0.5  # chance that the moving volume of a step is the atlas


@dataclass(frozen=True, config=_STRICT)
class Joint(Phase):
    """The joint phase: E, A and F by eq. 11."""

    batch: Positive = 4
    atlas: Share = 0.5  # chance that the source of a step is the atlas
    appearance_rate: Rate = 2e-4  # Adam of A
    through: bool = True  # E learns from A's and F's losses too (the paper), or from eq. 1 and 10 alone
    flow: Weight = 1.0  # lambda_2 of eq. 11
    start: Literal["fresh", "register"] = "register"  # F's first weights: new, or those of T


@dataclass(frozen=True, config=_STRICT)
class Segment(Phase):
    """The hub's training of a segmenter; a round ends in a saved state."""

    average: Share = 0.99  # momentum of the running mean of weights that is delivered; 0: the last weights
    optimiser: Literal["adam", "muon"] = "adam"  # muon: for the convolutions, see `sst_models.training.muon`
    decay: Share = 0.0  # share of the phase's steps, at its end, over which the rate falls to 0


@dataclass(frozen=True, config=_STRICT)
class Adapt(Segment):
    """The site's own rounds on its segmenter, with pairs that lie on its scans; not in the paper, so 0 rounds.

    METHOD, "What came after", 1 and 3: pairs aligned to real scans, and real scans shown to the segmenter.
    """

    rounds: Natural = 0
    real: Share = 0.5  # chance that a pair's image is the scan itself; otherwise it is the atlas, restyled and warped
    mix: Share = 0.0  # chance that a restyled pair's flow is a blend of two scans' flows: a shape that nobody has


@dataclass(frozen=True, config=_STRICT)
class Phases:
    """All phases that learn, in their order."""

    register: Register = Register(rounds=4, steps=1000)
    style: Phase = Phase(rounds=4, steps=250, batch=32)
    joint: Joint = Joint(rounds=10, steps=1000)
    flow_codes: Phase = Phase(rounds=4, steps=500, batch=4)
    segment: Segment = Segment(rounds=10, steps=185)
    adapt: Adapt = Adapt()


@dataclass(frozen=True, config=_STRICT)
class Generation:
    """What the generator draws from (eq. 12)."""

    pairs: Positive = 1850  # distinct pairs that a segmenter sees (Sec. 4)
    palette: Natural = 0  # distinct styles, each made once and kept in memory; 0: every pair has a style of its own
    styles: Literal["prior", "moments"] = "prior"  # style codes: the prior, or the site's own moments
    flows: Literal["prior"] = "prior"  # flow codes: N(0, I); never patients' codes


@dataclass(frozen=True, config=_STRICT)
class Experiment:
    """A whole preset."""

    name: str
    seed: Natural = 1
    amx: bool = False  # bfloat16 for A and the segmenter on CPUs that are fast in it; a GPU uses it always
    grid: Grid = Grid()
    federation: Federation = Federation()
    registration: Registration = Registration()
    style: Style = Style()
    appearance: Appearance = Appearance()
    flow_codes: FlowCodes = FlowCodes()
    segmenter: Segmenter = Segmenter()
    phases: Phases = Phases()
    generation: Generation = Generation()

    @property
    def latent(self) -> tuple[int, ...]:
        """Give the shape of one flow code, (latent, d, h, w)."""
        own = self.flow_codes
        shrink = own.stem * 2 ** len(own.widths)
        return (own.latent, *(-(-side // shrink) for side in self.grid.shape))

    def to_json(self) -> str:
        """Give the preset as one line of JSON with sorted keys: the same preset, the same bytes."""
        return json.dumps(asdict(self), sort_keys=True)


_ADAPTER = TypeAdapter(Experiment)


def names() -> tuple[str, ...]:
    """Give the names of the presets that come with the project."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.toml")))


def load(preset: str, changes: Sequence[str] = ()) -> Experiment:
    """Read a preset by its name, or from a TOML file by its path.

    Args:
        preset: name or path.
        changes: what is to be different, as "table.key=value" with the value as TOML has it; a plain word is a text.

    Raises:
        ConfigError: no such preset, not TOML, an unknown key, a wrong type, or a value out of range.
    """
    path = Path(preset)
    if path.suffix != ".toml":
        path = Path(__file__).parent / f"{preset}.toml"
    if not path.is_file():
        raise ConfigError(f"no preset '{preset}': give one of {', '.join(names())}, or the path of a .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}") from error
    for change in changes:
        _change(values, change)
    return from_dict({"name": path.stem, **values}, path.name)


def _change(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not (key.strip() and equals and text.strip()):
        raise ConfigError(f"'{change}' is no change of a preset; give table.key=value, e.g. registration.ascent=0")
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
    try:
        experiment: Experiment = _ADAPTER.validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error)}") from error
    _check_grid(experiment, source)
    return experiment


def _check_grid(experiment: Experiment, source: str) -> None:
    codes, unet = experiment.flow_codes, experiment.segmenter
    multiples = {
        "every network": 16,
        "flow_codes, with its stem and widths,": codes.stem * 2 ** len(codes.widths),
        "segmenter, with its stem and widths,": unet.stem * 2 ** (len(unet.widths) - 1),
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
        here = get_type_hints(here)[part]
    return [field.name for field in fields(here)] if is_dataclass(here) else []
