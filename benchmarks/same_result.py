"""Compare what two versions of the project compute, to the byte: a federation, one that was stopped, and segmentation.

    python benchmarks/same_result.py OLD NEW --work DIR [--python PYTHON] [--arms all] [--words 0.1 0.2]

OLD and NEW are source trees. Both run `sst demo --preset tiny` (two sites of simulated people, a federation in either
direction), NEW a second time that is killed on the way and started again; then `sst simulate` on the same scans with
every part of the method switched on (`SWITCHED_ON`, in OLD's words and in NEW's), and `sst segment` with a delivered
model of each. Compared are digests of the weights in every delivered model, of the scores and loss values, and of the
voxels of the label maps: not of file names, keys and times, which a new version may change.
"""

import argparse
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from safetensors.numpy import load_file

SWITCHED_ON = {
    "0.1": (
        *("registration.polish=2", "registration.ascent=1", "registration.rival=2.0", "registration.lncc=1.0"),
        *("appearance.tissue=3.0", "segmenter.shifts=true", "segmenter.together=true", "segmenter.moved=0.5"),
        *("segmenter.augment=space", "generation.palette=3", "generation.styles=moments", "grid.finer=3"),
    ),
    "0.2": (
        *("propagation.demons_iterations_full_resolution=2", "propagation.lncc_ascent_iterations=1"),
        *("propagation.second_initialisation=2.0", "registration.lncc_weight=1.0", "propagation.tissue_matching=15.0"),
        *("segmenter.test_time_augmentation=mirror+shifts", "segmenter.fuse_registration=true"),
        *("segmenter.affine_probability=0.5", "generation.cached_styles=3", "generation.styles=moments"),
        "grid.label_oversampling=3",
    ),
}
"""The same settings in the words of two versions; tissue matching over 3 voxels of 5 mm."""


def sst(python: str, tree: Path, *words: str, stop_at: str = "") -> None:
    """Run `sst` of a source tree; with `stop_at`, kill it when its hub's events hold that text."""
    variables = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [python, str(tree / "sst.py"), *words],
        cwd=tree,
        env=variables,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    out = Path(words[words.index("--out") + 1])
    while stop_at and run.poll() is None:
        events = "".join(path.read_text() for path in out.glob("federations/*/*/events.jsonl"))
        if stop_at in events:
            os.killpg(run.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    if run.wait() and not stop_at:
        sys.exit(f"sst {' '.join(words)} of {tree} ended with code {run.returncode}")


def digests(run: Path) -> dict[str, str]:
    """Digest what a run of two directions computed."""
    found = {}
    for model in sorted(run.glob("sites/*/runs/*/model")):
        for file in sorted(model.glob("*.safetensors")):
            where = f"{model.parent.name}, model of {model.parents[2].name}, {file.stem}"
            found[where] = _digest(*(array for _, array in sorted(load_file(file).items())))
    for table, key, columns in (
        ("dice.csv", "dice", ("arm", "source", "target", "scan", "group")),
        ("losses.csv", "loss values", ("scheme", "phase", "site", "step")),
    ):
        rows = list(csv.DictReader((run / table).open()))
        values = sorted("|".join(row[name] for name in (*columns, list(row)[-1])) for row in rows)
        found[key] = hashlib.sha256("\n".join(values).encode()).hexdigest()
    return found


def label_maps(folder: Path) -> dict[str, str]:
    """Digest the voxels of label maps."""
    maps = sorted(folder.rglob("*dseg.nii.gz"))
    return {path.name: _digest(_voxels(path).astype(np.int64)) for path in maps}


def _voxels(path: Path) -> np.ndarray:
    file: Any = nib.load(path)
    return np.asarray(file.dataobj)


def _digest(*arrays: np.ndarray) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def compare(what: str, one: dict[str, str], other: dict[str, str]) -> int:
    """Print what two sets of digests have in common; give the number of differences."""
    different = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
    print(f"{what}: {len(one)} digests, {len(different)} differ", flush=True)
    for key in different:
        print(f"  {key}: {one.get(key, 'missing')[:12]} {other.get(key, 'missing')[:12]}")
    return len(different)


def main() -> int:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--words", nargs=2, default=("0.1", "0.2"), choices=tuple(SWITCHED_ON), metavar="VERSION")
    parser.add_argument("--arms", default="all")
    given = parser.parse_args()
    work, differences = given.work.resolve(), 0
    old, new = (tree.resolve() for tree in given.trees)
    for name, tree in (("old", old), ("new", new)):
        if not (work / name / "results.json").exists():
            sst(given.python, tree, "demo", "--preset", "tiny", "--out", str(work / name))
    before = digests(work / "old")
    differences += compare("demo --preset tiny", before, digests(work / "new"))
    stopped = ("demo", "--preset", "tiny", "--out", str(work / "stopped"))
    for moment in ('"phase": "joint", "round": 2', '"phase": "adapt", "round": 2'):
        sst(given.python, new, *stopped, stop_at=moment)
    sst(given.python, new, *stopped)
    differences += compare("the same, killed twice and continued", before, digests(work / "stopped"))
    sites = [word for name in ("candi", "oasis") for word in ("--site", f"{name}={work}/old/sites/{name}/scans")]
    options = ("--splits", f"{work}/old/sites/splits.tsv", "--no-bias", "--arms", given.arms)
    for name, tree, version in zip(("old-on", "new-on"), (old, new), given.words, strict=True):
        changes = [word for change in SWITCHED_ON[version] for word in ("--set", change)]
        if not (work / name / "results.json").exists():
            sst(
                given.python,
                tree,
                "simulate",
                "--preset",
                "tiny",
                *sites,
                *options,
                *changes,
                "--out",
                str(work / name),
            )
    one, other = digests(work / "old-on"), digests(work / "new-on")
    differences += compare("simulate, all arms, everything switched on", one, other)
    scan = next((work / "old" / "sites" / "oasis" / "scans").rglob("*_T1w.nii.gz"))
    maps = []
    for name, tree in (("old", old), ("new", new)):
        model = next((work / f"{name}-on" / "sites" / "oasis" / "runs").glob("candi-federated/model"))
        out = work / f"{name}-segmented"
        sst(given.python, tree, "segment", str(scan), "--model", str(model), "--out", str(out), "--no-bias")
        maps.append(label_maps(out))
    differences += compare("segment", *maps)
    print(json.dumps({"differences": differences}))
    return differences


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
