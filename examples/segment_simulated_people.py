"""From simulated people to label maps: a tiny federation, the model that it delivers, and what a site does with it.

    python examples/segment_simulated_people.py --out runs/example                (less than a minute on one core)

A hub has one labelled scan of an adult. Two sites, one of adults and one of children with another scanner, have three
scans each. The children's site gets a model, and two new children are segmented with it. All people are simulated. The
preset "tiny" trains for a few steps on voxels of 5 mm: the figures show that the parts work together, nothing more.
"""

import argparse
from pathlib import Path

import sst
from client.layouts import find_scans
from configs.schema import load
from server.atlas import load_atlas, save_atlas
from simulation.engines import SiteFolder, run_federation
from simulation.scanner import CANDI, OASIS
from simulation.sites import write_site
from sst_models.wire.files import write_json

RUN, SITE = "example", "children"
SPACING = 5.0  # mm at which people are drawn
SHOWN = ("Left-Cerebral-WM", "Right-Lateral-Vent")  # names of configs.structures


def main() -> None:
    """Do all of it; what an earlier call left in the folder is used again."""
    parser = argparse.ArgumentParser(description="Run a tiny federation of simulated people and use its model.")
    parser.add_argument("--out", type=Path, default=Path("runs/example"), help="folder to write to")
    out = parser.parse_args().out
    try:
        model = sst.open_model(federate(out))
        use(model, out)
    except sst.SstError as error:
        raise SystemExit(f"error: {error}") from error


def federate(out: Path) -> Path:
    """Simulate a hub and two sites, and run the federation between them; give the folder of the children's model."""
    model = out / SITE / "runs" / RUN / "model"
    if model.exists():
        return model
    hub, experiment = out / "hub", load("tiny")
    grid = experiment.grid
    labelled = find_scans([write_site(out / "people" / "labelled", OASIS, 1, seed=1, spacing=SPACING)])[0]
    assert labelled.labels is not None
    atlas = load_atlas(labelled.image, labelled.labels, grid.shape, grid.spacing, grid.label_oversampling)
    save_atlas(atlas, hub)
    (hub / "experiment.json").write_text(experiment.to_json(), encoding="utf-8")
    write_json({"run": RUN, "segment": [SITE], "device": "cpu"}, hub / "plan.json")
    sites = []
    for seed, (name, scanner) in enumerate([("adults", OASIS), (SITE, CANDI)], start=2):
        scans = write_site(out / "people" / name, scanner, 3, seed, SPACING)
        sites.append(SiteFolder(name, (scans,), out / name, device="cpu", bias=False))
    run_federation("inprocess", hub, sites, out / "engine")
    return model


def use(model: sst.Model, out: Path) -> None:
    """Segment two new people of the site, compare with the truth, and generate a labelled pair; print a table."""
    people = write_site(out / "people" / "new", CANDI, 2, seed=4, spacing=SPACING)
    found = sst.segment(people, model, out / "segmented", bias_correction=False, device="cpu")
    figures = sst.evaluate(out / "segmented", people / "derivatives", out / "figures")
    pair = sst.generate(model, out / "pairs", count=1, seed=7, device="cpu").pairs[0]

    print(f"{'person':15}{'mean Dice':>9}" + "".join(f"{name:>28}" for name in SHOWN))
    for scan, agreement in zip(found.scans, figures.scans, strict=True):
        ml = {structure.name: structure.ml for structure in scan.structures}
        cells = [f"{ml[name]:.1f} ml ({agreement.figures[name]['volume_error_ml']:+.1f})" for name in SHOWN]
        print(f"{scan.case:15}{100 * agreement.mean_dice:7.1f} %" + "".join(f"{cell:>28}" for cell in cells))
    print(f"{'mean':15}{100 * figures.mean_dice:7.1f} %" + f"{'(difference to the truth)':>56}")
    for item in found.set_aside:
        print(f"set aside: {item.reason}")
    print(f"label maps and overlays: {found.folder}\na generated pair: {pair.image}")


if __name__ == "__main__":
    main()
