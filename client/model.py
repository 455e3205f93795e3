"""A model as a site keeps it and hands it on: one folder, safetensors and a card, nothing pickled, checked when opened.

card.json                what it is, what it was made of and for, its figures, and the digest of every other file
segmenter.safetensors    the U-Net
atlas.safetensors        the hub's labelled scan on the grid of the run: where scans are brought to
generator.safetensors    appearance model, flow decoder, moments of the site's styles; not in every model
registration.safetensors style encoder and flow network, where the preset has them speak, too; not in every model
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.expected import Expected, expect
from client.prepare import AtlasFrame
from client.quality import QUANTILES
from configs.contrast import weighted
from configs.errors import DataError
from configs.schema import Experiment, from_json
from sst_models.networks.build import build, first
from sst_models.phases.generate import Generator, PairGenerator, PriorStyles, of_atlases
from sst_models.phases.moments import StyleMoments
from sst_models.phases.statistics_generator import StatisticsGenerator
from sst_models.statistics.intensity import Rendering
from sst_models.statistics.measure import looks_of
from sst_models.training.device import place
from sst_models.volume.labels import AtlasLabels, LabelledVolume
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays
from sst_models.wire.files import write_json

FORMAT = 2
"""Of the folder; a reader refuses another. 2: the card's preset has the names of version 0.2."""

CARD = "card.json"
SEGMENTER, ATLAS, GENERATOR = "segmenter.safetensors", "atlas.safetensors", "generator.safetensors"
REGISTRATION = "registration.safetensors"

USE = (
    "Segmenting {structures} structures in skull-stripped {contrast} brain MRI of the site that it was adapted to, "
    "in research."
)
LIMITS = (
    "It is no medical device, and nothing that it computes may decide about a patient. It learnt from one labelled "
    "scan: lesions, tumours, operated brains and ages far from the site's are unknown to it. It labels every scan that "
    "it is given; look at the overlay and at the confidence."
)
OF_NOBODY = (
    "It was made of simulated scans of people who do not exist: it shows how the parts work together, and is of no use "
    "for a scan of a real person. "
)
"""In the card's limits, and said on each use, where the site's own scans are simulated."""

AS_IT_BEGINS = "as it begins"
"""In the card: the site trained no networks with others, and its registration is what the preset begins with."""

LICENCE = "The weights are the federation's: its sites agree on their terms. The code is Apache-2.0."

PLACES = ("", "model/", "runs/*/model/", "sites/*/runs/*/model/")
"""Where a model may lie from its own folder, a run's at a site, a site's, and a simulation's."""

SHOWN = 6
"""How many models are named where one has to be chosen."""


@dataclass(frozen=True)
class Model:
    """An opened model folder."""

    folder: Path
    card: Mapping[str, Any]
    experiment: Experiment
    frame: AtlasFrame
    usually: Tensor  # (QUANTILES,): the histogram of the site's training scans

    @property
    def of_nobody(self) -> bool:
        """Whether it was made of simulated people."""
        return bool(self.card.get("simulated"))

    @property
    def digest(self) -> str:
        """Name the model: sha256 of its files' digests."""
        return digest_of(self.card["digests"])

    @cached_property
    def expected(self) -> Expected:
        """What sizes are usual: as the card says, or, of a model of version 0.3, by the atlas alone.

        Raises:
            DataError: the card's word for it is damaged.
        """
        if "expected" in self.card:
            return Expected.of(self.card, self.experiment.table)
        return self.expect([])

    def expect(self, people: Sequence[Tensor]) -> Expected:
        """Work out what sizes are usual, by the atlas and by people's (`client.expected.shares`)."""
        atlas = self.atlases(torch.device("cpu"))[0][1]
        return expect(atlas, self.frame.spacing, torch.from_numpy(self.frame.image) > 0, people)

    def segmenter(self, device: torch.device) -> nn.Module:
        """Give the U-Net, ready to segment."""
        return self._net("segmenter", weights.load(self.folder / SEGMENTER), device).eval()

    def registration(self, device: torch.device) -> dict[str, nn.Module] | None:
        """Give E, A and F, ready to propagate the atlas's labels; None where the model lacks or does not use them."""
        begins = self.card.get("registration") == AS_IT_BEGINS
        if begins or not self.experiment.trained & {"E", "A", "F"}:
            if not self.experiment.segmenter.fuse_registration:
                return None
            return {part: place(first(part, self.experiment), device).eval() for part in ("E", "A", "F")}
        held = set(self.card["digests"])
        if REGISTRATION not in held or (self.experiment.appearance.weight and GENERATOR not in held):
            return None
        parts = _by_part(weights.load(self.folder / REGISTRATION))
        if self.experiment.appearance.weight:
            generator = _by_part(weights.load(self.folder / GENERATOR))
            if "A" not in generator:
                return None
            parts["A"] = generator["A"]
        return {part: self._net(part, tensors, device).eval() for part, tensors in parts.items()}

    def beside(self, device: torch.device) -> dict[str, nn.Module] | None:
        """Give E, A and F for a second opinion where `registration` is None: what a run begins with.

        None where they are trained and the model lacks them, or where nothing is aligned without training: no demons.
        """
        own = self.experiment.propagation
        demons = own.demons_iterations_per_level or own.demons_iterations_full_resolution
        if self.experiment.trained & {"E", "A", "F"} or not demons:
            return None
        return {part: place(first(part, self.experiment), device).eval() for part in ("E", "A", "F")}

    def atlases(self, device: torch.device) -> tuple[LabelledVolume, ...]:
        """Give the hub's labelled scans on the run's grid, each (1, D, H, W) in [0, 1] with its labels."""
        kept, finer = weights.load(self.folder / ATLAS), self.experiment.grid.label_oversampling
        images, labels = kept["image"].to(device), kept["labels"].to(device)
        parts = labels.reshape(len(images), *labels.shape[-3:])
        return tuple(
            (image[None], AtlasLabels(own, finer, self.experiment.table))
            for image, own in zip(images, parts, strict=True)
        )

    def generator(self, device: torch.device) -> PairGenerator:
        """Give the generator of labelled pairs in the site's style (eq. 12): of its statistics, or of networks.

        Raises:
            DataError: the model has none: the site keeps its statistics or its appearance model, or nobody sent one.
        """
        if GENERATOR not in self.card["digests"]:
            why = "its site keeps its statistics, or the weights of A, to itself"
            raise DataError(f"the model {self.folder} holds no generator; {why}")
        parts = _by_part(weights.load(self.folder / GENERATOR))
        if "statistics" in parts:
            released = {name: tensor.numpy() for name, tensor in parts["statistics"].items()}
            each, spacing = self.atlases(device), self.experiment.grid.spacing
            looks = looks_of(released, Rendering(*each[0], spacing))
            return of_atlases([StatisticsGenerator(*atlas, spacing, looks) for atlas in each])
        nets: dict[str, nn.Module | None] = {part: self._net(part, parts[part], device) for part in ("A", "decoder")}
        styles: StyleMoments | PriorStyles = PriorStyles(self.experiment.style.code)
        if "moments" in parts:
            styles = StyleMoments(parts["moments"]["mean"], parts["moments"]["std"])
        latent = self.experiment.latent
        return of_atlases([Generator(*atlas, nets, latent, styles) for atlas in self.atlases(device)])

    def _net(self, part: str, tensors: Mapping[str, Tensor], device: torch.device) -> nn.Module:
        net = build(part, self.experiment)
        weights.load_parameters(net, {name: tensor.numpy() for name, tensor in tensors.items()}, part)
        return place(net, device)


def digest_of(digests: Mapping[str, str]) -> str:
    """Give one digest for several files."""
    return hashlib.sha256(json.dumps(dict(digests), sort_keys=True).encode()).hexdigest()


def write_model(
    folder: Path,
    arrays: Mapping[str, Arrays],
    frame: AtlasFrame,
    experiment: Experiment,
    about: Mapping[str, object],
    further: Sequence[Tensor] = (),
) -> None:
    """Write a model folder, whole or not at all; one that is there is replaced.

    Args:
        folder: where to.
        arrays: "segmenter", and "atlas" with its "labels", packed; "A", "decoder" and "moments" for a generator; "E"
            and "F" for a registration.
        frame: the atlas.
        experiment: the preset.
        about: what the card says beside the grid, the labels and the digests: run, site, histogram, figures.
        further: volumes of more atlases, (1, D, H, W) each; their labels follow the atlas's in "atlas".
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _fill(part, arrays, frame, experiment, about, further)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(
    part: Path,
    arrays: Mapping[str, Arrays],
    frame: AtlasFrame,
    experiment: Experiment,
    about: Mapping[str, object],
    further: Sequence[Tensor],
) -> None:
    weights.save(_tensors(arrays["segmenter"]), part / SEGMENTER)
    affine = torch.tensor(frame.affine, dtype=torch.float64)
    packed, finer = arrays["atlas"]["labels"], experiment.grid.label_oversampling
    images = [torch.from_numpy(frame.image)[None], *further]
    labels = AtlasLabels.unpack(packed, frame.shape, finer, len(images), experiment.table)
    parts = torch.stack([own.parts for own in labels]) if len(images) > 1 else labels[0].parts
    weights.save({"image": torch.cat(images), "labels": parts, "affine": affine}, part / ATLAS)
    if {"A", "decoder"} <= set(arrays) or "statistics" in arrays:
        weights.save(_flat(arrays, ("A", "decoder", "moments", "statistics")), part / GENERATOR)
    if {"E", "F"} <= set(arrays):
        weights.save(_flat(arrays, ("E", "F")), part / REGISTRATION)
    card = {
        "format": FORMAT,
        **about,
        "grid": {"shape": frame.shape, "spacing_mm": frame.spacing, "affine": frame.affine},
        "atlas": frame.digest,
        "labels": {str(s.id): s.name for s in experiment.table.structures},
        "experiment": json.loads(experiment.to_json()),
        "use": _use(experiment),
        "limits": (OF_NOBODY if about.get("simulated") else "") + LIMITS,
        "licence": LICENCE,
        "digests": {path.name: _digest(path) for path in sorted(part.iterdir())},
    }
    write_json(card, part / CARD, indent=2)


def models_in(folder: Path) -> list[Path]:
    """List the folders of models that a folder is, or holds as a site's or a simulation's does, in order."""
    return sorted(card.parent for place in PLACES for card in folder.glob(f"{place}{CARD}"))


def open_model(folder: Path) -> Model:
    """Open a model folder, or the one model of a site's or a run's folder; every file is held against its digest first.

    Raises:
        DataError: it is no model, of another format, a file is missing, or one was changed; or there are several.
    """
    found = models_in(folder)
    if found and folder not in found:
        if len(found) > 1:
            listed = ", ".join(str(path) for path in found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
            raise DataError(f"{folder} holds {len(found)} models; name one of {listed}")
        folder = found[0]
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        form, digests = card["format"], dict(card["digests"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is no model: it has no readable {CARD}; give the folder that holds it") from error
    if form != FORMAT:
        raise DataError(f"the model {folder} has format {form}, this version reads {FORMAT}; use the version it names")
    for name in sorted({SEGMENTER, ATLAS} | set(digests)):
        if name not in digests or Path(name).name != name or not (folder / name).is_file():
            raise DataError(f"the model {folder} has no {name}; copy the whole folder again")
        if _digest(folder / name) != digests[name]:
            raise DataError(f"{folder / name} is not the file that the model was made with; copy the folder again")
    try:
        experiment = from_json(json.dumps(card["experiment"]))
        usually = torch.tensor(card["histogram"], dtype=torch.float32)
        atlas = weights.load(folder / ATLAS)
        frame = AtlasFrame.of(atlas["image"], atlas["affine"].tolist(), str(card["atlas"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the card of the model {folder} is incomplete; copy the folder again") from error
    if usually.shape != (QUANTILES,) or frame.shape != experiment.grid.shape:
        raise DataError(f"the model {folder} is for another grid or version than its card says; copy it again")
    return Model(folder, card, experiment, frame, usually)


def _use(experiment: Experiment) -> str:
    return USE.format(structures=len(experiment.table.structures), contrast=weighted(experiment.contrast))


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _flat(arrays: Mapping[str, Arrays], parts: Sequence[str]) -> dict[str, Tensor]:
    """Gather those of the parts that are there; `_by_part` undoes it."""
    own = {part: _tensors(arrays[part]) for part in parts if part in arrays}
    return {f"{part}/{name}": tensor for part, tensors in own.items() for name, tensor in tensors.items()}


def _by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, name = key.split("/", 1)
        parts.setdefault(part, {})[name] = tensor
    return parts


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
