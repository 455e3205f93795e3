"""Arms of a registration that learns nothing: symmetric normalisation, as ANTs has it (Avants et al. 2008).

They need the package antspyx, which is an extra: pip install '.[baselines]'. Labels of several atlases are averaged, or
fused by joint label fusion (Wang et al. 2013, IEEE TPAMI 35), which stands in for MABMIS of the paper's Table 1.
"""

from typing import TYPE_CHECKING

from simulation.arms.arm import EVERYWHERE, Arm, Bench, Predict, Predicted
from simulation.arms.registration import Flows, by_flows, by_flows_refined
from simulation.arms.segmenters import em_is_on

if TYPE_CHECKING:
    import ants
    import torch
    from torch import Tensor

RADIUS, ITERATIONS = 4, (60, 40, 20)
"""Of the cross-correlation, in voxels, and at each resolution, the coarsest first."""


BEYOND = 20
"""Voxels beyond the atlas to which places are known, so that a flow ends nowhere on a scan."""


def _as_image(volume: "Tensor", spacing: float, around: int = 0) -> "ants.ANTsImage":
    """Give a volume (D, H, W), `around` voxels wider on each side than the grid, as ANTs has images."""
    import ants

    origin = [-around * spacing] * 3
    return ants.from_numpy(volume.float().cpu().numpy(), origin=origin, spacing=[spacing] * 3)


def _transforms(bench: Bench, moving: "ants.ANTsImage", fixed: "ants.ANTsImage") -> list[str]:
    """Register an atlas to a scan, an affine first."""
    import ants

    found = ants.registration(
        fixed,
        moving,
        type_of_transform="SyN",
        syn_metric="CC",
        syn_sampling=RADIUS,
        reg_iterations=ITERATIONS,
        random_seed=bench.experiment.seed,
    )
    return list(found["fwdtransforms"])


def _flow(bench: Bench, atlas: "Tensor", image: "Tensor") -> "Tensor":
    """Give the flow (1, 3, D, H, W) in voxels that SyN finds from a scan to an atlas, both (1, D, H, W)."""
    import ants
    import torch

    spacing, shape = bench.experiment.grid.spacing, atlas.shape[1:]
    fixed, grid = _as_image(image[0], spacing), _places(shape, 0)
    transforms = _transforms(bench, _as_image(atlas[0], spacing), fixed)
    wide = (_as_image(axis, spacing, BEYOND) for axis in _places(shape, BEYOND))  # where in the atlas a voxel is
    moved = [ants.apply_transforms(fixed, axis, transforms).numpy() for axis in wide]
    return (torch.stack([torch.from_numpy(axis) for axis in moved]) - grid)[None].to(atlas)


def _places(shape: "torch.Size", around: int) -> "Tensor":
    import torch

    axes = (torch.arange(-around, side + around) for side in shape)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _flows(bench: Bench, arm: Arm, site: str) -> Flows:
    """Find flows by SyN, after an affine registration of its own."""
    return lambda image: [_flow(bench, atlas, image) for atlas, _ in bench.atlases]


def _joint_fusion(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict by joint label fusion of all atlases, each brought to the scan by SyN."""
    import ants
    import torch

    spacing = bench.experiment.grid.spacing

    def predict(image: "Tensor") -> Predicted:
        fixed = _as_image(image[0], spacing)
        images, labels = [], []
        for atlas, own in bench.atlases:
            transforms = _transforms(bench, moving := _as_image(atlas[0], spacing), fixed)
            images.append(ants.apply_transforms(fixed, moving, transforms))
            on_grid = _as_image(own.on_grid, spacing)
            labels.append(ants.apply_transforms(fixed, on_grid, transforms, interpolator="genericLabel"))
        mask = ants.get_mask(fixed, low_thresh=1e-6, cleanup=0)
        found = ants.joint_label_fusion(fixed, mask, images, label_list=labels)
        return Predicted(torch.from_numpy(found["segmentation"].numpy()).round().long().to(image.device))

    return predict


SYN = Arm(
    "SyN",
    "The atlas bent onto the scan by ANTs (symmetric normalisation): nothing is learnt for it.",
    by_flows(_flows),
    tested=EVERYWHERE,
    flows=True,
    package="antspyx",
)

ARMS = (
    SYN,
    Arm(
        "SyN refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        by_flows_refined(_flows),
        tested=EVERYWHERE,
        base=SYN,
        applies=em_is_on,
        flows=True,
        package="antspyx",
    ),
    Arm(
        "joint label fusion",
        "Several atlases bent onto the scan by ANTs and fused by how like it each is: it stands in for MABMIS.",
        _joint_fusion,
        tested=EVERYWHERE,
        flows=True,
        package="antspyx",
        atlases=2,
    ),
)
