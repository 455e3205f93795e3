"""What one site lets out of the building: read from the site's own `policy.toml`, never from the hub."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from configs import levels
from configs.errors import ConfigError, RefusalError
from configs.phases import KEPT, Phase, asked, at_sites, phase_of, training
from configs.schema import Experiment

PHASES = tuple(phase.name for phase in asked())
"""Every phase that a hub can ask for; `hello` needs no leave: it names the site and its versions."""

GONE: Mapping[str, str] = MappingProxyType(
    {
        "appearance": 'level = "models" lets the weights of A out, any other level keeps them here',
        "segmenter": 'level = "models" lets the weights of the segmenter out, any other level keeps them here',
    }
)
"""Keys of policies before version 0.4, and what holds instead."""

MOST: Mapping[str, float] = MappingProxyType({"delta": 0.01, "most_auc": 1.0})
"""Largest values of keys. With a probability of delta a person's numbers may be seen as they are; 1 is certainty."""

TIED = (
    "phase '{phase}' ties the scans of several people together, so that no noise can hide one of them; this site's "
    "policy lets networks out with noise alone (networks_epsilon)"
)
"""Why a site that asks for noise on networks declines a phase."""


@dataclass(frozen=True)
class Policy:
    """A site's rules: what it takes part in, what may leave, and the least and the most that a hub may ask.

    The defaults are those that `sst site approve` writes. Simulated sites have a more open one (`simulation.engines`).
    """

    level: str = levels.STATISTICS  # of sharing, one of `configs.levels`
    phases: tuple[str, ...] = PHASES  # of those that the level has, the ones that this site answers
    moments: bool = True  # may mean and standard deviation of style codes leave, in phases that have them
    moments_each_round: bool = False  # after each round of a phase; otherwise after its last one alone
    dice: bool = False  # may mean Dice of people who are tested on leave: it has no noise
    most_bytes: int = 50_000_000  # arrays of one reply; the largest exchange of the paper is 41 MB
    most_rounds: int = 200  # rounds of a run at this site, over all phases
    most_missed_rounds: int = 0  # rounds of a part that this site may have missed: more lets a hub choose its weights
    most_requests: int = 200  # in 24 hours, of those that cost work
    most_segmenters: int = 16  # segmenters that a run may have tested here
    most_runs_with_moments: int = 10  # runs, over the life of the ledger, in which moments may leave
    most_runs_with_statistics: int = 10  # likewise, statistics
    epsilon: float = 1.0  # of differential privacy, of the statistics of one run; inf adds no noise to them
    delta: float = 1e-5  # with it: the probability that is left over
    most_epsilon: float = 2.0  # over the life of the ledger, of all that leaves with noise together
    most_auc: float = 0.75  # that the site's audit of its statistics may reach, else they stay; 1 never stops them
    networks_epsilon: float = math.inf  # as `epsilon`, of all weights of networks of one run; inf adds no noise to them
    min_scans: int = 5  # fewest training scans behind anything that is learnt and leaves
    min_cases: int = 5  # fewest scans behind moments, fewest people behind statistics
    min_people_private: int = 100  # fewest people who train behind a network with noise
    min_volumes: int = 40  # fewest volumes that a round of training reads: steps x batch
    min_test_people: int = 5  # fewest people behind figures of a test

    def answers(self, phase: str) -> bool:
        """Whether the site takes part in a phase."""
        return not self.declines(phase)

    def declines(self, phase: str) -> str:
        """Say why the site takes no part in a phase; "" where it does."""
        asked = phase_of(phase)
        if phase not in self.phases:
            return f"phase '{phase}' is not among the phases of this site's policy"
        if not levels.reaches(self.level, asked.level):
            return f"phase '{phase}' needs the level '{asked.level}'; this site's is '{self.level}'"
        if self._lacks_noise(asked):
            return TIED.format(phase=phase)
        if asked.figures and not self.dice:
            return f"phase '{phase}' lets figures out that have no noise; this site's policy keeps them (dice)"
        return ""

    @property
    def trains_privately(self) -> bool:
        """Whether weights of networks leave with noise alone; what has none, as training curves, then stays here."""
        return self.trains and math.isfinite(self.networks_epsilon)

    def _lacks_noise(self, phase: Phase) -> bool:
        """Whether weights would leave in a phase that no noise can hide people in, though the site asks for noise."""
        leave = {part for part in phase.learns if not self.withholds(part)}
        return self.trains_privately and bool(leave) and not phase.separable

    @property
    def releases_moments(self) -> bool:
        """Whether moments may leave at all: a site that leaves the style phase out keeps them in every phase."""
        return self.moments and self.answers("style")

    @property
    def releases_curves(self) -> bool:
        """Whether training curves may leave: they have no noise."""
        return self.trains and not self.trains_privately

    @property
    def answered(self) -> tuple[str, ...]:
        """The phases in which the site takes part."""
        return tuple(phase for phase in self.phases if self.answers(phase))

    @property
    def trains(self) -> bool:
        """Whether the site trains networks with the others, so that weights may leave."""
        return levels.reaches(self.level, levels.NETWORKS)

    def withholds(self, part: str) -> bool:
        """Whether a part that this site learns stays here."""
        return part in KEPT and self.level != levels.MODELS


def check_floors(experiment: Experiment, policy: Policy) -> None:
    """See that a preset asks for as much as the policy wants in each phase that sites learn in, and not for too much.

    Raises:
        RefusalError: the first thing that it does not.
    """
    rounds = sum(experiment.phases.rounds(phase.name) for phase in at_sites() if policy.answers(phase.name))
    if rounds > policy.most_rounds:
        raise RefusalError(f"the run has {rounds} rounds; the policy allows {policy.most_rounds}")
    for phase in (phase for phase in training() if policy.trains and policy.answers(phase.name)):
        settings = experiment.phases.of(phase.name)
        if settings.rounds and settings.steps * settings.batch < policy.min_volumes:
            raise RefusalError(
                f"a round of phase {phase.name} reads {settings.steps} x {settings.batch} volumes; the policy asks for "
                f"{policy.min_volumes} or more: few volumes say much of each"
            )


def read_policy(path: Path | None) -> Policy:
    """Give the policy in `path`, or the defaults where a site has none.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, a wrong type, or an unknown phase.
    """
    if path is None:
        return Policy()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"policy {path} cannot be read: give the path of a policy.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"policy {path} is not valid TOML: {error}") from error
    return Policy(**{key: _checked(key, value, path) for key, value in values.items()})


def _checked(key: str, value: object, path: Path) -> Any:
    default = {field.name: field.default for field in fields(Policy)}
    if key in GONE:
        raise ConfigError(f"policy {path}: '{key}' is gone since version 0.4: {GONE[key]}")
    if key not in default:
        nearest = get_close_matches(key, default, n=1, cutoff=0.0)[0]
        raise ConfigError(f"policy {path}: unknown key '{key}'; did you mean '{nearest}'?")
    if key == "phases":
        return _checked_phases(value, path)
    if key == "level" and value not in levels.LEVELS:
        raise ConfigError(f"policy {path}: 'level' must be one of {', '.join(levels.LEVELS)}, not {value!r}")
    if isinstance(default[key], float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default[key]):
        raise ConfigError(f"policy {path}: '{key}' must be a {type(default[key]).__name__}, not {value!r}")
    if isinstance(value, int) and value < 0:
        raise ConfigError(f"policy {path}: '{key}' must not be negative, but is {value}")
    most = MOST.get(key, math.inf)
    if isinstance(value, float) and not 0 < value <= most:
        raise ConfigError(f"policy {path}: '{key}' must be above 0, and {most:g} at most, but is {value:g}")
    return value


def _checked_phases(value: object, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or any(phase not in PHASES for phase in value):
        raise ConfigError(f"policy {path}: 'phases' must be a list of {', '.join(PHASES)}, not {value!r}")
    return tuple(value)
