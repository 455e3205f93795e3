"""Between Flower's records and the exchange types, the hub's half: requests go out, replies come in.

Record names: `arrays.PART` or `step.PART` one ArrayRecord per part (`sst_models.payload`), `digests` and `bases` of
parts, `meta` and `settings` ConfigRecords, `metrics` and `series` MetricRecords. Arrays travel as `.npy` bytes, never
pickled. The client has the other half; a test holds them together.
"""

from collections.abc import Mapping, MutableMapping
from hmac import compare_digest
from types import MappingProxyType
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from sst_models import payload
from sst_models.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.payload import Parcel

DTYPES = ("float32", "float64", "uint8", "int64", "float16", "int16")
"""The only types of number that travel: weights and statistics, affines, labels, counts, coded differences."""

TYPES: Mapping[str, str] = MappingProxyType(
    {
        "hello": "query.hello",
        "join": "query.join",
        "register": "train.register",
        "style": "train.style",
        "joint": "train.joint",
        "flow_codes": "train.flow_codes",
        "adapt": "train.adapt",
        "evaluate": "evaluate.evaluate",
        "deliver": "query.deliver",
    }
)
"""Flower's message type of each phase."""


def encode_request(
    request: PhaseRequest, written: MutableMapping[int, ArrayRecord], parcel: Parcel | None = None, nonce: str = ""
) -> RecordDict:
    """Write a request as records.

    Args:
        request: what to ask.
        written: records of parts that were written before, by the identity of the part's arrays, so that the same
            weights for many sites are serialised once. Keep the requests alive for as long as this mapping.
        parcel: the request's parts as they travel; all of them where there is none.
        nonce: a word that the reply must bring back.

    Raises:
        TypeError: an array of a type that does not travel.
    """
    meta = {name: getattr(request, name) for name in ("run", "phase", "round", "site", "experiment", "payload")}
    meta["nonce"] = nonce
    content = RecordDict({"meta": ConfigRecord(meta), "settings": ConfigRecord(dict(request.settings))})
    parcel = Parcel(request.arrays) if parcel is None else parcel
    content["digests"], content["bases"] = ConfigRecord(dict(parcel.digests)), ConfigRecord(dict(parcel.bases))
    for name, arrays in parcel.records.items():
        if id(arrays) not in written:
            written[id(arrays)] = _to_record(arrays)
        content[name] = written[id(arrays)]
    return content


def decode_reply(content: RecordDict, request: PhaseRequest, nonce: str = "") -> SiteReply:
    """Read what a site answers to `request`; the site's name is the one that the hub asked.

    Raises:
        KeyError, TypeError, ValueError: the message is not one of ours, or answers another request.
        FederationError: a part is not what the site sent (`payload.unpack`).
    """
    meta: Mapping[str, Any] = content.config_records["meta"]
    if (meta["phase"], meta["round"]) != (request.phase, request.round):
        raise ValueError(f"{request.site} answers {meta['phase']} {meta['round']}")
    if not compare_digest(str(meta.get("nonce", "")).encode(), nonce.encode()):
        raise ValueError(f"{request.site} does not answer this request: its nonce is another one")
    return SiteReply(
        site=request.site,
        phase=request.phase,
        round=request.round,
        count=int(meta["count"]),
        arrays=payload.unpack(decode_parcel(content), lambda part, _: request.arrays.get(part)),
        metrics={key: float(value) for key, value in sorted(_metrics(content, "metrics").items())},
        series={key: tuple(map(float, values)) for key, values in sorted(_metrics(content, "series").items())},
        settings=_scalars(content.config_records.get("settings", {})),
        error=str(meta["error"]),
    )


def decode_parcel(content: RecordDict) -> Parcel:
    """Read the parts of a message, as they travelled.

    Raises:
        KeyError, TypeError, ValueError: the message is not one of ours.
    """
    records = {name: _to_arrays(record) for name, record in sorted(content.array_records.items())}
    return payload.read(records, _words(content, "digests"), _words(content, "bases"))


def _metrics(content: RecordDict, name: str) -> Mapping[str, Any]:
    return content.metric_records[name]


def _to_record(arrays: Arrays) -> ArrayRecord:
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES:
            raise TypeError(f"array '{name}' is {array.dtype}; only {', '.join(DTYPES)} travel")
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in sorted(arrays.items())})


def _to_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    arrays = {name: array.numpy() for name, array in sorted(record.items())}
    if any(str(array.dtype) not in DTYPES for array in arrays.values()):
        raise TypeError(f"the message holds an array that is none of {', '.join(DTYPES)}")
    return arrays


def _words(content: RecordDict, name: str) -> dict[str, str]:
    return {part: str(word) for part, word in sorted(content.config_records[name].items())}


def _scalars(record: Mapping[str, Any]) -> dict[str, int | float | str | bool]:
    return {key: value for key, value in sorted(record.items()) if isinstance(value, int | float | str | bool)}
