"""What an export says of itself, the same in all of its files: of the model, by its card, and of the network."""

from importlib import metadata
from typing import Any

from client.model import Model
from configs.contrast import weighted

INPUT = (
    "A skull-stripped {contrast} brain on the atlas's grid, aligned to the atlas (affine), (N, 1, {shape}) float32: "
    "0 outside the brain, its 0.5th percentile 0 and its 99.5th 1, clamped to [0, 1]."
)
OUTPUT = "Probability of each class, (N, {classes}, {shape}) float32; the likeliest class has the id in `ids`."

LEFT_OUT = (
    "preparation: brain mask, bias field (N4), affine registration to the atlas, intensities to [0, 1]",
    "refinement by the scan's own intensities (expectation maximisation)",
    "labels that registration propagates from the atlas, fused with the network's",
    "the way back to the scan's own voxels, volumes, confidence, and what is said of doubtful scans",
)
"""What `sst segment` does beside the network."""

WITHIN = {
    "none": "softmax",
    "mirror": "softmax, mean over the scan and its mirror image",
    "mirror+shifts": "softmax, mean over the scan, its mirror image, and both moved by a voxel along each axis",
}


def facts(model: Model) -> dict[str, Any]:
    """Give what is known of a model, as plain values.

    Returns:
        model (digest), run, site, sites, preset, contrast, grid, ids and names (by class, background first), input,
        within, output, left_out, figures, prior (whether the atlas's labels are in the weights), use,
        limits, licence, sst (version).
    """
    experiment, card = model.experiment, model.card
    shape = ", ".join(str(side) for side in model.frame.shape)
    within = WITHIN[experiment.segmenter.test_time_augmentation]
    brain = "brain to mean 0 and spread 1, " if experiment.segmenter.normalise == "zscore" else ""
    left_out = [text for text in LEFT_OUT if "registration propagates" not in text or _fuses(model)]
    return {
        "model": model.digest,
        "run": str(card.get("run", "")),
        "site": str(card.get("site", "")),
        "sites": list(card.get("sites", ())),
        "preset": experiment.name,
        "contrast": experiment.contrast,
        "grid": {
            "shape": list(model.frame.shape),
            "spacing_mm": model.frame.spacing,
            "affine": [list(row) for row in model.frame.affine],
        },
        "ids": list(experiment.table.ids),
        "names": ["background", *(structure.name for structure in experiment.table.structures)],
        "input": INPUT.format(contrast=weighted(experiment.contrast), shape=shape),
        "within": f"{brain}U-Net, {within}; float32",
        "output": OUTPUT.format(classes=experiment.table.classes, shape=shape),
        "left_out": [text for text in left_out if "expectation" not in text or experiment.propagation.em_weight],
        "figures": {site: dict(found) for site, found in card.get("figures", {}).items()},
        "prior": bool(experiment.segmenter.location_prior),
        "use": str(card.get("use", "")),
        "limits": str(card.get("limits", "")),
        "licence": str(card.get("licence", "")),
        "sst": version(),
    }


def version() -> str:
    """Give this project's version, where it is installed."""
    try:
        return metadata.version("sst-federation")
    except metadata.PackageNotFoundError:
        return "unknown"


def _fuses(model: Model) -> bool:
    return bool(model.experiment.segmenter.fuse_registration)
