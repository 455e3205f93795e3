"""What a hospital that comes later gets: the common segmenter of two sites, tested at a third that shared nothing.

    python benchmarks/unseen.py --site oasis=DIR --site ixi=DIR --unseen ibsr=DIR --splits FILE --out RUN [--control]

The atlas is that of the first --site. Both sites share statistics, the third has the level "nothing"; the hub trains
the common segmenter alone, and with a preset in which `phases.adapt` has rounds it is trained further at the third
site. Tested are the network alone, and with --control one that learnt from the atlas alone in as many steps. Test scans
are looked at here: no setting may be chosen by what this prints; --split val is for that.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from configs.levels import NOTHING, STATISTICS
from configs.schema import load
from server import segmenters
from server.state import COMMON, SEGMENTER
from simulation.arms.arm import FEDERATED
from simulation.arms.baselines import CONTROL
from simulation.atlases import choose_atlas
from simulation.bench import Bench, dice_alone
from simulation.measured import mean_of, std_of
from simulation.progress import RichProgress
from simulation.schemes import Roles, Scheme
from simulation.stage import Stage, federate, prepare
from sst_models.propagation.predict import Prediction
from sst_models.training.device import choose
from sst_models.training.memory import keep_freed_on


def main() -> None:
    """Parse the command line, run what is not finished, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--unseen", required=True, metavar="NAME=DIR")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="real-cpu-statistics")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--control", action="store_true")
    asked = parser.parse_args()
    experiment = replace(load(asked.preset), seed=asked.seed)
    keep_freed_on(experiment.grid.shape)
    third = asked.unseen.partition("=")[0]
    data = {word.partition("=")[0]: Path(word.partition("=")[2]) for word in (*asked.site, asked.unseen)}
    source = next(iter(data))
    found = {name: choose_atlas(name, data[name], experiment, (None, asked.splits)) for name in data}
    device, shared = choose("auto"), dict.fromkeys(data, STATISTICS) | {third: NOTHING}
    roles = Roles(source, tuple(list(data)[1:]))
    stage = Stage(asked.out, roles, experiment, found[source].atlas, data, "inprocess", device, levels=shared)
    stage.split({name: own.splits for name, own in found.items()})
    threads = torch.get_num_threads()
    for name in data:
        prepare(stage, name)  # on one thread
    torch.set_num_threads(threads)
    scheme = Scheme(FEDERATED, experiment, tuple(data), (third,))
    with RichProgress() as progress:
        bench = Bench(stage, {FEDERATED: (scheme, federate(stage, scheme, progress))})
        if asked.control:
            bench.train(CONTROL, watch=lambda step, loss: progress.advance(step, loss=loss))
    arrays = stage.own(scheme, SEGMENTER, third) or bench.state(FEDERATED).of(SEGMENTER, COMMON)
    assert arrays is not None
    rows = {"common segmenter": (segmenters.segmenter_of(arrays, experiment, device), Prediction.of(experiment))}
    if asked.control:
        rows["control"] = (bench.segmenter(CONTROL, third), bench.prediction(CONTROL))
    for name, (net, how) in rows.items():
        scores = dice_alone(net, how, stage.cases(third, asked.split), device)
        told = ", ".join(f"{score:.1f}" for score in scores)
        print(f"{name}, {source} -> {third}: {mean_of(scores):.1f} ± {std_of(scores):.1f} ({told})")


if __name__ == "__main__":
    main()
