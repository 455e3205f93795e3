"""What left a site in a run, by the site's own ledger: part by part, how often, and with what noise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from client.gate import budget, ledger
from client.gate.policy import read_policy

COUNTS, FIGURES, CURVES = "counts", "figures", "curves"
"""What leaves beside arrays: single values, figures of a test, and training curves."""

ALONE = "its loss is not that of a scan alone: it depends on other networks, or on what is drawn at random"

UNTESTED: Mapping[str, str] = MappingProxyType(
    {
        COUNTS: "they are exact, and have no noise: who sees two of them sees how many came or went",
        FIGURES: "they are means over people who are tested on, without noise; no attack on means of Dice is here",
        CURVES: "they are means over many steps; no attack on curves is here",
        "moments": "they are a mean and a standard deviation without noise; no attack on them is here",
        **dict.fromkeys(("E", "D_style", "A", "F", "encoder", "decoder", "D_flow"), ALONE),
    }
)
"""Why no attack is carried out on what is not attacked; a part of a new phase is not here."""

UNKNOWN = "no attack on this part is here"


@dataclass(frozen=True)
class Release:
    """One part that left in one phase."""

    phase: str
    part: str  # of `configs.phases.PARTS`, or "statistics", "moments", "counts", "figures", "curves"
    times: int  # how often it left
    bytes: int  # of arrays, as they travelled, all together


@dataclass(frozen=True)
class Noise:
    """What left with noise cost a site's people, by its ledger."""

    epsilon: float  # of a release, as the policy has it; infinite: without noise
    delta: float
    run: float  # epsilon of the statistics that left in this run; 0: none did
    spent: float  # of everything that ever left with noise, networks that trained with noise among it


def released(path: Path, run: str) -> list[Release]:
    """List what a ledger says that a run let out, in the order in which it first left.

    Raises:
        RunError: the ledger was altered.
    """
    found: dict[tuple[str, str], Release] = {}
    for entry in ledger.verified(path):
        for part, size in _items(entry) if entry["run"] == run else ():
            phase = str(entry["phase"])
            before = found.get((phase, part), Release(phase, part, 0, 0))
            found[phase, part] = Release(phase, part, before.times + 1, before.bytes + size)
    return list(found.values())


def _items(entry: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Give what one entry of a ledger let out, and the bytes of it."""
    if entry["settings"] or entry["phase"] == "join":
        yield COUNTS, 0
    for part, said in entry["parts"].items():
        yield part, int(said["bytes"])
    if entry["series"]:
        yield CURVES, 0
    elif entry["metrics"]:
        yield FIGURES, 0


def noise_of(gate: Path, run: str) -> Noise:
    """Read the noise of a site's statistics.

    Args:
        gate: the gate's folder.
        run: the name under which the site kept it.

    Raises:
        RunError: the ledger was altered.
        ConfigError: the policy cannot be read.
    """
    policy, path = read_policy(gate / "policy.toml"), gate / ledger.NAME
    own = [multiplier for (name, _), multiplier in budget.released(path).items() if name == run]
    in_run = budget.epsilon_of(tuple(sorted(own)), policy.delta)
    return Noise(policy.epsilon, policy.delta, in_run, budget.spent(path, policy.delta))
