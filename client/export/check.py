"""Holds an exported file against the model that it was made from, on the atlas."""

import io
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from client.export.traced import INPUT, prediction
from client.model import Model
from configs.errors import RunError
from sst_models.propagation.predict import network_probabilities

MOST = 1e-3
"""Largest difference of a probability that rounding explains; 1e-6 is usual, 1e-5 through ONNX."""


@dataclass(frozen=True)
class Checked:
    """How exported probabilities and the model's own compare, on the atlas."""

    difference: float  # the largest of all voxels and classes
    differing: int  # voxels whose likeliest class is another one


def check(file: bytes, to: str, model: Model) -> Checked:
    """Compare an exported network with the model's.

    Args:
        file: TorchScript, or ONNX.
        to: "torchscript" or "onnx".
        model: what it was made from.

    Raises:
        RunError: they differ by more than rounding.
    """
    image = torch.from_numpy(model.frame.image)
    net = model.segmenter(torch.device("cpu"))
    own = network_probabilities(net, image[None], prediction(model))
    found = RUNNERS[to](file, image[None, None])[0]
    difference = float((own - found).abs().max())
    if not difference <= MOST:
        raise RunError(
            f"the exported network differs from the model by {difference:.2g} on the atlas, more than by rounding; "
            "nothing was written. Use the versions of constraints.txt, or report this"
        )
    return Checked(difference, int((own.argmax(0) != found.argmax(0)).sum()))


def run_torchscript(file: bytes, volume: Tensor) -> Tensor:
    """Run TorchScript on (N, 1, D, H, W)."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # of all of torch.jit
        net = torch.jit.load(io.BytesIO(file))  # type: ignore[no-untyped-call]
        found: Tensor = net(volume)
    return found


def run_onnx(file: bytes, volume: Tensor) -> Tensor:
    """Run ONNX on (N, 1, D, H, W)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {INPUT: volume.numpy()})[0])


RUNNERS = {"torchscript": run_torchscript, "onnx": run_onnx}
