"""The run that a site's IT approved, and what of a request is held against it.

`sst site approve` writes an approval: name of the run, whole preset, digests of the atlas. From these follow grid,
schedule, rates and first weights, so that a hub can choose none of them afterwards. A request that differs in anything
is refused before a scan is read (docs/threat-model.md, "A hostile hub").
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from client.gate.names import RUN
from configs import levels
from configs.errors import RefusalError
from configs.phases import Phase, phase_of
from configs.schema import Experiment, from_json
from configs.statistics import shapes
from sst_models.wire.exchange import Arrays, PhaseRequest
from sst_models.wire.payload import digest

FOLDER = "approved"
"""In the gate's folder: an approval for each run, `RUN.json`, and its first weights, `RUN.first/PART.safetensors`."""

DELIVERED = frozenset({"segmenter", "atlas", "A", "decoder", "moments", "statistics", "E", "F"})
"""What a hub may deliver."""

SETTINGS: Mapping[str, frozenset[str]] = {
    "join": frozenset({"atlas", "late"}),
    "evaluate": frozenset({"atlas", "segmenters", "style"}),
    "deliver": frozenset({"atlas", "sites", "figures"}),
}
"""The single values that a request may hold; in any other phase the atlas's digest alone."""

SETTING_UP = 4
"""Exchanges before the first secure sum: keys, shares, boxes, confirmations."""

MOST_SITES = 1000
"""Most sites whose moments, or segmenters, one request may name."""


@dataclass(frozen=True)
class Approval:
    """What was approved."""

    run: str
    experiment: str  # the preset, as requests hold it
    atlas: str  # the digest by which hub and sites know it
    image: str  # `payload.digest` of what join publishes: {"image", "affine"}
    labels: str  # `payload.digest` of what adapt and deliver send of it: {"labels"}
    signer: str = ""  # public key by which the hub signs receipts, hexadecimal; "" for a hub that signs none

    @cached_property
    def preset(self) -> Experiment:
        """Give the preset.

        Raises:
            ConfigError: it is none of this version.
        """
        return from_json(self.experiment)

    @property
    def experiment_digest(self) -> str:
        """Give the SHA-256 of the preset, as a hub's operator can read it out."""
        return hashlib.sha256(self.experiment.encode()).hexdigest()


def read_approval(gate: Path, run: str) -> Approval:
    """Give what was approved of a run.

    Raises:
        RefusalError: nothing was, or the file cannot be read.
    """
    if not RUN.fullmatch(run):
        raise RefusalError("the hub's name for the run is none: letters, digits, dots, - and _, at most 64")
    try:
        values = json.loads((gate / FOLDER / f"{run}.json").read_text(encoding="utf-8"))
        return Approval(**{name: str(values[name]) for name in Approval.__annotations__})
    except OSError as error:
        raise RefusalError(
            f"the run '{run}' is not approved here: sst site approve shows it and approves it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RefusalError(f"the approval of the run '{run}' is damaged: approve it again") from error


def approved_runs(gate: Path) -> tuple[Approval, ...]:
    """Give all that is approved here, sorted by name."""
    return tuple(read_approval(gate, path.stem) for path in sorted((gate / FOLDER).glob("*.json")))


def first_folder(gate: Path, run: str) -> Path:
    """Give the folder of a run's first weights."""
    return gate / FOLDER / f"{run}.first"


def check_words(request: PhaseRequest, approval: Approval, site: str) -> None:
    """Hold everything in a request but its arrays against what was approved.

    Raises:
        RefusalError: the first thing that differs.
    """
    if request.site != site:
        raise RefusalError("the request is for a site of another name")
    if request.experiment != approval.experiment:
        raise RefusalError(_changed(request.experiment, approval.experiment))
    if request.settings.get("atlas") != approval.atlas:
        raise RefusalError("the request is for another atlas than the approved one")
    if request.payload != approval.preset.federation.payload:
        raise RefusalError(f"parts would travel as '{request.payload}', which is not what the preset says")
    if odd := set(request.settings) - SETTINGS.get(request.phase, frozenset({"atlas"})):
        raise RefusalError(f"phase {request.phase} knows no setting '{min(odd)[:40]}'")
    if not 1 <= request.round <= _rounds(request.phase, approval):
        raise RefusalError(f"the approved schedule has no round {request.round} of phase {request.phase}")


def check_parts(request: PhaseRequest, approval: Approval) -> None:
    """See that a request holds the parts that its phase needs and no others, and that the atlas is the approved one.

    Raises:
        RefusalError: the first part that does not belong there.
    """
    phase = phase_of(request.phase)
    moments = {part for part in request.arrays if part.startswith("moments.")}
    allowed = _allowed(phase) | (moments if phase.foreign else set())
    if odd := set(request.arrays) - allowed:
        raise RefusalError(f"phase {phase.name} is sent no part '{min(odd)[:40]}'")
    used = set(phase.uses)
    if phase.level == levels.NOTHING and not used & set(request.arrays):
        used = set()  # as they begin: for a site that took no part in their training
    if missing := {*phase.learns, *used} - set(request.arrays):
        raise RefusalError(f"phase {phase.name} needs the part '{min(missing)}', which was not sent")
    if "atlas" in request.arrays:
        wanted = approval.image if phase.name == "join" else approval.labels
        if digest(request.arrays["atlas"]) != wanted:
            raise RefusalError("the atlas that was sent is not the approved one")
    if len(moments) > MOST_SITES:
        raise RefusalError(f"moments of {len(moments)} sites in one request")
    code = (approval.preset.style.code,)
    for part in sorted(moments | ({"moments"} & set(request.arrays))):
        if not _is_moments(request.arrays[part], code):
            raise RefusalError(f"'{part[:40]}' is no mean and standard deviation of style codes")
    measured = request.arrays.get("statistics", {})
    if measured and {name: (array.shape, array.dtype) for name, array in measured.items()} != {
        name: (shape, np.dtype(np.float32)) for name, shape in shapes(approval.preset.table).items()
    }:
        raise RefusalError("'statistics' are none: they have other names, sizes or types than such arrays have")


def _is_moments(arrays: Arrays, code: tuple[int, ...]) -> bool:
    """Say whether arrays can be the mean and standard deviation of unit vectors."""
    if {name: (array.shape, array.dtype) for name, array in arrays.items()} != dict.fromkeys(
        ("mean", "std"), (code, np.dtype(np.float32))
    ):
        return False
    length = float(np.linalg.norm(arrays["mean"].astype(np.float64)))  # nan compares as false
    return length < 1.001 and bool((arrays["std"] >= 0).all()) and float(arrays["std"].max()) < 1.5


def _allowed(phase: Phase) -> set[str]:
    if phase.name == "join":
        return {"atlas"}
    if phase.name == "evaluate":
        return {"segmenter"}
    if phase.sums:
        return {"sums"}
    if phase.name == "deliver":
        return set(DELIVERED)
    return {*phase.learns, *phase.uses, *(("atlas",) if phase.labels else ())}


def _rounds(phase: str, approval: Approval) -> int:
    if phase == "evaluate":
        return MOST_SITES
    if phase_of(phase).sums:
        sums = len(approval.preset.sums)
        return SETTING_UP * bool(sums) if phase == "keys" else sums
    return approval.preset.phases.rounds(phase) if phase_of(phase).has_rounds else 1


def _changed(sent: str, approved: str) -> str:
    """Say in a line where a preset differs from the approved one."""
    try:
        new, old = _flat(json.loads(sent)), _flat(json.loads(approved))
    except (ValueError, AttributeError):
        return "the request holds no preset"
    keys = sorted(key for key in {*new, *old} if new.get(key) != old.get(key))
    if not keys:
        return "the request's preset is not written as the approved one"
    shown = f"{keys[0][:60]} is {str(new.get(keys[0]))[:40]}, approved was {str(old.get(keys[0]))[:40]}"
    return f"the preset is not the approved one: {shown}" + (f", and {len(keys) - 1} more" if keys[1:] else "")


def _flat(values: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{start}{key}.") if isinstance(value, dict) else {f"{start}{key}": value}
    return found


def parts_of(arrays: Arrays, labels: Arrays) -> dict[str, str]:
    """Give the digests of an atlas's parts, as an approval has them; `arrays` is what join publishes."""
    return {"image": digest(arrays), "labels": digest(labels)}
