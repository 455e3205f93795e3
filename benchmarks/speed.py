"""Print how fast the parts are against straightforward versions, and write it as JSON: `make bench`.

    python benchmarks/speed.py [--out FILE] [--full] [--preset NAME] [--repeats N]

Both versions of a row run in turn in one process, and a row's figure is the ratio of their fastest runs: the machines
are shared. Peak memory is that of a process of its own. `--full` adds 128 x 160 x 160, which takes minutes. Volumes are
synthetic: what is in them does not change what the mathematics costs. What a network reaches in that time is another
question: `equal_time.py`.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import straightforward
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from client.model import write_model
from client.prepare import AtlasFrame
from client.quality import histogram
from configs.phases import phase_of
from configs.schema import Experiment, Grid, load
from simulation.phantom import draw_anatomy
from sst_models.losses.structural import lncc, most_levels, ms_ssim
from sst_models.networks.build import build
from sst_models.phases.generate import Generator, PriorStyles, Recipe
from sst_models.phases.material import Material, make_learner
from sst_models.phases.segment import SegmentLearner, SegmentSettings
from sst_models.propagation.predict import Prediction, segment
from sst_models.training.device import place
from sst_models.volume.labels import AtlasLabels
from sst_models.wire import weights
from sst_models.wire.files import write_json

Shape = tuple[int, int, int]
Row = dict[str, float | str]

SMALL: Shape = (64, 80, 80)
FULL: Shape = (128, 160, 160)
ROOT = Path(__file__).parents[1]

GOALS = {
    "MS-SSIM": "ratio >= 5",
    "LNCC": "ratio >= 5",
    "joint step": "ratio >= 6, peak <= 3 GiB",
    "one generated pair": "share <= 0.1",
    "sst segment": "<= 15 s, <= 4 GiB",
}
"""By how a row begins: what the project wants to reach on two cores."""


def volume(shape: Shape, seed: int) -> Tensor:
    """Give something like a brain, (1, D, H, W) in [0, 1]: an ellipsoid of smooth noise, background 0."""
    draws = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.7
    coarse = torch.rand(1, 1, *[side // 6 for side in shape], generator=draws)
    return (F.interpolate(coarse, size=shape, mode="trilinear")[0] * 0.8 + 0.1) * inside


def labels(shape: Shape, oversampling: int) -> AtlasLabels:
    """Give a simulated brain's labels, `oversampling` parts to a side of a voxel of the grid (D, H, W)."""
    drawn = torch.from_numpy(draw_anatomy(1, 40.0, 2.4 * SMALL[0] / shape[0] / oversampling).labels)
    gaps = [wanted * oversampling - had for wanted, had in zip(shape, drawn.shape, strict=True)]
    return AtlasLabels(F.pad(drawn, [part for gap in gaps[::-1] for part in (gap // 2, gap - gap // 2)]), oversampling)


class Brains:
    """Four scans in memory."""

    def __init__(self, shape: Shape) -> None:
        self._volumes = [volume(shape, seed) for seed in range(4)]

    def __len__(self) -> int:
        """Give their number."""
        return len(self._volumes)

    def image(self, index: int) -> Tensor:
        """Give one, (1, D, H, W)."""
        return self._volumes[index]


def fastest(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Run the calls in turn, `repeats` times each after a first that does not count; give the fastest seconds."""
    found = dict.fromkeys(calls, float("inf"))
    for number in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if number:
                found[name] = min(found[name], time.perf_counter() - began)
    return found


def with_gradient(loss: Callable[[Tensor, Tensor], Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Give a loss and its gradient by the first volume."""
    u = u.detach().requires_grad_()
    value = loss(u, v)
    (gradient,) = torch.autograd.grad(value, u)
    return value.detach(), gradient


def losses(shape: Shape, repeats: int) -> list[Row]:
    """Compare MS-SSIM and LNCC, value and gradient."""
    u, v = volume(shape, 1)[None], volume(shape, 2)[None]
    pairs: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
        f"MS-SSIM, window {window}, {most_levels(shape, window)} scales": (
            lambda a, b, window=window: ms_ssim(a, b, window=window),  # type: ignore[misc]
            lambda a, b, window=window: straightforward.ms_ssim(a, b, window),  # type: ignore[misc]
        )
        for window in ((7,) if most_levels(shape) == 5 else (7, 3))  # pytorch-msssim itself wants all five scales
    }
    pairs["LNCC, window 7"] = lncc, straightforward.lncc
    rows = []
    for name, (ours, theirs) in pairs.items():
        one, other = with_gradient(ours, u, v), with_gradient(theirs, u, v)
        calls: dict[str, Callable[[], object]] = {
            "ours": lambda ours=ours: with_gradient(ours, u, v),  # type: ignore[misc]
            "straightforward": lambda theirs=theirs: with_gradient(theirs, u, v),  # type: ignore[misc]
        }
        apart = float((one[1] - other[1]).norm() / other[1].norm())
        rows.append(_row(name, shape, fastest(calls, repeats), {"gradient_apart": apart}))
    return rows


def _placed(part: str, preset: Experiment) -> nn.Module:
    """Build a network as a hub or a site does."""
    return place(build(part, preset), torch.device("cpu"))


def joint_step(preset: Experiment) -> Callable[[], object]:
    """Give one joint step of a preset, batch 1, with its learner."""
    own = replace(preset, phases=replace(preset.phases, joint=replace(preset.phases.joint, batch=1)))
    phase, shape = phase_of("joint"), preset.grid.shape
    nets = {part: _placed(part, own) for part in phase.learns + phase.uses}
    learner = make_learner(phase.name, nets, own, Material(Brains(shape), volume(shape, 9)))
    return lambda: learner.step(torch.Generator().manual_seed(1))


def straightforward_step(shape: Shape) -> Callable[[], object]:
    """Give one joint step of the released sizes, batch 1."""
    step = straightforward.JointStep()
    volumes = [volume(shape, seed)[None] for seed in range(3)]
    return lambda: step(*volumes)


def generation(preset: Experiment, repeats: int) -> list[Row]:
    """Time one generated pair, the segmenter's step on it, and one segmentation."""
    shape = preset.grid.shape
    nets = {part: _placed(part, preset) for part in ("A", "decoder")}
    styles = PriorStyles(preset.style.code)
    atlas = (volume(shape, 9), labels(shape, preset.grid.label_oversampling))
    generator = Generator(*atlas, dict(nets), preset.latent, styles, preset.generation.cached_styles)
    pair = generator.pair(Recipe(1, 1, 1, "bench"))
    single = replace(preset.phases.segment, batch=1)
    plain = replace(preset, segmenter=replace(preset.segmenter, affine_probability=0.0))
    settings = SegmentSettings.of(plain, single)
    learner = SegmentLearner(
        {"segmenter": _placed("segmenter", preset)}, lambda draws: (pair.image, pair.labels), settings
    )
    how = Prediction.of(preset)
    found = fastest(
        {
            "pair": lambda: generator.pair(Recipe(1, 1, 2, "bench")),  # its style is cached, where styles are
            "step": lambda: learner.step(torch.Generator().manual_seed(1)),
            "segment": lambda: segment(learner.mean, pair.image, how),
        },
        repeats,
    )
    share = found["pair"] / found["step"]
    words: Row = {"what": "one generated pair, of its training step", "shape": _words(shape), "share": share}
    return [
        {**words, "seconds": found["pair"], "step_seconds": found["step"], "pairs_per_second": 1 / found["pair"]},
        {"what": "one segmentation by the U-Net", "shape": _words(shape), "seconds": found["segment"]},
    ]


def segment_command(preset: Experiment) -> Row:
    """Time `sst segment` on one scan of 1 mm, from the start of its process; networks have their first weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = 1000 * volume((182, 218, 182), 7)[0].numpy()
        image = nibabel.Nifti1Image(scan.astype(np.int16), np.eye(4))  # type: ignore[no-untyped-call]
        nibabel.save(image, folder / "scan.nii.gz")
        _model(preset, folder / "model")
        words = [sys.executable, "-m", "sst", "segment", str(folder / "scan.nii.gz"), "--model", str(folder / "model")]
        words += ["-o", str(folder / "out")]
        began = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
            _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with status {status}")
    gib = used.ru_maxrss / 2**20
    return {"what": "sst segment, one scan", "shape": "182 x 218 x 182", "seconds": seconds, "peak_gib": gib}


def _model(preset: Experiment, folder: Path) -> None:
    grid, image = preset.grid, volume(preset.grid.shape, 9)[0]
    affine = np.diag([grid.spacing] * 3 + [1.0])
    affine[:3, 3] = [91 - grid.spacing * side / 2 for side in grid.shape]
    frame = AtlasFrame.of(image[None], affine.tolist(), "0" * 64)
    arrays = {part: weights.parameters(build(part, preset)) for part in ("segmenter", "A", "decoder", "E", "F")}
    arrays["atlas"] = {"labels": labels(grid.shape, grid.label_oversampling).packed()}
    about = {"run": "bench", "site": "bench", "histogram": histogram(image[None]).tolist()}
    write_model(folder, arrays, frame, preset, about)


def peak(what: str, preset: str, shape: Shape) -> float:
    """Give the peak memory in GiB of one joint step, in a process of its own."""
    command = [sys.executable, __file__, "--preset", preset, "--peak", what, "--shape", *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _peak(what: str, preset: Experiment) -> float:
    step = joint_step(preset) if what == "ours" else straightforward_step(preset.grid.shape)
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _row(name: str, shape: Shape, found: dict[str, float], more: dict[str, float]) -> Row:
    ratio = found["straightforward"] / found["ours"]
    return {"what": name, "shape": _words(shape), "ratio": ratio, **found, **more}


def _words(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    table = Table("what", "size", "figures", "goal")
    for row in rows:
        what = str(row["what"])
        figures = ", ".join(
            f"{name.replace('_', ' ')} {value:.3g}" for name, value in row.items() if isinstance(value, float)
        )
        goal = next((text for begin, text in GOALS.items() if what.startswith(begin)), "")
        table.add_row(what, str(row["shape"]), figures, goal)
    Console().print(table)


def measure(preset: Experiment, shape: Shape, repeats: int) -> list[Row]:
    """Measure all rows at one size."""
    oversampling = preset.grid.label_oversampling if shape == preset.grid.shape else 1  # 1.2 mm: the atlas's voxels
    own = replace(preset, grid=Grid(shape, preset.grid.spacing * preset.grid.shape[0] / shape[0], oversampling))
    rows = losses(shape, max(5, repeats))  # they are quick, and vary
    calls = {"ours": joint_step(own), "straightforward": straightforward_step(shape)}
    memory = {f"peak_gib_{what}": peak(what, preset.name, shape) for what in calls}
    rows.append(_row("joint step, batch 1", shape, fastest(calls, max(1, repeats // 3)), memory))
    return rows + generation(own, repeats)


def main() -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--preset", default="real-cpu")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=("ours", "straightforward"), help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(1)
    preset = load(asked.preset)
    if asked.peak:
        print(_peak(asked.peak, replace(preset, grid=Grid(tuple(asked.shape), 1.0))))
        return
    rows = [segment_command(preset)]  # first: a process begins with the peak memory of the one that starts it
    for shape in (SMALL, FULL) if asked.full else (SMALL,):
        for row in measure(preset, shape, asked.repeats if shape == SMALL else max(1, asked.repeats // 3)):
            rows.append(row)
            print(f"{row['what']}, {row['shape']}: done", file=sys.stderr, flush=True)
    show(rows)
    if asked.out:
        write_json({"preset": preset.name, "threads": 2, "rows": rows}, asked.out)


if __name__ == "__main__":
    main()
