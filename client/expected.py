"""How large each structure usually is, and how unlike its two sides are: ranges in a model's card, results beside them.

The atlas is one person; the label table says how people differ from one another (`configs.structures.Row`), and the
site's training scans, segmented by the model itself, say how they do here. The more of them, the more they count.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs.errors import DataError
from configs.structures import LabelTable
from sst_models.volume.labels import AtlasLabels

WIDTH = 4.0
"""Standard deviations from the middle of a range to its ends; 3 would be too few for 28 structures."""

PRIOR = 4.0
"""People that the label table's word for how people differ counts for."""

LEAST_APART = 0.3
"""Of how far two sides differ beside how far people do: labels of small structures are rough."""

FACES = 1.5
"""A sphere's voxels have so many times its surface: each face lies along an axis."""

Ranges = Mapping[str, tuple[float, float]]
"""By the name of a structure, from and to."""


@dataclass(frozen=True)
class Expected:
    """What is usual."""

    people: int  # whose scans said so, beside the atlas
    fractions: Ranges  # of the brain with its fluid
    asymmetries: Ranges  # left less right over their mean, of structures that have two sides

    @property
    def card(self) -> dict[str, Any]:
        """Give it as a card has it."""
        return {"people": self.people, "fraction": dict(self.fractions), "asymmetry": dict(self.asymmetries)}

    @classmethod
    def of(cls, card: Mapping[str, Any], table: LabelTable) -> "Expected":
        """Read it from a card.

        Raises:
            DataError: it is of other structures, or no ranges.
        """
        try:
            found = card["expected"]
            fractions, sides = (
                {str(name): (float(low), float(high)) for name, (low, high) in found[kind].items()}
                for kind in ("fraction", "asymmetry")
            )
            people = int(found["people"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError("the card's usual sizes of structures are not readable; copy the model again") from error
        names = {structure.name for structure in table.structures}
        if set(fractions) != names or not set(sides) <= names:
            raise DataError("the card's usual sizes are of other structures than its labels; copy the model again")
        return cls(people, fractions, sides)

    def apart(self, name: str, fraction: float) -> float:
        """Say how far a structure's size is from the middle of its range, in half ranges: beyond 1 it is unusual."""
        low, high = self.fractions[name]
        if low <= 0:  # somebody has none of it
            return fraction / max(high, 1e-6)
        low, high = math.log(low), math.log(high)
        return abs(math.log(max(fraction, 1e-6)) - (low + high) / 2) / max((high - low) / 2, 1e-6)

    def lopsided(self, name: str, asymmetry: float) -> float:
        """Say likewise how far apart its sides are; 0 where it has one, or neither was found."""
        if name not in self.asymmetries or math.isnan(asymmetry):
            return 0.0
        low, high = self.asymmetries[name]
        return abs(asymmetry - (low + high) / 2) / max((high - low) / 2, 1e-6)


def expect(atlas: AtlasLabels, spacing: float, brain: Tensor, people: Sequence[Tensor]) -> Expected:
    """Work out what is usual.

    Args:
        atlas: its labels.
        spacing: of the grid, mm.
        brain: the atlas's, (D, H, W) bool.
        people: of each training scan, the share of the brain that each structure has, (structures,): `shares`.
    """
    table = atlas.table
    own = shares(atlas.on_grid, brain, table)
    apart = spreads(atlas, spacing)
    found = torch.stack([own, *people])
    sizes = found.clamp(min=0.5 / int(brain.sum())).log()
    middle = sizes.mean(dim=0)
    spread = _spread(sizes - middle, apart) * (1 + 1 / len(sizes)) ** 0.5  # the middle is not known exactly, either
    low, high = (middle - WIDTH * spread).exp() * (found > 0).all(dim=0), (middle + WIDTH * spread).exp()
    fractions = {s.name: (_rounded(low[n]), _rounded(high[n])) for n, s in enumerate(table.structures)}
    mirror = torch.tensor(table.mirrored[1:]) - 1
    uneven = 2 * torch.tanh((sizes - sizes[:, mirror]) / 2)  # 2 (a - b) / (a + b), by the logarithms of two sizes
    symmetry = torch.tensor([s.symmetry for s in table.structures])
    sides_apart = apart * (2 * (1 - symmetry)).sqrt().clamp(min=LEAST_APART)
    most = WIDTH * _spread(uneven, sides_apart)  # around 0: two sides are alike, as a rule
    sides = {
        s.name: (-_rounded(most[n]), _rounded(most[n]))
        for n, s in enumerate(table.structures)
        if table.mirrored[s.index] != s.index
    }
    return Expected(len(people), fractions, sides)


def shares(labels: Tensor, brain: Tensor, table: LabelTable) -> Tensor:
    """Give the share of the brain that each structure has, (structures,), by class indices and a mask (D, H, W)."""
    counts = torch.bincount(labels[brain].flatten(), minlength=table.classes)[1:]
    return counts / brain.sum()


def spreads(atlas: AtlasLabels, spacing: float) -> Tensor:
    """Give the standard deviation of the logarithm of each structure's size, (structures,), by the label table.

    A surface that lies `inflation` mm further out adds its area times that to the volume.
    """
    found = []
    for structure in atlas.table.structures:
        inside = torch.nn.functional.pad((atlas.on_grid == structure.index).float(), [1] * 6)
        faces = sum(float(inside.diff(dim=axis).abs().sum()) for axis in range(3))
        deep = spacing * max(float(inside.sum()), 1.0) / max(faces / FACES, 1.0)  # volume over surface, mm
        found.append(min(structure.inflation / deep, 1.0))
    return torch.tensor(found)


def _spread(away: Tensor, apart: Tensor) -> Tensor:
    """Give the standard deviation of each column of (N, structures), with `PRIOR` people's worth of `apart`."""
    return ((PRIOR * apart.square() + away.square().sum(dim=0)) / (PRIOR + len(away) - 1)).sqrt()


def _rounded(value: Tensor) -> float:
    """Four digits: a card is read by people."""
    return float(f"{float(value):.4g}")
