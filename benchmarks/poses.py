"""How far the affine is off when a head lies tilted: scans of real people, turned by their headers.

    python benchmarks/poses.py ATLAS.nii.gz SCAN.nii.gz SCAN.nii.gz ...

Each scan is turned by 15, 30 and 45 degrees about each axis, and by 40 about each pair of axes, both ways: 30 poses.
The error is the distance, over the brain, from where it is found when it lies as it came, mm.
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from client.affine import one_thread, register, scaled, to_matrix
from client.nifti import affine_of, array_of, read_image, to_sitk

AXES = np.eye(3, dtype=int)

ANGLES = [
    *(sign * angle * AXES[axis] for axis, angle, sign in product(range(3), (15, 30, 45), (-1, 1))),
    *(40 * (one * AXES[a] + two * AXES[b]) for (a, b), one, two in product(((0, 1), (0, 2), (1, 2)), (-1, 1), (-1, 1))),
]


def main() -> None:
    """Print the errors of each scan."""
    fixed, *scans = map(Path, sys.argv[1:])
    atlas = scaled(read_image(fixed))
    print("scan  poses  mean error, mm: median, largest  largest of any voxel, mm  poses beyond 1 mm")
    for path in scans:
        image = read_image(path)
        voxels, affine = array_of(image), affine_of(image)
        inside = np.argwhere(voxels > 0)[::997]
        places = np.c_[inside, np.ones(len(inside))] @ affine.T
        centre = places.mean(axis=0)[:3]
        matrices, means, most = [], [], []
        for angles in [0 * AXES[0], *ANGLES]:
            tilt = np.eye(4)
            tilt[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
            tilt[:3, 3] = centre - tilt[:3, :3] @ centre
            with one_thread():
                found = to_matrix(register(atlas, scaled(to_sitk(voxels, tilt @ affine)), str(path)))
            matrices.append(np.linalg.inv(tilt) @ found)
            on_atlas = places @ np.linalg.inv(matrices[0]).T
            apart = np.linalg.norm((on_atlas @ (matrices[-1] - matrices[0]).T)[:, :3], axis=1)
            means.append(apart.mean())
            most.append(apart.max())
        own = np.array(means[1:])
        print(f"{path.name}  {len(own)}  {np.median(own):.2f}, {own.max():.2f}  {max(most):.2f}  {(own > 1).sum()}")


if __name__ == "__main__":
    main()
