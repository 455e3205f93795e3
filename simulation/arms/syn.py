"""Arms of a registration that learns nothing: symmetric normalisation, as ANTs has it (Avants et al. 2008).

They need the package antspyx, which is an extra: pip install '.[baselines]'.
"""

from typing import TYPE_CHECKING

from simulation.arms.arm import EVERYWHERE, Arm, Bench, Predict, Predicted
from simulation.arms.registration import propagated

if TYPE_CHECKING:
    from torch import Tensor

RADIUS, ITERATIONS = 4, (60, 40, 20)
"""Of the cross-correlation, in voxels, and at each resolution, the coarsest first."""


BEYOND = 20
"""Voxels beyond the atlas to which places are known, so that a flow ends nowhere on a scan."""


def _syn(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict the atlas's labels as SyN propagates them, after an affine registration of its own."""
    import ants
    import torch

    atlas, labels = bench.atlas
    shape = atlas.shape[1:]
    spacing = [bench.experiment.grid.spacing] * 3

    def as_image(volume: "Tensor", around: int = 0) -> "ants.ANTsImage":
        origin = [-around * edge for edge in spacing]
        return ants.from_numpy(volume.float().cpu().numpy(), origin=origin, spacing=spacing)

    def places(around: int) -> "Tensor":
        axes = (torch.arange(-around, side + around) for side in shape)
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    moving, grid = as_image(atlas[0]), places(0)
    wide = [as_image(axis, BEYOND) for axis in places(BEYOND)]  # where in the atlas each of its voxels is

    def predict(image: "Tensor") -> Predicted:
        fixed = as_image(image[0])
        found = ants.registration(
            fixed,
            moving,
            type_of_transform="SyN",
            syn_metric="CC",
            syn_sampling=RADIUS,
            reg_iterations=ITERATIONS,
            random_seed=bench.experiment.seed,
        )
        moved = [ants.apply_transforms(fixed, axis, found["fwdtransforms"]).numpy() for axis in wide]
        flow = (torch.stack([torch.from_numpy(axis) for axis in moved]) - grid)[None].to(atlas)
        return propagated(labels, flow)

    return predict


ARMS = (
    Arm(
        "SyN",
        "The atlas bent onto the scan by ANTs (symmetric normalisation): nothing is learnt for it.",
        _syn,
        tested=EVERYWHERE,
        flows=True,
        package="antspyx",
    ),
)
