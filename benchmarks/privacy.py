"""What noise costs: Dice of a network that a hub taught by a site's noisy statistics, by epsilon and number of people.

    python benchmarks/privacy.py --site oasis=DIR --site ixi=DIR --splits FILE --out RUNS \
        [--epsilons inf 8 4 2 1] [--people 12 25 100] [--seeds 1 2 3] [--split test]

The atlas is that of the first --site; the network is that of the second one, which trains nothing. Each of its people
who train is measured once. Of so many people some are drawn; where there are fewer, people are drawn again, so that
noise is that of as many, and differences between people are those of fewer. Each cell is a network of its own, trained
in `phases.segment`; one that is there is only read. Noise is drawn again by epsilon, people and seed. Test scans are
looked at by --split test: no setting may be chosen by what it prints; --split val is for that.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from client.gate.budget import multiplier_of
from client.gate.noise import NoisyMean, noisy_mean, repeatable
from client.gate.policy import Policy
from configs.schema import Experiment, load
from server import generators, segmenters
from server.segmenters import Training
from simulation.atlases import choose_atlas
from simulation.bench import dice_alone
from simulation.measured import mean_of, std_of
from simulation.schemes import Roles
from simulation.stage import Stage, prepare
from sst_models.phases.statistics import untrained_aligner
from sst_models.propagation.predict import Prediction
from sst_models.statistics.measure import measure
from sst_models.training.device import choose
from sst_models.training.memory import keep_freed_on
from sst_models.wire import weights

DELTA = Policy().delta


def rows_of(stage: Stage, site: str, path: Path) -> np.ndarray:
    """Measure each of a site's people who train, one scan each, (people, NUMBERS), or read what was measured."""
    if not path.exists():
        aligner = untrained_aligner(stage.experiment, stage.atlas.each, stage.device)
        with torch.no_grad():
            rows = measure(stage.cases(site, "train"), aligner)
        weights.save({"rows": rows.cpu()}, path)
    return weights.load(path)["rows"].numpy()


def released(rows: np.ndarray, people: int, epsilon: float, seed: int) -> NoisyMean:
    """Give what a site of so many people would release."""
    draws = np.random.default_rng(seed)
    order = draws.permutation(len(rows))
    again = draws.integers(0, len(rows), max(0, people - len(rows)))
    some = rows[np.concatenate([order[:people], again])]
    return noisy_mean(some, multiplier_of(epsilon, DELTA), repeatable(f"{people} {epsilon} {seed}"))


def dice(stage: Stage, experiment: Experiment, site: str, found: NoisyMean, path: Path, split: str) -> list[float]:
    """Train a network by what was released, or read it, and test it; mean Dice of each scan in percent."""
    if not path.exists():
        statistics = {site: {"mean": found.mean, "noise": np.array([found.noise])}}
        generator = generators.make_statistics_generator(
            experiment, stage.atlas, statistics, site, {site: 1}, stage.device
        )
        pairs, memory = generators.generated(generator, experiment, site), None
        for number in range(1, experiment.phases.segment.rounds + 1):
            trained = segmenters.train_round(experiment, pairs, site, number, memory, Training(stage.device))
            memory = trained.memory
        weights.save({name: torch.from_numpy(np.array(array)) for name, array in trained.weights.items()}, path)
    arrays = {name: tensor.numpy() for name, tensor in weights.load(path).items()}
    net = segmenters.segmenter_of(arrays, experiment, stage.device)
    return dice_alone(net, Prediction.of(experiment), stage.cases(site, split), stage.device)


def main() -> None:
    """Parse the command line, train what is not there, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="real-cpu-statistics")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[math.inf, 8.0, 4.0, 2.0, 1.0])
    parser.add_argument("--people", type=int, nargs="+", default=[12, 25, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--split", default="test", choices=("val", "test"))
    asked = parser.parse_args()
    experiment = load(asked.preset)
    keep_freed_on(experiment.grid.shape)
    data = {word.partition("=")[0]: Path(word.partition("=")[2]) for word in asked.site}
    source, site = list(data)[:2]
    chosen = {name: choose_atlas(name, data[name], experiment, (None, asked.splits)) for name in data}
    where = f"{source}-to-{site}"
    stage = Stage(
        asked.out, Roles(source, (site,)), experiment, chosen[source].atlas, data, "inprocess", choose("auto")
    )
    stage.split({name: own.splits for name, own in chosen.items()})
    prepare(stage, site)
    rows = rows_of(stage, site, asked.out / f"rows-{where}.safetensors")
    table = Table("people", *(f"epsilon {one:g}" for one in asked.epsilons), title=f"{source} -> {site}, Dice %")
    for people in asked.people:
        cells = []
        for epsilon in asked.epsilons:
            means = []
            for seed in asked.seeds:
                found = released(rows, people, epsilon, seed)
                path = asked.out / f"{where}-{people}-{epsilon:g}-{seed}.safetensors"
                scores = dice(stage, replace(experiment, seed=seed), site, found, path, asked.split)
                means.append(mean_of(scores))
                print(f"{people} people, epsilon {epsilon:g}, seed {seed}: noise {found.noise:.3f}, {means[-1]:.2f}")
            spread = f" ± {std_of(means):.1f}" if len(means) > 1 else ""
            cells.append(f"{mean_of(means):.1f}{spread}")
        table.add_row(str(people), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
