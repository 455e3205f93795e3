#!/usr/bin/env python3
"""What an export leaves out costs: its labels and those of `sst segment`, on the grid, against a reference.

    python benchmarks/exported.py MODEL PREPARED.safetensors [PREPARED.safetensors ...]

The files are of `sst prepare --atlas MODEL`, with labels. Prints the Dice of groups (mean and standard deviation over
scans, in percent) of the export with `sst segment`, and of each with the reference.
"""

import argparse
import statistics
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import sst
from client.export.traced import network
from client.segment import predictor
from sst_models.volume.metrics import dice_per_group


@torch.no_grad()
def main() -> None:
    """Segment each scan both ways."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("scans", type=Path, nargs="+")
    given = parser.parse_args()
    model = sst.open_model(given.model)
    predict, exported = predictor(model, torch.device("cpu")), network(model)

    def dice(found: Tensor, other: Tensor) -> float:
        values = dice_per_group(found, other, model.experiment.table).values()
        return 100 * statistics.mean(value for value in values if value == value)

    rows = []
    for path in given.scans:
        kept = load_file(path)
        ours, alone = (
            predict(kept["image"][None]).probabilities.argmax(0),
            exported(kept["image"][None, None])[0].argmax(0),
        )
        truth = kept["labels"].long()
        rows.append((dice(alone, ours), dice(alone, truth), dice(ours, truth)))
    for what, column in zip(("export with segment", "export", "segment"), zip(*rows, strict=True), strict=True):
        print(f"{what:20} {statistics.mean(column):5.1f} ± {statistics.pstdev(column):.1f}")


if __name__ == "__main__":
    main()
