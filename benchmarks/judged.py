"""How many bad results `sst segment` doubts, and how many good ones: real scans, as they are and spoilt, two steps.

    python benchmarks/judged.py collect --model oasis=DIR --model ixi=DIR --model simulated=DIR \\
        --site oasis=DIR --site ixi=DIR --site ibsr=DIR --splits FILE --split val --out val.jsonl
    python benchmarks/judged.py fit val.jsonl test.jsonl --model oasis=DIR ...

`collect` segments each labelled scan of a split: as it is with each model, and spoilt in each way with the model of its
own site (else with the first). A line of JSON holds what is measured of one result and its true mean Dice, both on the
model's grid. Scans of the split `val` are spoilt in the ways of `CHOSEN_BY`, those of `test` in all, so that half of
the ways were not seen by what is fitted; each way meets every second test scan. `fit` works out the constants of
`client.judgement` by the first file, and prints what they say of both.
"""

import argparse
import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy import ndimage

from client.expected import Expected
from client.judgement import Evidence, evidence, judge, unlikeness
from client.layouts import Scan, find_scans
from client.model import Model, open_model
from client.nifti import affine_of, array_of, read_image, read_labels, to_sitk
from client.preparation import Preparation
from client.prepare import bring
from client.quality import Quality, assess
from client.segment import Predict, predictor
from client.segmented import Structure
from configs.errors import DataError
from configs.structures import PAPER
from configs.structures import Structure as LabelStructure
from simulation.atlases import splits_of
from sst_models.volume.grid import sample_labels
from sst_models.volume.metrics import mean_dice

Floats = NDArray[np.float32]


class Spoiler:
    """Ways in which a scan goes wrong: from voxels (i, j, k), 0 outside the brain, and its affine to the same."""

    def __init__(self, voxels: Floats, affine: NDArray[np.float64], truth: NDArray[np.uint8], seed: int) -> None:
        """Take a scan, with its class indices, and the seed of all draws."""
        self.voxels, self.affine, self.truth = voxels, affine, truth
        self.rng = np.random.default_rng(seed)
        self.inside = voxels > 0
        self.sides = np.linalg.norm(affine[:3, :3], axis=0)
        white, grey = ([s.index for s in PAPER.structures if s.group == g] for g in ("Cerebral-WM", "Cerebral-CX"))
        self.white, self.grey = (float(np.median(voxels[np.isin(truth, own)])) for own in (white, grey))

    def clean(self) -> tuple[Floats, NDArray[np.float64]]:
        """As it is."""
        return self.voxels, self.affine

    def noise(self) -> tuple[Floats, NDArray[np.float64]]:
        """Rician noise of 15 to 60 % of white matter."""
        sigma = self.rng.uniform(0.15, 0.6) * self.white
        real, imaginary = sigma * self.rng.standard_normal((2, *self.voxels.shape), np.float32)
        return self._kept(np.hypot(self.voxels + real, imaginary))

    def blur(self) -> tuple[Floats, NDArray[np.float64]]:
        """Out of focus: a Gaussian of 2 to 5 mm."""
        return self._kept(ndimage.gaussian_filter(self.voxels, self.rng.uniform(2, 5) / self.sides))

    def thick(self) -> tuple[Floats, NDArray[np.float64]]:
        """Slices of 5 to 10 mm along one axis."""
        axis, width = int(self.rng.integers(3)), self.rng.uniform(5, 10)
        size = max(1, round(width / self.sides[axis]))
        first = np.arange(self.voxels.shape[axis]) // size * size + size // 2
        mean = ndimage.uniform_filter1d(self.voxels, size, axis)
        return self._kept(mean.take(np.minimum(first, self.voxels.shape[axis] - 1), axis))

    def motion(self) -> tuple[Floats, NDArray[np.float64]]:
        """Ghosts: a third of the lines of k-space are of a head moved by up to 10 mm."""
        axis = int(self.rng.integers(3))
        lines = np.fft.fft(self.voxels, axis=axis)
        count = self.voxels.shape[axis]
        moved = np.where(self.rng.random(count) < 0.35, self.rng.uniform(-10, 10, count) / self.sides[axis], 0.0)
        turn = np.exp(-2j * np.pi * np.fft.fftfreq(count) * moved)
        shape = [-1 if a == axis else 1 for a in range(3)]
        return self._kept(np.abs(np.fft.ifft(lines * turn.reshape(shape), axis=axis)).astype(np.float32))

    def inverted(self) -> tuple[Floats, NDArray[np.float64]]:
        """Fluid brightest, white matter darkest, as T2."""
        return self._kept(1.15 * self.voxels[self.inside].max() - self.voxels)

    def flair(self) -> tuple[Floats, NDArray[np.float64]]:
        """Fluid dark, white matter darker than grey, as FLAIR."""
        bright = np.minimum(self.voxels, 2 * self.grey - self.voxels + 0.25 * self.white)
        return self._kept(np.maximum(bright, 0.1 * self.white))

    def bias(self) -> tuple[Floats, NDArray[np.float64]]:
        """A coil that fades by a factor of 4 to 12 from one side of the head to the other."""
        places = [np.linspace(-0.5, 0.5, n) for n in self.voxels.shape]
        grid = np.stack(np.meshgrid(*places, indexing="ij"))
        way = self.rng.standard_normal(3)
        fall = np.tensordot(way / np.linalg.norm(way), grid, 1) * np.log(self.rng.uniform(4, 12))
        return self._kept(self.voxels * np.exp(fall).astype(np.float32))

    def eroded(self) -> tuple[Floats, NDArray[np.float64]]:
        """A mask that takes 4 to 12 mm of the brain away."""
        depth = ndimage.distance_transform_edt(self.inside, self.sides)
        return np.where(depth > self.rng.uniform(4, 12), self.voxels, 0).astype(np.float32), self.affine

    def scalp(self) -> tuple[Floats, NDArray[np.float64]]:
        """A mask that leaves 6 to 15 mm of skull and scalp."""
        away = ndimage.distance_transform_edt(~self.inside, self.sides)
        rest = ndimage.gaussian_filter(self.rng.standard_normal(self.voxels.shape), 2 / self.sides)
        bright = self.white * np.clip(0.7 + 4 * rest, 0.1, 1.8)
        shell = (away > 0) & (away < self.rng.uniform(6, 15))
        return np.where(shell, bright, self.voxels).astype(np.float32), self.affine

    def cropped(self) -> tuple[Floats, NDArray[np.float64]]:
        """A field of view that misses 15 to 45 % of the brain along one axis."""
        axis = int(self.rng.integers(3))
        span = np.flatnonzero(self.inside.any(axis=tuple({0, 1, 2} - {axis})))
        cut = int(span[0] + self.rng.uniform(0.15, 0.45) * len(span))
        left = self.voxels.copy()
        np.moveaxis(left, axis, 0)[:cut] = 0
        return left, self.affine

    def lesion(self) -> tuple[Floats, NDArray[np.float64]]:
        """A hole of fluid of 18 to 35 mm radius."""
        places = np.argwhere(self.inside)
        centre = places[self.rng.integers(len(places))]
        away = np.linalg.norm((np.indices(self.voxels.shape).T - centre) * self.sides, axis=-1).T
        hole = (away < self.rng.uniform(18, 35)) & self.inside
        return np.where(hole, 0.2 * self.white, self.voxels).astype(np.float32), self.affine

    def upside(self) -> tuple[Floats, NDArray[np.float64]]:
        """A header that turns the head upside down."""
        return self._turned(np.diag([1.0, -1.0, -1.0, 1.0]))

    def axes(self) -> tuple[Floats, NDArray[np.float64]]:
        """A header that takes front for top."""
        return self._turned(np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]))

    def enhanced(self) -> tuple[Floats, NDArray[np.float64]]:
        """Vessels and membranes 1.5 to 3 times as bright as white matter, as after contrast agent."""
        rest = ndimage.gaussian_filter(self.rng.standard_normal(self.voxels.shape), 1.2 / self.sides)
        fluid = self.inside & (self.voxels < 0.8 * self.grey)
        vessels = fluid & (rest > np.quantile(rest[fluid], 0.85))
        bright = self.rng.uniform(1.5, 3) * self.white
        return np.where(vessels, bright, self.voxels).astype(np.float32), self.affine

    def _kept(self, voxels: Floats) -> tuple[Floats, NDArray[np.float64]]:
        return np.where(self.inside, np.maximum(voxels, 1e-3 * self.white), 0).astype(np.float32), self.affine

    def _turned(self, turn: NDArray[np.float64]) -> tuple[Floats, NDArray[np.float64]]:
        centre = np.eye(4)
        centre[:3, 3] = self.affine[:3] @ np.array([*(np.array(self.voxels.shape) - 1) / 2, 1.0])
        return self.voxels, centre @ turn @ np.linalg.inv(centre) @ self.affine


CHOSEN_BY = ("clean", "noise", "blur", "inverted", "bias", "eroded", "lesion", "upside")
"""Ways in which validation scans are spoilt."""

UNSEEN = ("thick", "motion", "flair", "scalp", "cropped", "axes", "enhanced")
"""Those that only test scans meet."""


def collect(asked: argparse.Namespace) -> None:
    """Segment what is not in the file yet, and add a line for each."""
    models = {name: open_model(Path(folder)) for name, folder in (word.split("=", 1) for word in asked.model)}
    predicts = {name: predictor(model, torch.device("cpu")) for name, model in models.items()}
    done = set()
    if asked.out.exists():
        done = {tuple(json.loads(line)["key"]) for line in asked.out.read_text().splitlines()}
    own = next(iter(models))
    for site, folder in (word.split("=", 1) for word in asked.site):
        splits = splits_of(site, Path(folder), models[own].experiment, asked.splits)
        scans = [scan for scan in find_scans([Path(folder)]) if splits[scan.case] == asked.split]
        for number, scan in enumerate(scans):
            if scan.labels is None:
                continue
            image = read_image(scan.image)
            truth = array_of(read_labels(scan.labels, image, PAPER))
            ways = asked.ways or (CHOSEN_BY if asked.split != "test" else CHOSEN_BY + UNSEEN)
            for place, way in enumerate(ways):
                if asked.split == "test" and way != "clean" and (number + place) % 2:
                    continue
                named = [site if site in models else own] if way != "clean" else list(models)
                key = [(site, scan.case, way, name) for name in named]
                if done.issuperset(key):
                    continue
                spoiler = Spoiler(array_of(image).astype(np.float32), affine_of(image), truth, 1000 + number)
                voxels, affine = getattr(spoiler, way)()
                for one, name in zip(key, named, strict=True):
                    row = measured(to_sitk(voxels, affine), affine, truth, scan, models[name], predicts[name])
                    with asked.out.open("a") as file:
                        file.write(json.dumps({"key": one, **row}) + "\n")
                    print(one, round(row.get("dice", -1), 3), flush=True)


def measured(
    image: sitk.Image, affine: NDArray[np.float64], truth: NDArray[np.uint8], scan: Scan, model: Model, predict: Predict
) -> dict[str, Any]:
    """Measure one result, and its true Dice."""
    table = model.experiment.table
    try:
        tensors, _ = bring(image, scan, model.frame, Preparation())
    except DataError as error:
        return {"refused": str(error).split(":")[0], "dice": 0.0}
    volume = tensors["image"]
    found = predict(volume[None])
    labels = found.probabilities.argmax(dim=0) * (volume > 0)
    place = np.linalg.inv(tensors["atlas_to_scan"].numpy()) @ affine
    reference = sample_labels(truth, place, model.frame.grid)
    quality = assess(volume, torch.from_numpy(model.frame.image), model.usually)
    seen = evidence(volume, found.probabilities, found.agreement, table)
    voxels = torch.bincount(labels.flatten(), minlength=table.classes)[1:]
    return {
        "dice": mean_dice(labels, reference, table),
        **asdict(seen),
        "overlap": quality.overlap,
        "similarity": quality.similarity,
        "distance": quality.distance,
        "fractions": (voxels / (volume > 0).sum()).tolist(),
        "scale": float(abs(np.linalg.det(tensors["atlas_to_scan"].numpy()[:3, :3]))),
        "brain": int((volume > 0).sum()),
    }


def fit(asked: argparse.Namespace) -> None:
    """Fit the predicted Dice by the first file, and say what is told of all."""
    expected = {
        name: open_model(Path(folder)).expected for name, folder in (word.split("=", 1) for word in asked.model)
    }
    files = {path.stem: rows_of(path, expected) for path in asked.files}
    chosen = next(iter(files.values()))
    known = [row for row in chosen if not math.isnan(row["agreement"])]
    design = np.array([[1.0, row["agreement"], row["unlike"]] for row in known])
    solved = np.linalg.lstsq(design, np.array([row["dice"] for row in known]), rcond=None)[0]
    print("intercept, agreement, sizes:", ", ".join(f"{value:.2f}" for value in solved))
    for name, rows in files.items():
        print(f"\n{name}: {len(rows)} results")
        for title, some in (
            ("all", rows),
            ("ways that chose", [row for row in rows if row["key"][2] in CHOSEN_BY]),
            ("ways unseen", [row for row in rows if row["key"][2] in UNSEEN]),
        ):
            print(f"  {title}: {told(some)}")
        for row in rows:
            missed, doubted = (
                row["dice"] < 0.7 and row["light"] == "green",
                row["dice"] > 0.8 and row["light"] != "green",
            )
            if missed or doubted or asked.verbose:
                what = "MISSED" if missed else "DOUBTED" if doubted else ""
                print("   ", *row["key"], f"{row['dice']:.3f} told {row['told']:.3f} {row['light']}", what, row["why"])


def rows_of(path: Path, expected: dict[str, Expected]) -> list[dict[str, Any]]:
    """Read results, each with what is said of it today."""
    rows = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "refused" in row:
            rows.append(row | {"light": "red", "told": 0.0, "why": row["refused"], "agreement": math.nan})
            continue
        usual, quality = expected[row["key"][3]], Quality(row["overlap"], row["similarity"], row["distance"])
        seen = Evidence(**{field.name: row[field.name] for field in fields(Evidence)})
        sizes = [
            Structure(s.id, s.name, 1, 1000 * share, share, uneven(row["fractions"], s), 1.0, (0.0, 0.0))
            for s, share in zip(PAPER.structures, row["fractions"], strict=True)
        ]
        said = judge(seen, quality, usual, sizes)
        unlike = unlikeness(usual, [(s.name, s.fraction) for s in sizes])
        why = "; ".join(concern[:60] for concern in said.concerns)
        rows.append(row | {"light": said.light, "told": said.dice, "why": why, "unlike": unlike})
    return rows


def uneven(fractions: list[float], structure: LabelStructure) -> float:
    """Give a structure's size less the other side's, over their mean."""
    ours, theirs = (fractions[index - 1] for index in (structure.index, PAPER.mirrored[structure.index]))
    return 2 * (ours - theirs) / (ours + theirs) if ours + theirs and structure.mirror != structure.id else math.nan


def told(rows: list[dict[str, Any]]) -> str:
    """Say how many bad results were caught, and how many good ones doubted."""
    bad, good = [row for row in rows if row["dice"] < 0.7], [row for row in rows if row["dice"] > 0.8]
    caught, doubted = (sum(row["light"] != "green" for row in some) for some in (bad, good))
    red = sum(row["light"] == "red" for row in bad), sum(row["light"] == "red" for row in good)
    apart = [abs(row["told"] - row["dice"]) for row in rows if not math.isnan(row["told"])]
    return (
        f"caught {caught} of {len(bad)} under 0.7 ({red[0]} red); doubted {doubted} of {len(good)} over 0.8 "
        f"({red[1]} red); predicted Dice off by {np.mean(apart) if apart else math.nan:.3f} in the mean"
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True)
    step = steps.add_parser("collect")
    step.add_argument("--model", action="append", required=True, metavar="NAME=DIR")
    step.add_argument("--site", action="append", required=True, metavar="NAME=DIR")
    step.add_argument("--splits", type=Path, required=True)
    step.add_argument("--split", default="val")
    step.add_argument("--ways", nargs="+", metavar="WAY", help="these alone")
    step.add_argument("--out", type=Path, required=True)
    step.set_defaults(run=collect)
    step = steps.add_parser("fit")
    step.add_argument("files", type=Path, nargs="+", metavar="FILE")
    step.add_argument("--model", action="append", required=True, metavar="NAME=DIR")
    step.add_argument("--verbose", action="store_true")
    step.set_defaults(run=fit)
    asked = parser.parse_args()
    asked.run(asked)


if __name__ == "__main__":
    main()
