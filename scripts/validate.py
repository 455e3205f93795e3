#!/usr/bin/env python3
"""Hold what the commands write against the validators of those who read it: MONAI, ONNX, nnU-Net, BIDS.

    make validate                        # sets up what they need in build/validate; needs the network

    python scripts/validate.py --out DIR [--model MODEL --scans SCANS] [--schema FILE]

A model of simulated people is made by examples/segment_simulated_people.py, in a minute, unless one is given. MONAI's
schema of metadata is taken from where a bundle says that it is, or from FILE. Ends in a line for each check; exit code
1 if one failed or could not be made.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

import sst

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Work:
    """What the checks work on."""

    model: Path
    scans: Path  # simulated people
    out: Path
    schema: Path | None  # of MONAI's metadata


def monai(work: Work) -> str:
    """Export a bundle, verify it as MONAI does, and run it on scans that `sst prepare` prepared."""
    bundle = sst.export(work.model, work.out / "bundle", to="monai-bundle").folder
    meta, run = bundle / "configs" / "metadata.json", bundle / "configs" / "inference.json"
    schema = work.schema or work.out / "schema.json"
    _monai("verify_metadata", "--meta_file", meta, "--filepath", schema)
    rooted = ("--bundle_root", bundle)
    _monai("verify_net_in_out", "--net_id", "network_def", "--meta_file", meta, "--config_file", run, *rooted)
    prepared = sst.prepare(work.scans, work.model, work.out / "prepared")
    both = str([str(run), str(bundle / "configs" / "prepared.json")])
    found = work.out / "eval"
    _monai("run", "--config_file", both, *rooted, "--dataset_dir", prepared.folder, "--output_dir", found)
    written = {path.name.removesuffix("_dseg.nii.gz") for path in found.glob("*_dseg.nii.gz")}
    missing = {scan.case for scan in prepared.scans} - written
    if missing or not prepared.scans:
        raise ValueError(f"no label map of {', '.join(sorted(missing)) or 'any scan'}")
    return f"verify_metadata, verify_net_in_out, run on {len(prepared.scans)} scans"


def onnx(work: Work) -> str:
    """Export ONNX; `onnx.checker` and the comparison with the model by onnxruntime are part of that."""
    done = sst.export(work.model, work.out / "onnx", to="onnx")
    import onnx

    made = onnx.load(done.files[0])
    onnx.checker.check_model(made, full_check=True)
    off = done.checked
    return f"opset {made.opset_import[0].version}, off by {off.difference:.0e}, {off.differing} labels differ"


def nnunet(work: Work) -> str:
    """Generate a dataset, verify it as nnU-Net does before it plans, and bring its labels back to ids."""
    raw = work.out / "nnunet"
    pairs = sst.generate(work.model, raw, count=3, layout="nnunet", device="cpu").pairs
    plain = sst.generate(work.model, work.out / "pairs", count=3, device="cpu").pairs
    data = pairs[0].labels.parent.parent
    os.environ |= {name: str(raw) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(data), num_processes=1)
    ids = np.array(list(json.loads((data / "label_ids.json").read_text()).values()))
    for ours, theirs in zip(plain, pairs, strict=True):
        classes = np.asarray(nib.load(theirs.labels).dataobj)
        np.testing.assert_array_equal(ids[classes], np.asarray(nib.load(ours.labels).dataobj))
    return f"verify_dataset_integrity of {len(pairs)} pairs, label_ids.json gives the ids of layout nifti"


def bids(work: Work) -> str:
    """Segment scans and generate pairs, and have the folders validated."""
    found = sst.segment(work.scans, work.model, work.out / "segmented", device="cpu")
    made = sst.generate(work.model, work.out / "generated", count=2, layout="bids", device="cpu")
    folders = [found.folder, made.folder, made.folder / "derivatives" / "sst"]
    for folder in folders:
        words = [str(Path(sys.executable).with_name("bids-validator-deno")), str(folder), "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        issues = json.loads(done.stdout)["issues"]["issues"]
        if errors := [f"{one['code']} {one.get('location', '')}" for one in issues if one["severity"] == "error"]:
            raise ValueError(f"{folder.name}: {len(errors)} errors; the first: {errors[0]}")
    return f"no error in {len(folders)} data sets: {len(found.scans)} results, {len(made.pairs)} pairs, their labels"


CHECKS: dict[str, Callable[[Work], str]] = {"MONAI bundle": monai, "ONNX": onnx, "nnU-Net": nnunet, "BIDS": bids}


def main() -> int:
    """Make all checks, and say how each went."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to work in")
    parser.add_argument("--model", type=Path, help="a model, or the folder of a run or site that holds one")
    parser.add_argument("--scans", type=Path, help="scans that the model is for; with --model")
    parser.add_argument("--schema", type=Path, help="MONAI's schema of metadata, where the network does not reach it")
    given = parser.parse_args()
    out, model, scans = given.out.resolve(), given.model, given.scans
    if (model is None) != (scans is None):
        parser.error("--model and --scans go together")
    if model is None:
        example = out / "example"
        words = [sys.executable, str(ROOT / "examples" / "segment_simulated_people.py"), "--out", str(example)]
        subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        model, scans = example / "children" / "runs" / "example" / "model", example / "people" / "new"
    work, lines, failed = Work(model, scans, out, given.schema and given.schema.resolve()), [], False
    for name, check in CHECKS.items():
        try:
            lines.append(f"{name}: ok: {check(work)}")
        except Exception as error:  # whatever a validator raises is its verdict
            failed = True
            lines.append(f"{name}: failed: {type(error).__name__}: {error}")
    print("\n".join(lines))
    return int(failed)


def _monai(*words: object) -> None:
    """Call MONAI's own command, in another folder than ours."""
    line = [sys.executable, "-P", "-W", "ignore", "-m", "monai.bundle", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT.parent)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ValueError(f"{words[0]}: {said[-1] if said else done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
