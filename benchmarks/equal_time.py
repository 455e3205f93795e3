"""Train E, A and F for the same wall time twice, as we do it and in the released sizes, and compare what F reaches.

    python benchmarks/equal_time.py RUN SITE [--seconds 120] [--preset real-cpu]

RUN is the folder of a run of `sst simulate`: its prepared scans of SITE are trained on, with the atlas of that site,
and the Dice is that of the labels that F propagates onto its validation scans, without demons iterations at full
resolution, LNCC ascent and EM. Test scans are not touched. T has its first weights in both, and is not part of the
comparison.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import straightforward
import torch
from torch import Tensor

from client import scans
from client.cases import Cases
from configs.phases import phase_of
from configs.schema import Experiment, load
from server.atlas import read_atlas
from simulation.measured import mean_of
from sst_models.networks.build import build
from sst_models.phases.material import Material, make_learner
from sst_models.training.device import half, place
from sst_models.training.seeds import below, generator
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.metrics import dice_per_group

FlowTo = Callable[[Tensor], Tensor]
"""From a scan (1, 1, D, H, W) to the flow scan -> atlas, which propagates the atlas's labels onto it."""


def ours(preset: Experiment, cases: Cases, atlas: Tensor, seconds: float) -> tuple[int, FlowTo]:
    """Train by the joint phase of the preset, at its batch; give the steps done, and what F finds."""
    phase, cpu = phase_of("joint"), torch.device("cpu")
    nets = {part: place(build(part, preset), cpu) for part in phase.learns + phase.uses}
    learner = make_learner(phase.name, nets, preset, Material(cases, atlas))
    steps = repeat(lambda number: learner.step(generator(1, "equal time", number)), seconds)

    def flow_to(scan: Tensor) -> Tensor:
        with half(cpu, preset.bf16_cpu):
            styled = nets["A"](atlas[None], nets["E"](scan)).float()
        flow: Tensor = nets["F"](styled, scan)
        return flow

    return steps, flow_to


def theirs(cases: Cases, atlas: Tensor, seconds: float) -> tuple[int, FlowTo]:
    """Train in the released sizes; the atlas is the source of half of the steps."""
    learner = straightforward.JointStep()

    def step(number: int) -> None:
        draws = generator(1, "equal time", number)
        source, target, other = (cases.image(below(len(cases), draws))[None] for _ in range(3))
        learner(atlas[None] if number % 2 else source, target, other)

    steps = repeat(step, seconds)

    def flow_to(scan: Tensor) -> Tensor:
        flow: Tensor = learner.flow(learner.appearance(atlas[None], learner.encoder(scan)), scan)
        return flow

    return steps, flow_to


def repeat(step: Callable[[int], object], seconds: float) -> int:
    """Do steps until the time is over; give their number."""
    began, number = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step(number)
        number += 1
    return number


@torch.no_grad()
def mean_dice(flow_to: FlowTo, cases: Cases, labels: AtlasLabels) -> float:
    """Mean Dice over the 16 groups and the cases, percent."""
    means = []
    for index in range(len(cases)):
        truth = cases.labels(index)
        assert truth is not None
        found = labels.propagate(flow_to(cases.image(index)[None]))
        means.append(100 * mean_of(dice_per_group(found, truth).values()))
    return mean_of(means)


def main() -> None:
    """Parse the command line, train twice, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("site")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--preset", default="real-cpu")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(1)
    folder = next((asked.run / "federations").glob(f"{asked.site}-to-*"))
    atlas = read_atlas(folder / "federated")
    prepared = asked.run / "sites" / asked.site / "runs" / f"{folder.name}-prepared"
    train, val = scans.cases(prepared, "train"), scans.cases(prepared, "val")
    still: FlowTo = lambda scan: torch.zeros(1, 3, *scan.shape[2:])  # noqa: E731
    print(f"affine alone: {mean_dice(still, val, atlas.labels):.1f}", flush=True)
    for name, (steps, flow_to) in {
        "ours": ours(load(asked.preset), train, atlas.image, asked.seconds),
        "released sizes": theirs(train, atlas.image, asked.seconds),
    }.items():
        reached = mean_dice(flow_to, val, atlas.labels)
        print(f"{name}: {steps} steps in {asked.seconds:.0f} s, {reached:.1f}", flush=True)


if __name__ == "__main__":
    main()
