"""Copy a site, its scans as a simulated scanner would have taken them: real brains where scanners truly differ.

    python benchmarks/rescan.py --site DIR --out FOLDER [--scanner candi] [--seed 1]

Style adaptation can gain no more across two sites than their scanners cost. This tells what it gains where they cost
much: `sst simulate` takes FOLDER as any site. Of each brain, three classes by Otsu's thresholds stand for fluid, grey
and white matter; their means go to the simulated scanner's fluid, cortex and white matter, what lies between them
linearly, then come its intensity curve, bias field and noise. No label is looked at. Noise is less in voxels larger
than the scanner's own, by the root of their volumes. FOLDER holds scans of patients: keep it out of git.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.layouts import find_scans
from client.nifti import affine_of, array_of, read_image
from simulation.scanner import SCANNERS, Scanner, acquired

Voxels = NDArray[np.float32]


def rescanned(voxels: Voxels, sides: NDArray[np.float64], scanner: Scanner, seed: int) -> Voxels:
    """Give a stripped scan (i, j, k), voxels of (3,) mm, as another scanner would have taken it; 0 stays 0."""
    brain = voxels > 0
    own = voxels[brain]
    cuts = sitk.OtsuMultipleThresholds(sitk.GetImageFromArray(own[None]), 2)  # type: ignore[no-untyped-call]
    found = sitk.GetArrayViewFromImage(cuts)[0]
    means = [float(own[found == number].mean()) for number in range(3)]
    tissue = dict(scanner.tissue)
    wanted = [tissue["CSF"], tissue["Cerebral-CX"], tissue["Cerebral-WM"]]
    slope = (wanted[2] - wanted[1]) / (means[2] - means[1])
    places = [0.0, *means, max(float(own.max()), means[2] + 1)]
    values = [0.0, *wanted, wanted[2] + slope * (places[-1] - means[2])]
    signal = np.zeros(voxels.shape, np.float32)
    signal[brain] = np.interp(own, places, values) ** scanner.gamma
    larger = float(np.prod(sides) / np.prod(scanner.voxel))
    today = replace(scanner, noise=scanner.noise / max(larger, 1.0) ** 0.5)
    return acquired(signal, brain, today, sides.tolist(), np.random.default_rng([seed, 0x5CA7]))


def main() -> None:
    """Parse the command line, copy the site, write its scans anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scanner", choices=sorted(SCANNERS), default="candi")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    shutil.copytree(asked.site, asked.out, copy_function=shutil.copyfile)
    for number, scan in enumerate(find_scans([asked.out])):
        image = read_image(scan.image)
        sides = np.array(image.GetSpacing())  # type: ignore[no-untyped-call]
        voxels = rescanned(array_of(image).astype(np.float32), sides, SCANNERS[asked.scanner], asked.seed + number)
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), affine_of(image)), scan.image)  # type: ignore[no-untyped-call]
        print(scan.case, flush=True)


if __name__ == "__main__":
    main()
