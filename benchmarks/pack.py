"""Take prepared scans to a machine with a GPU that lacks SimpleITK, and put them on any grid there.

    python benchmarks/pack.py --site oasis=DIR --site ixi=DIR --splits FILE --run RUN --out FOLDER

RUN is a simulation of the same sites, whose prepared scans tell where each scan lies in each atlas's world; N4 runs
again. A brain is kept in 255 shades, which is finer than a scanner's noise: 31 MB for 56 scans. FOLDER holds scans of
patients: it belongs where git ignores it, and onto no machine that may not hold them. `Pack` reads it.
"""

import argparse
import json
import lzma
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import SimpleITK  # noqa: F401
except ImportError:  # the client's modules name its types; nothing that `Pack` needs calls it

    class _Absent(ModuleType):
        def __getattr__(self, name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    sys.modules["SimpleITK"] = _Absent("SimpleITK")

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from client.affine import one_thread
from client.brain import brain_of, unbias
from client.layouts import Scan, find_scans
from client.nifti import affine_of, array_of, read_image, read_labels
from client.preparation import Preparation
from client.prepare import AtlasFrame, Prepared, PreparedCase, store_of
from client.split import split_people
from configs.schema import Grid
from server.atlas import Atlas, load_atlas
from sst_models.volume.grid import sample_image, sample_labels
from sst_models.volume.intensity import robust_scale

TOP = 99.95
"""Percentile of the brain that becomes the brightest shade: what is cut lies far above `robust_scale`'s 99.5."""

DARK = 1e-4
"""The darkest shade of a brain, read back: not 0, which is background."""

Row = dict[str, Any]


class Pack:
    """Scans as this script kept them: each site's list, shades, classes and places, and its atlas as it came."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listed: dict[str, list[Row]] = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}

    @property
    def splits(self) -> dict[str, dict[str, str]]:
        """Give each site's cases and the split of each."""
        return {site: {row["case"]: row["split"] for row in rows} for site, rows in self.listed.items()}

    def atlas(self, site: str, grid: Grid, device: torch.device) -> Atlas:
        """Give a site's atlas on a run's grid."""
        image, labels = (self.folder / f"{site}-{kind}.nii.gz" for kind in ("image", "labels"))
        return load_atlas(image, labels, grid.shape, grid.spacing, grid.label_oversampling, device)

    def write(self, site: str, atlas: str, frame: AtlasFrame, state: Path, device: torch.device) -> None:
        """Put a site's scans on an atlas's grid, where a site of that state folder keeps what it prepared."""
        store = store_of(state / "prepared", frame)
        store.mkdir(parents=True, exist_ok=True)

        def one(job: tuple[Row, np.ndarray]) -> None:
            row, (shades, *classes) = job
            atlas_to_scan = np.array(row["places"][atlas])
            place = np.linalg.inv(atlas_to_scan) @ np.array(row["affine"])
            bright = np.where(shades > 0, np.maximum((shades.astype(np.float32) - 1) / 254, DARK), 0)
            tensors = {"image": robust_scale(sample_image(bright, place, frame.grid, device)).cpu()}
            tensors["atlas_to_scan"] = torch.from_numpy(atlas_to_scan)
            if classes:
                tensors["labels"] = sample_labels(classes[0], place, frame.grid, device).cpu()
            save_file(tensors, store / f"{row['case']}.safetensors")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, zip(self.listed[site], self._parts(site), strict=True)))

    def prepared(self, site: str, store: Path) -> Prepared:
        """Give what `client.prepare.prepare_site` would, had it prepared these scans."""
        rows = self.listed[site]
        cases = [PreparedCase(r["case"], r["case"], store / f"{r['case']}.safetensors", r["labels"]) for r in rows]
        return Prepared(tuple(cases), ())

    def _parts(self, site: str) -> Iterator[np.ndarray]:
        """Give each scan's shades and, where it has them, classes: (1 or 2, i, j, k) uint8."""
        content, start = lzma.decompress((self.folder / f"{site}.xz").read_bytes()), 0
        for row in self.listed[site]:
            sides = (1 + row["labels"], *row["shape"])
            yield np.frombuffer(content, np.uint8, prod(sides), start).reshape(sides)
            start += prod(sides)


def packed(scan: Scan) -> tuple[Row, bytes]:
    """Give what is needed to read one scan, and its shades and classes, cropped to its brain."""
    image = read_image(scan.image)
    with one_thread():
        inside = brain_of(image, scan.mask, Preparation().stripping, str(scan.image))
        voxels = np.where(inside, unbias(image, inside), 0)
    corners = np.argwhere(voxels > 0)
    low, high = corners.min(axis=0), corners.max(axis=0) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    top = float(np.percentile(voxels[voxels > 0], TOP))
    parts = [np.where(voxels > 0, 1 + np.round(254 * np.clip(voxels / top, 0, 1)), 0)[box]]
    if scan.labels is not None:
        parts.append(array_of(read_labels(scan.labels, image))[box])
    affine = affine_of(image).copy()
    affine[:3, 3] += affine[:3, :3] @ low
    row = {"case": scan.case, "shape": parts[0].shape, "affine": affine.tolist(), "labels": len(parts) == 2}
    return row, b"".join(np.ascontiguousarray(part, np.uint8).tobytes() for part in parts)


def place_of(run: Path, site: str, atlas: str, case: str) -> list[list[float]]:
    """Give the affine from an atlas's world to a scan's, (4, 4), RAS mm, as a run found it."""
    rows = json.loads((run / "sites" / site / "runs" / f"{atlas}-prepared" / "splits.json").read_text())
    place: list[list[float]] = load_file(rows[case][1])["atlas_to_scan"].tolist()
    return place


def main() -> None:
    """Parse the command line, pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", action="append", required=True, metavar="NAME=DIR")
    for name in ("splits", "run", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    atlases = sorted(path.name for path in (asked.run / "federations").iterdir())
    for site, _, folder in (word.partition("=") for word in asked.site):
        scans = find_scans([Path(folder)])
        splits = split_people({scan.case: scan.person for scan in scans}, 1, asked.splits, site)
        rows, content = [], []
        for scan in scans:
            row, own = packed(scan)
            places = {name: place_of(asked.run, site, name, scan.case) for name in atlases}
            rows.append({**row, "split": splits[scan.case], "places": places})
            content.append(own)
            if splits[scan.case] == "atlas" and scan.labels is not None:
                for path, kind in ((scan.image, "image"), (scan.labels, "labels")):
                    shutil.copy(path, asked.out / f"{site}-{kind}.nii.gz")
        (asked.out / f"{site}.xz").write_bytes(lzma.compress(b"".join(content)))
        (asked.out / f"{site}.json").write_text(json.dumps(rows))
        print(f"{site}: {len(rows)} scans", flush=True)


if __name__ == "__main__":
    main()
