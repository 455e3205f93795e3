"""README.md of an export: the model card that hubs show, with the front matter that they read."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parent.parent / "templates" / "export.md"

LIBRARIES = {"monai-bundle": "monai", "torchscript": "pytorch", "onnx": "onnx"}

EXAMPLES = {
    "monai-bundle": """\
With `pip install 'monai[fire,ignite,nibabel]'`, on NIfTI files that are skull-stripped and aligned to the atlas:

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir SCANS

On what `sst prepare SCANS --atlas MODEL -o PREPARED` made (SCANS is then the folder in PREPARED that holds
`.safetensors` files; needs `safetensors`, too):

    python -m monai.bundle run --config_file "['configs/inference.json','configs/prepared.json']" \\
        --bundle_root . --dataset_dir SCANS

Label maps are written to `eval`, one for each scan, on the atlas's grid, with the ids below.""",
    "torchscript": """\
```python
import json, torch

extra = {"sst.json": ""}
net = torch.jit.load("model.ts", _extra_files=extra)
ids = torch.tensor(json.loads(extra["sst.json"])["ids"])
labels = ids[net(volume).argmax(dim=1)]
```

A TorchScript file holds code, which runs when it is called: take it from those you trust. PyTorch has said that it will
give TorchScript up; the same network is to be had as ONNX.""",
    "onnx": """\
```python
import json, numpy, onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
ids = numpy.array(json.loads(session.get_modelmeta().custom_metadata_map["sst.json"])["ids"])
labels = ids[session.run(None, {"volume": volume})[0].argmax(axis=1)]
```""",
}


def readme(facts: Mapping[str, Any], to: str, checked: Mapping[str, str], with_atlas: bool) -> str:
    """Write the card.

    Args:
        facts: of the model (`client.export.facts`).
        to: the format.
        checked: "difference" and "differing", of the exported network and the model's own.
        with_atlas: whether the atlas's image is in the export.
    """
    from jinja2 import Environment, StrictUndefined

    made = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    refined = any("expectation" in text for text in facts["left_out"])
    values = {
        **facts,
        **checked,
        "library": LIBRARIES[to],
        "tags": ["medical", "mri", "brain", "segmentation", facts["contrast"], "federated-learning", to],
        "with_atlas": with_atlas,
        "example": EXAMPLES[to],
        "refined": ", with the refinement that this export leaves out" if refined else "",
        "torch": version("torch").partition("+")[0],
    }
    return made.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)
