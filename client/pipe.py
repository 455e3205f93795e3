"""Requests and replies as bytes, between a site's gate and the hub's app, which is another process.

One safetensors file each: the parts as tensors, all else as JSON in its header. Neither side executes anything of the
other's, and the gate reads no more than its policy allows.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from client.gate.policy import Policy
from client.preparation import Preparation, Stripping
from client.site import Site
from configs.dp_sgd import DpSgd
from configs.errors import DataError
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply

VERSION = 1
"""Of this form. A site's gate and the app that it approved may be of different versions of this project."""


RUNS_OWN = ("table", "contrast")
"""Of a preparation: the app takes them from the preset (`client.scans.prepare_scans`)."""


def write_request(request: PhaseRequest, site: Site) -> bytes:
    """Write what the app is asked, and what it may know of the site."""
    words = {
        **{name: getattr(request, name) for name in ("run", "phase", "round", "site", "experiment", "payload")},
        "settings": dict(request.settings),
    }
    about = {
        "name": site.name,
        "data": [str(folder) for folder in site.data],
        "state": str(site.state),
        "policy": asdict(site.policy),
        "splits": str(site.splits) if site.splits else None,
        "device": site.device,
        "preparation": {name: value for name, value in asdict(site.preparation).items() if name not in RUNS_OWN},
        "salt": site.salt.hex(),
        "dp_sgd": asdict(site.dp_sgd) if site.dp_sgd else None,
    }
    return _write({"version": VERSION, "request": words, "site": about}, request.arrays)


def read_request(data: bytes) -> tuple[PhaseRequest, Site]:
    """Read it, in the app.

    Raises:
        DataError: it is of another version, or damaged.
    """
    meta, arrays = _read(data)
    about, words = meta["site"], meta["request"]
    preparation = {**about["preparation"], "stripping": Stripping(**about["preparation"]["stripping"])}
    policy = {**about["policy"], "phases": tuple(about["policy"]["phases"])}
    site = Site(
        name=about["name"],
        data=tuple(map(Path, about["data"])),
        state=Path(about["state"]),
        policy=Policy(**policy),
        splits=Path(about["splits"]) if about["splits"] else None,
        device=about["device"],
        preparation=Preparation(**preparation),
        salt=bytes.fromhex(about["salt"]),
        dp_sgd=DpSgd(**about["dp_sgd"]) if about.get("dp_sgd") else None,
    )
    return PhaseRequest(**words, arrays=arrays), site


def write_reply(reply: SiteReply) -> bytes:
    """Write what the app answers; one with an error holds the code alone."""
    words = {name: getattr(reply, name) for name in ("site", "phase", "round", "count", "error")}
    values = {name: dict(getattr(reply, name)) for name in ("metrics", "series", "settings")}
    return _write({"version": VERSION, "reply": {**words, **values}}, reply.arrays)


def read_reply(data: bytes) -> SiteReply:
    """Read an answer as a stranger's: what is not of its form is refused, what it means is for the release check.

    Raises:
        DataError: it is no answer.
    """
    try:
        meta, arrays = _read(data)
        words = dict(meta["reply"])
        series = {str(key): tuple(values) for key, values in words.pop("series").items()}
        reply = SiteReply(**words, arrays=arrays, series=series)
        whole = type(reply.count) is int and type(reply.round) is int
        texts = all(isinstance(word, str) for word in (reply.site, reply.phase, reply.error))
        if not (whole and texts and isinstance(reply.metrics, dict) and isinstance(reply.settings, dict)):
            raise TypeError("a word of another kind")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("the app's answer is none: it may be of another version than this site's gate") from error
    return reply


def _write(meta: Mapping[str, Any], arrays: Mapping[str, Arrays]) -> bytes:
    names = [[part, name] for part, own in arrays.items() for name in own]
    tensors = {str(n): np.asarray(arrays[part][name], order="C") for n, (part, name) in enumerate(names)}
    header = {"meta": json.dumps({**meta, "names": names, "parts": list(arrays)})}
    return save(tensors, header)


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta = dict(json.loads(header["__metadata__"]["meta"]))
        tensors = load(data)
        if meta.pop("version") != VERSION:
            raise DataError("gate and app are of versions that do not understand each other; update the older one")
        arrays: dict[str, dict[str, np.ndarray]] = {str(part): {} for part in meta.pop("parts")}
        for number, (part, name) in enumerate(meta.pop("names")):
            arrays[part][name] = tensors[str(number)]
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError("what came through the pipe between gate and app is damaged") from error
    return meta, arrays
