"""Print the Dice of labels that F propagates from 1, 2, 3, ... atlases of one site, without training anything.

    python benchmarks/few_shot.py RUN [--most 5] [--at SITE ...]

RUN is the folder of a finished `sst simulate` whose first atlas is of that site; its prepared test scans are what
atlases are aligned to. The second atlas and all that follow are whichever labelled training scan is closest to the
mean of those that are left. Each is aligned once to a scan and to its mirror image by the networks as they begin;
labels are refined as the run's preset says. `sst simulate --atlas SITE --atlas SITE ...` trains U-Nets of several
atlases, too.
"""

import argparse
import json
from pathlib import Path

import torch

from client import scans
from configs.schema import from_dict
from server.atlas import load_atlases, read_atlas
from simulation.atlases import bring, choose
from simulation.bench import labelled
from simulation.measured import mean_of, std_of
from sst_models.phases.statistics import untrained_aligner
from sst_models.propagation.em import expectation_maximisation
from sst_models.volume.metrics import dice_per_group


def main() -> None:
    """Parse the command line, align each test scan to all atlases, print the means of the first 1, 2, ... of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--most", type=int, default=5)
    parser.add_argument("--at", nargs="*", default=[])
    asked = parser.parse_args()
    kept = json.loads((asked.run / "run.json").read_text(encoding="utf-8"))
    experiment, sites = from_dict(kept["experiment"], str(asked.run)), dict(kept["sites"])
    hub = next((asked.run / "federations").glob("*/federated"))
    source, grid, of_run = hub.parent.name, experiment.grid, read_atlas(hub)
    named = [of_run.source.removesuffix("_T1w.nii.gz"), *[""] * (asked.most - 1)]
    splits, labels = Path(kept["splits"]) if kept["splits"] else None, experiment.table
    chosen = choose(source, Path(sites[source]), experiment, splits, named)
    assert chosen is not None
    print(f"atlases of {source}: {chosen.cases}", flush=True)
    atlas = load_atlases(chosen.files, grid.shape, grid.spacing, grid.label_oversampling, bring, table=labels)
    aligners = [untrained_aligner(experiment, [each], torch.device("cpu")) for each in atlas.each]
    held = {case for case, split in chosen.splits.items() if split == "atlas"}
    for target in asked.at or sites:
        cases = scans.cases(asked.run / "sites" / target / "runs" / f"{source}-prepared", "test")
        rows: list[list[float]] = [[] for _ in aligners]
        for case, image, truth in labelled(cases):
            assert case not in held
            said = torch.zeros(())
            for number, aligner in enumerate(aligners):
                said = said + aligner.probabilities(*aligner.flows(image[None]))
                weight = experiment.propagation.em_weight
                prior = said / (number + 1)
                found = expectation_maximisation(image[None], prior, weight, grid.spacing, table=labels).argmax(0)
                rows[number].append(100 * mean_of(dice_per_group(found, truth, labels).values()))
            print(f"{target} {case}: {', '.join(f'{row[-1]:.1f}' for row in rows)}", flush=True)
        print(
            f"| {source} -> {target} | {' | '.join(f'{mean_of(row):.1f} ± {std_of(row):.1f}' for row in rows)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
