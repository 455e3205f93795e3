"""Measure on a GPU, at the paper's grid: speed against the card's own ceilings, and accuracy on two real sites.

    python benchmarks/gpu.py speed [--preset real-gpu]
    python benchmarks/gpu.py registration --pack FOLDER --out RUN       (F's settings, on validation scans)
    python benchmarks/gpu.py accuracy --pack FOLDER --out RUN
    python benchmarks/gpu.py score --out RUN                            (Dice, HD95 and folds of what `accuracy` kept)

FOLDER is what `pack.py` wrote. `accuracy` runs the product's own federation, pooled, alone, control and upper bound in
both directions, a process each, and keeps the label maps that every arm gives of the test scans. A step's floor is the
sum over its operations of the longer of two times: floating-point operations over what a matrix product reaches on this
card, bytes read and written over what a copy reaches. The share of the roofline is that floor over the step's time.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from pack import Pack
from speed import Brains, labels, volume
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import client.scans
import server.run
from client.cases import OnDevice
from client.prepare import AtlasFrame, Prepared, store_of
from configs.phases import phase_of, training
from configs.schema import Experiment, load
from server.atlas import read_atlas, save_atlas
from simulation import schemes, simulate
from simulation.arms import ARMS, Arm
from simulation.arms.segmenters import network_refined
from simulation.bench import Bench, labelled
from simulation.control import control_pairs
from simulation.progress import Silent
from simulation.stage import Stage, federate, prepare
from sst_models.losses.flow import folded_fraction
from sst_models.networks.build import build
from sst_models.phases.generate import Generator, PriorStyles, Recipe
from sst_models.phases.material import Material, make_learner
from sst_models.phases.segment import Pairs
from sst_models.propagation.align import Aligner, Alignment
from sst_models.propagation.em import refine_labels
from sst_models.propagation.predict import Prediction, network_probabilities, refined, segment
from sst_models.training.device import choose, place
from sst_models.training.seeds import generator
from sst_models.volume.intensity import match_quantiles
from sst_models.volume.metrics import dice_per_group, mean_dice, mean_hd95

BEGAN = time.perf_counter()

Row = dict[str, Any]


def say(*words: object) -> None:
    """Print one line with the seconds since the start."""
    print(f"[{time.perf_counter() - BEGAN:6.1f}]", *words, flush=True)


# --- speed ---


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def middle(call: Callable[[], object], device: torch.device, repeats: int = 8, warm: int = 3) -> float:
    """Give the median seconds of a call."""
    taken = []
    for _ in range(warm + repeats):
        synchronise(device)
        began = time.perf_counter()
        call()
        synchronise(device)
        taken.append(time.perf_counter() - began)
    return median(taken[warm:])


@dataclass(frozen=True)
class Ceilings:
    """What a card reaches."""

    flops: dict[torch.dtype, float]  # a second, of matrix products
    bytes: float  # a second, read and written by a copy

    @staticmethod
    def of(device: torch.device) -> "Ceilings":
        """Measure them; float32 counts as TF32, which cuDNN's convolutions may use."""
        side, flops = 8192 if device.type == "cuda" else 512, {}
        torch.backends.cuda.matmul.allow_tf32 = True
        for kind in (torch.float32, torch.bfloat16):
            one, other = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
            flops[kind] = 2 * side**3 / middle(lambda one=one, other=other: one @ other, device)  # type: ignore[misc]
        torch.backends.cuda.matmul.allow_tf32 = False
        source = torch.randn(2**28 if device.type == "cuda" else 2**22, device=device)
        target = torch.empty_like(source)
        return Ceilings(flops, 8 * source.numel() / middle(lambda: target.copy_(source), device))


class Asked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums over operations the longer of their arithmetic's and their memory's time."""

    def __init__(self, most: Ceilings) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = most
        self.seconds = self.flops = self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it; a view costs nothing."""
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        count = flop_registry.get(func._overloadpacket)
        flops = float(count(*args, **(kwargs or {}), out_val=out)) if count else 0.0
        made = list(_tensors(out))
        moved = float(sum(one.numel() * one.element_size() for one in [*_tensors([args, kwargs]), *made]))
        kind = made[0].dtype if made and made[0].dtype in self.most.flops else torch.float32
        self.flops, self.bytes = self.flops + flops, self.bytes + moved
        self.seconds += max(flops / self.most.flops[kind], moved / self.most.bytes)
        return out


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, (list, tuple, dict)):
        for one in found.values() if isinstance(found, dict) else found:
            yield from _tensors(one)


def speed(preset: Experiment, device: torch.device) -> Row:
    """Measure a step of each phase, the joint one at batch 4, and 1850 pairs, each with a style of its own."""
    most, phases = Ceilings.of(device), preset.phases
    half, whole = (most.flops[kind] / 1e12 for kind in (torch.bfloat16, torch.float32))
    say(f"bf16 {half:.0f} TFLOP/s, tf32 {whole:.0f} TFLOP/s, memory {most.bytes / 1e12:.2f} TB/s")
    preset = replace(preset, phases=replace(phases, joint=replace(phases.joint, batch=4)))
    rows = {phase.name: step_of(phase.name, preset, device, most) for phase in training()}
    shape = preset.grid.shape
    nets = {part: place(build(part, preset), device) for part in ("A", "decoder")}
    atlas = (volume(shape, 9).to(device), labels(shape, preset.grid.label_oversampling).to(device))
    made = Generator(*atlas, dict(nets), preset.latent, PriorStyles(preset.style.code))
    numbers = iter(range(10**6))
    pair = middle(
        lambda: [made.pair(Recipe(1, n, n, "")) for n, _ in zip(numbers, range(100), strict=False)], device, 3
    )
    net = place(build("segmenter", preset), device).eval()
    how = Prediction.of(preset)
    one = middle(lambda: segment(net, atlas[0], how), device)
    say(f"1850 pairs {18.5 * pair:.1f} s, one segmentation {1000 * one:.0f} ms")
    return {"steps": rows, "pairs_1850_seconds": 18.5 * pair, "segmentation_ms": 1000 * one}


def step_of(name: str, preset: Experiment, device: torch.device, most: Ceilings) -> Row:
    """Measure one phase's step."""
    phase, shape = phase_of(name), preset.grid.shape
    nets = {part: place(build(part, preset), device) for part in phase.learns + phase.uses}
    atlas = (volume(shape, 9).to(device), labels(shape, preset.grid.label_oversampling).to(device))
    own = Material(OnDevice(Brains(shape), device), atlas[0], (), atlas[1])
    learner, numbers = make_learner(name, nets, preset, own), iter(range(10**6))
    seconds = middle(lambda: learner.step(generator(1, name, next(numbers))), device, warm=6)
    with Asked(most) as asked:
        learner.step(generator(1, name, next(numbers)))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    row = {"ms": 1000 * seconds, "floor_ms": 1000 * asked.seconds, "share": asked.seconds / seconds, "peak_gib": peak}
    row |= {"tflop": asked.flops / 1e12, "gb": asked.bytes / 1e9, "batch": preset.phases.of(name).batch}
    say(name, ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    return row


# --- scans ---


def stages_of(pack: Pack, preset: Experiment, out: Path, device: torch.device) -> list[Stage]:
    """Give both directions, the first site of the goals first, and prepare all scans unless they are."""

    def found(folders: list[Path], atlas: AtlasFrame, *_: object) -> Prepared:
        stores = {folder.name: store_of(out / "sites" / folder.name / "prepared", atlas) for folder in folders}
        cases = [case for site, store in stores.items() for case in pack.prepared(site, store).cases]
        return Prepared(tuple(cases), ())

    client.scans.prepare_site = found  # type: ignore[assignment, attr-defined]
    first, second = sorted(pack.listed, reverse=True)
    data, stages = {site: out / "empty" / site for site in pack.listed}, []
    for source, target in ((first, second), (second, first)):
        roles, kept = schemes.Roles(source, (target,)), out / "atlases" / source
        if not (out / "ready").exists():
            save_atlas(pack.atlas(source, preset.grid, device), kept)
        stage = Stage(out, roles, preset, read_atlas(kept), data, "inprocess", device)
        stages.append(stage)
        if not (out / "ready").exists():
            stage.split(pack.splits)
            frame = AtlasFrame.of(stage.atlas.image, [list(row) for row in stage.atlas.affine], stage.atlas.digest)
            threads = torch.get_num_threads()
            for site, folder in data.items():
                folder.mkdir(parents=True, exist_ok=True)
                pack.write(site, roles.name, frame, out / "sites" / site, device)
                prepare(stage, site)
            torch.set_num_threads(threads)
    (out / "ready").touch()
    say("scans prepared")
    return stages


# --- registration ---


class ByQuantiles(Aligner):
    """Aligns with untrained networks: where A would restyle the atlas, its quantiles are matched to the scan's."""

    def by_appearance(self, scan: Tensor) -> Tensor:
        """Give the atlas as bright as a scan, (1, 1, D, H, W)."""
        return match_quantiles(self.atlas[None], scan)


def registration(stages: list[Stage], device: torch.device) -> None:
    """Print the mean Dice of labels that F propagates onto validation scans, by setting; F has its first weights.

    A is replaced as `ByQuantiles` says; tissue intensity matching and F's demons do the rest.
    """
    preset, own = stages[0].experiment, stages[0].experiment.propagation
    sides = {id(stage): (stage.atlas.image.to(device), stage.atlas.labels.to(device)) for stage in stages}
    cells = [
        (stage, site, image[None].to(device), truth.to(device))
        for stage in stages
        for site in stage.data
        for _, image, truth in labelled(stage.cases(site, "val"))
    ]
    changes: Mapping[str, Mapping[str, object]] = {
        "as it is": {},
        "EM weight 0": {"em_weight": 0.0},
        "EM weight 0.2": {"em_weight": 0.2},
        "EM weight 0.7": {"em_weight": 0.7},
        "no demons at full resolution": {"demons_iterations_full_resolution": 0},
        "32 demons iterations at full resolution": {"demons_iterations_full_resolution": 32},
        "no LNCC ascent": {"lncc_ascent_iterations": 0},
        "20 LNCC ascent iterations": {"lncc_ascent_iterations": 20},
    }
    for name, change in changes.items():
        changed = replace(preset, propagation=replace(own, **change))  # type: ignore[arg-type]
        nets, how = {"F": place(build("F", changed), device).eval()}, Alignment.of(changed)
        dice: dict[str, list[float]] = {}
        folded, began = 0.0, time.perf_counter()
        for stage, site, image, truth in cells:
            atlas, atlas_labels = sides[id(stage)]
            flow, mirrored = ByQuantiles(nets, atlas, atlas_labels, how).flows(image)
            propagated = refine_labels(image, atlas_labels, flow, how.settings.em_weight, how.spacing, mirrored)
            dice.setdefault(f"{stage.roles.source} -> {site}", []).append(100 * mean_dice(propagated, truth))
            folded = max(folded, 100 * float(folded_fraction(flow)))
        means = ", ".join(f"{way} {fmean(found):.2f}" for way, found in dice.items())
        say(f"{name}: {means}; {(time.perf_counter() - began) / len(cells):.2f} s a scan, folded {folded:.3f} %")


# --- accuracy ---

FEDERATED = (
    "U-Net w/ adaptation and F",
    "U-Net in-site and F",
    "U-Net w/o adaptation",
    "U-Net w/ adaptation",
    "U-Net in-site",
    "U-Net w/o adaptation refined",
    "U-Net w/ adaptation refined",
    "U-Net in-site refined",
    "F refined",
    "affine",
)
PARTS = {
    "federated": FEDERATED,
    "pooled": ("U-Net pooled", "U-Net pooled refined"),
    "alone": ("U-Net alone", "U-Net alone refined"),
    "control": ("control", "control refined"),
    "supervised": ("supervised", "supervised refined"),
}
"""What one process of a direction trains, and the arms that it tests."""

REFINED = {
    f"{name} refined": replace(ARMS[name], name=f"{name} refined", predict=network_refined, base=ARMS[name])
    for name in ("U-Net pooled", "U-Net alone")
}
"""Arms that no simulation has: labels of baselines, refined by the scan's own intensities (EM)."""


def accuracy(asked: argparse.Namespace, preset: Experiment, device: torch.device) -> None:
    """Prepare, then run all parts of both directions side by side."""
    stages_of(Pack(asked.pack), preset, asked.out, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    words = [sys.executable, __file__, "part", "--pack", asked.pack, "--out", asked.out, "--preset", asked.preset]
    words += ["--device", asked.device, "--workers", str(asked.workers), *(f"--set={one}" for one in asked.set)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    running = {}
    for name in asked.only or [f"{number}-{part}" for part in PARTS for number in (0, 1)]:
        with (asked.out / f"{name}.log").open("w") as log:
            call = [*map(str, words), "--only", name]
            running[name] = subprocess.Popen(call, stdout=log, stderr=subprocess.STDOUT, env=environment)
    for name, process in running.items():
        say(name, "ended with", process.wait())
        print((asked.out / f"{name}.log").read_text(), flush=True)


def part(stage: Stage, name: str, workers: int) -> None:
    """Train and test one of `PARTS` of a direction."""
    for step in ("evaluate", "deliver"):  # tested below, on the card
        setattr(server.run, step, lambda hub, state: None)
    chosen = [(ARMS | REFINED)[arm] for arm in PARTS[name]]
    trained = {arm.trained_as.name: arm.trained_as for arm in chosen}
    wanted = schemes.schemes_for(trained.values(), stage.roles, stage.experiment)
    bench = Bench(stage, {scheme.name: (scheme, federate(stage, scheme, Said())) for scheme in wanted})
    for arm in (arm for _, arm in sorted(trained.items()) if arm.pairs is not None):
        coloured = Coloured(stage, workers) if arm.name == "control" else None
        taught = replace(arm, pairs=coloured.pairs) if coloured else arm
        for site in bench.owners(arm):
            simulate.train(bench, taught, site, Said())
        if coloured:
            coloured.stop()
    say(name, "trained")
    if name == "federated":
        em_weights(stage, bench)
    for number, arm in enumerate(chosen):
        keep(stage, bench, arm, stage.folder / "found" / f"{stage.roles.name}-{name}-{number}")


class Said(Silent):
    """Prints each stage as it begins."""

    def stage(self, name: str, total: float) -> None:
        """Say it."""
        say(name)


def em_weights(stage: Stage, bench: Bench) -> None:
    """Print the Dice of the adapted segmenter on validation scans by the weight of EM refinement."""
    (target,), how = stage.roles.targets, Prediction.of(stage.experiment)
    net = bench.segmenter(ARMS["U-Net w/ adaptation"], target)
    found: dict[float, list[float]] = {}
    for _, image, truth in labelled(stage.cases(target, "val")):
        scan = image.to(stage.device)
        predicted = network_probabilities(net, scan, how)
        for weight in (0.0, 0.2, 0.4, 0.7):
            labels_found = refined(predicted, scan, replace(how, em_weight=weight)).argmax(0).cpu()
            found.setdefault(weight, []).append(100 * mean_dice(labels_found, truth))
    say("validation scans, adapted, by EM weight:", {weight: round(fmean(dice), 2) for weight, dice in found.items()})


def keep(stage: Stage, bench: Bench, arm: Arm, path: Path) -> None:
    """Keep what an arm predicts on the test scans, and the reference: compressed label maps, and what each one is."""
    path.parent.mkdir(exist_ok=True)
    rows, waiting = [], []
    with ThreadPoolExecutor(4) as pool:
        for site in bench.sites(arm):
            predict, dice = arm.predict(bench, arm, site), []
            for case, image, truth in labelled(stage.cases(site, "test")):
                found = predict(image.to(stage.device))
                dice.append(100 * mean_dice(found.labels.cpu(), truth))
                for what, map_ in ((arm.name, found.labels), ("truth", truth)):
                    waiting.append(pool.submit(_compressed, map_))
                    rows.append({"what": what, "site": site, "case": case, "folded": found.folded})
            say(f"{arm.name} at {site}: {fmean(dice):.2f}  ", " ".join(f"{one:.1f}" for one in dice))
        maps = [one.result() for one in waiting]
    path.with_suffix(".bin").write_bytes(b"".join(maps))
    grid = stage.experiment.grid
    sizes = [{**row, "bytes": len(map_)} for row, map_ in zip(rows, maps, strict=True)]
    path.with_suffix(".json").write_text(json.dumps({"shape": grid.shape, "spacing": grid.spacing, "rows": sizes}))


def _compressed(map_: Tensor) -> bytes:
    return zlib.compress(map_.to(torch.uint8).cpu().numpy().tobytes())


class _Flows:
    """Stands in for labels that are propagated elsewhere."""

    def propagate(self, flow: Tensor) -> Tensor:
        """Give the flow itself."""
        return flow.half()


_MAKE: list[Pairs] = []


def _begin(image: Tensor, spacing: float) -> None:
    torch.set_num_threads(1)
    _MAKE.append(control_pairs([(image, _Flows())], spacing))  # type: ignore[list-item]


def _colour(name: str, number: int) -> str:
    image, flow = _MAKE[0](generator(1, "control", name, number))
    path = f"/dev/shm/control-{name}-{number}.pt"
    torch.save((image.half(), flow), path)
    return path


class Coloured:
    """Control pairs, whose colours are MONAI's on CPUs: made in processes of their own while the card is at work."""

    def __init__(self, stage: Stage, workers: int, ahead: int = 60) -> None:
        own = (stage.atlas.image, stage.experiment.grid.spacing)
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, own)
        self._name, self._labels = stage.roles.name, stage.atlas.labels.to(stage.device)
        self._device, self._next = stage.device, iter(range(10**6))
        self._waiting: deque[Future[str]] = deque(self._ask() for _ in range(ahead))

    def _ask(self) -> "Future[str]":
        return self._pool.submit(_colour, self._name, next(self._next))

    def pairs(self, *_: object) -> Pairs:
        """Give the pairs as an arm does."""
        return self.pair

    def pair(self, _: torch.Generator) -> tuple[Tensor, Tensor]:
        """Give the next pair; its number, not the step's draws, tells it from others."""
        path = Path(self._waiting.popleft().result())
        self._waiting.append(self._ask())
        image, flow = (one.to(self._device).float() for one in torch.load(path))
        path.unlink()
        return image, self._labels.propagate(flow)

    def stop(self) -> None:
        """Make no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for path in Path("/dev/shm").glob(f"control-{self._name}-*.pt"):
            path.unlink()


def score(folder: Path) -> None:
    """Hold the label maps that were kept against the reference: a table, and JSON beside each file."""
    for path in sorted(folder.glob("*.json")):
        about, content, start, maps = json.loads(path.read_text()), path.with_suffix(".bin").read_bytes(), 0, []
        for row in about["rows"]:
            flat = np.frombuffer(zlib.decompress(content[start : start + row["bytes"]]), np.uint8)
            maps.append(torch.from_numpy(flat.copy()).view(*about["shape"]).long())
            start += row["bytes"]
        found: dict[str, list[Row]] = {}
        for row, map_, truth in zip(about["rows"][::2], maps[::2], maps[1::2], strict=True):
            dice = {group: 100 * value for group, value in dice_per_group(map_, truth).items()}
            mean, far = 100 * mean_dice(map_, truth), mean_hd95(map_, truth, about["spacing"])
            found.setdefault(f"{row['what']} at {row['site']}", []).append(
                {**row, "dice": dice, "mean": mean, "hd95": far}
            )
        path.with_suffix(".scores").write_text(json.dumps(found, indent=1))
        for name, rows in found.items():
            mean, far, folded = (fmean(row[key] for row in rows) for key in ("mean", "hd95", "folded"))
            print(f"{path.stem}: {name}: Dice {mean:.2f}, HD95 {far:.2f} mm, folded {folded:.4f} %", flush=True)


def main() -> None:
    """Parse the command line, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "registration", "accuracy", "part", "score"))
    parser.add_argument("--preset", default="real-gpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the preset")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", help="parts: 0-federated, 1-control and so on; 0 is the first direction")
    parser.add_argument("--workers", type=int, default=5, help="processes that colour one direction's control pairs")
    asked = parser.parse_args()
    if asked.what == "score":
        score(asked.out / "found")
        return
    device, preset = choose(asked.device), load(asked.preset, asked.set)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    say(f"torch {torch.__version__}, {card}, preset {preset.name}")
    torch.manual_seed(1)
    if asked.what == "speed":
        print(json.dumps({"preset": preset.name, "card": card, **speed(preset, device)}))
    elif asked.what == "accuracy":
        accuracy(asked, preset, device)
    elif asked.what == "registration":
        registration(stages_of(Pack(asked.pack), preset, asked.out, device), device)
    else:
        number, _, name = asked.only[0].partition("-")
        part(stages_of(Pack(asked.pack), preset, asked.out, device)[int(number)], name, asked.workers)


if __name__ == "__main__":
    main()
