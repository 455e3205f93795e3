"""Writes the network as TorchScript or ONNX, in a process of its own: `python -m client.export.traced MODEL TO FILE`.

TorchScript numbers its classes by all that a process has traced before, and both exporters print and warn. In a fresh
process the same model gives the same bytes. What they note of where the code lay on this machine is taken out again.
"""

import io
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import torch

from client.export.facts import facts
from client.export.network import Exported
from client.model import Model, open_model
from sst_models.networks.segmenter import Segmenter
from sst_models.propagation.predict import Prediction

FACTS = "sst.json"
"""Name of the facts within a TorchScript file (`_extra_files`), and their key in an ONNX file's metadata."""

INPUT, OUTPUT = "volume", "probabilities"

OPSET = 20
"""Of ONNX: the newest that PyTorch's exporter gives as it is, so that no converter has a say."""

LONG_AGO = (1980, 1, 1, 0, 0, 0)


def network(model: Model) -> Exported:
    """Give what is exported of a model, on the CPU."""
    net = model.segmenter(torch.device("cpu"))
    assert isinstance(net, Segmenter)
    return Exported(net, prediction(model), model.frame.shape).eval()


def prediction(model: Model) -> Prediction:
    """Give how the exported network predicts: as the preset says, but in float32 on any CPU."""
    return replace(Prediction.of(model.experiment), bf16_cpu=False)


def example(model: Model) -> torch.Tensor:
    """Give two empty volumes: no scan gets into a file, and one volume would be taken for any number."""
    return torch.zeros(2, 1, *model.frame.shape)


@torch.no_grad()
def torchscript(model: Model) -> bytes:
    """Give the network as TorchScript, with what is known of it in the extra file `FACTS`."""
    traced = torch.jit.trace(network(model), example(model), check_trace=False)  # type: ignore[no-untyped-call]
    whole = io.BytesIO()
    torch.jit.save(traced, whole, _extra_files={FACTS: json.dumps(facts(model))})
    return _without_places(whole.getvalue())


def _without_places(archive: bytes) -> bytes:
    """Take out what says where each line of code came from: paths of this machine."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if not name.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(name, LONG_AGO), old.read(name))
    return out.getvalue()


@torch.no_grad()
def onnx_model(model: Model) -> bytes:
    """Give the network as ONNX, of any number of volumes, with what is known of it in its metadata."""
    import onnx

    program = torch.onnx.export(
        network(model),
        (example(model),),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None
    made = program.model_proto
    for part in (made.graph, *made.graph.node, *made.graph.value_info, *made.graph.initializer, *made.functions):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.helper.set_model_props(made, {FACTS: json.dumps(facts(model))})
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


MAKERS = {"torchscript": torchscript, "onnx": onnx_model}


def main(model: str, to: str, file: str) -> None:
    """Write one file."""
    Path(file).write_bytes(MAKERS[to](open_model(Path(model))))


if __name__ == "__main__":
    main(*sys.argv[1:])
