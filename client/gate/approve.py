"""Approving a run at a site's gate: what is pinned, and the weights with which its networks must begin."""

import time
from dataclasses import asdict
from pathlib import Path

from safetensors.numpy import save

from client.gate.approval import FOLDER, Approval, first_folder
from client.gate.names import RUN
from configs.errors import DataError
from configs.phases import learning
from configs.schema import Experiment
from sst_models.networks.build import build
from sst_models.wire import weights
from sst_models.wire.files import replace_file, write_json


def write_approval(approval: Approval, gate: Path) -> None:
    """Approve a run.

    Raises:
        ConfigError: the preset is none of this version.
        DataError: the run's name is none.
    """
    if not RUN.fullmatch(approval.run):
        raise DataError(f"'{approval.run}' is no name of a run: letters, digits, dots, - and _, at most 64")
    _write_first(approval.preset, first_folder(gate, approval.run))
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json({**asdict(approval), "time": when}, gate / FOLDER / f"{approval.run}.json", indent=1)


def _write_first(experiment: Experiment, folder: Path) -> None:
    for part in dict.fromkeys(part for phase in learning() for part in phase.learns):
        replace_file(folder / f"{part}.safetensors", save(weights.parameters(build(part, experiment))))
