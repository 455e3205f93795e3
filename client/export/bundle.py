"""The configuration of a MONAI bundle: what it is, and how MONAI runs it.

Metadata follow MONAI's own schema, the inference its conventions (https://docs.monai.io/en/stable/mb_specification.html).
The network is TorchScript, so that a bundle needs nothing of this project; `model.pt`, which the specification asks for
as well, is a pickle, and is left out. Expressions (`$`) do what `client.prepare` does once a scan is aligned.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
"""Of MONAI's metadata; `python -m monai.bundle verify_metadata` takes it from there."""

VERSION = "1.0.0"
"""Of a bundle; a model that learns on is another model, with another digest."""

NEEDS = {"fire": "0.7.1", "nibabel": "5.4.2", "pytorch-ignite": "0.5.5"}
"""What running it needs beside what MONAI itself needs, as it is tested."""

IMPORTS = ("$import glob", "$import sys", "$import numpy", "$from monai.data import MetaTensor")

FINER = (
    "$lambda factor: torch.matmul(torch.tensor(@grid_affine, dtype=torch.float64), torch.tensor("
    "[[1 / factor, 0, 0, (1 / factor - 1) / 2], [0, 1 / factor, 0, (1 / factor - 1) / 2], "
    "[0, 0, 1 / factor, (1 / factor - 1) / 2], [0, 0, 0, 1]], dtype=torch.float64))"
)
"""Affine of the grid with its voxels in `factor`^3 parts."""

TO_GRID = (
    "$lambda image: (lambda factor: MetaTensor(torch.nn.functional.avg_pool3d(@resample(image, "
    "dst_affine=@finer(factor), spatial_size=[side * factor for side in @grid_shape]).as_tensor(), factor), "
    "affine=torch.tensor(@grid_affine, dtype=torch.float64), meta={'filename_or_obj': image.meta['filename_or_obj']}))"
    "(max(1, round(@grid_spacing / float(image.pixdim.mean()))))"
)
"""As `sst_models.volume.grid.sample_image`: a finer volume is averaged over the grid's voxels, not skipped."""

SCALE = (
    "$lambda image: (lambda low, high: torch.where(image != 0, ((image - low) / max(high - low, 1e-9)).clamp(0, 1), "
    "0.0))(*numpy.percentile(image[image != 0].numpy(), (0.5, 99.5)).tolist())"
)
"""As `sst_models.volume.intensity.robust_scale`."""

READ = (
    "$lambda path: MetaTensor(load_file(path)['image'][None], "
    "affine=torch.tensor(@grid_affine, dtype=torch.float64), meta={'filename_or_obj': path})"
)
"""What `sst prepare` keeps of a scan, as MONAI keeps an image."""


def metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Give `metadata.json` by the facts of a model."""
    shape, names = facts["grid"]["shape"], facts["names"]
    volume = {"type": "image", "spatial_shape": shape, "dtype": "float32", "value_range": [0, 1]}
    volume["is_patch_data"] = False
    image = {"format": "magnitude", "modality": "MR", "num_channels": 1, "channel_def": {"0": "image"}}
    pred = {
        "format": "labels",
        "num_channels": len(names),
        "channel_def": {str(index): name for index, name in enumerate(names)},
    }
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"model {facts['model']}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": NEEDS,
        "name": f"{len(names) - 1} structures of the brain, {facts['contrast']}",
        "task": f"Segmentation of {len(names) - 1} structures of the brain in {facts['contrast']} MRI",
        "description": f"{facts['input']} {facts['within']}. Left out: {'; '.join(facts['left_out'])}.",
        "authors": f"the federation of {', '.join(facts['sites'])}",
        "copyright": facts["licence"],
        "data_source": "scans of the sites of the federation, which stay there",
        "data_type": "nibabel",
        "image_classes": "single channel, intensity in [0, 1]",
        "pred_classes": f"{len(names)} channels of probabilities",
        "eval_metrics": {f"dice_percent_{site}": found["dice"] for site, found in facts["figures"].items()},
        "intended_use": f"{facts['use']} {facts['limits']}",
        "network_data_format": {"inputs": {"image": image | volume}, "outputs": {"pred": pred | volume}},
        "sst": dict(facts),
    }


def inference(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Give `inference.json`: NIfTI files that are aligned to the atlas, to label maps on its grid."""
    classes = list(range(len(facts["ids"])))
    return {
        "imports": list(IMPORTS),
        "bundle_root": ".",
        "dataset_dir": "scans",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "grid_shape": facts["grid"]["shape"],
        "grid_spacing": facts["grid"]["spacing_mm"],
        "grid_affine": facts["grid"]["affine"],
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii')) + sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "network": "$@network_def.to(@device)",
        "resample": {"_target_": "SpatialResample", "mode": "bilinear", "padding_mode": "zeros"},
        "finer": FINER,
        "to_grid": TO_GRID,
        "scale": SCALE,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
                {"_target_": "Lambdad", "keys": "image", "func": "@to_grid", "track_meta": False},
                {"_target_": "Lambdad", "keys": "image", "func": "@scale", "track_meta": False},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "MapLabelValued", "keys": "pred", "orig_labels": classes, "target_labels": facts["ids"]},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "dseg",
                    "output_dtype": "$numpy.uint16",
                    "resample": False,
                    "separate_folder": False,
                },
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "initialize": ["$None if @datalist else sys.exit('no scans in ' + @dataset_dir)"],
        "run": ["$@evaluator.run()"],
    }


def prepared() -> dict[str, Any]:
    """Give `prepared.json`, which goes over `inference.json`: scans that `sst prepare` has brought to the grid."""
    return {
        "imports": [*IMPORTS, "$from safetensors.torch import load_file"],
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.safetensors'))",
        "read": READ,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Lambdad", "keys": "image", "func": "@read", "track_meta": False}],
        },
    }
