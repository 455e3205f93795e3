"""Between Flower's records and the exchange types, the site's half: requests come in, replies go out.

Record names: `arrays.PART` or `step.PART` one ArrayRecord per part (`sst_models.payload`), `digests` and `bases` of
parts, `meta` and `settings` ConfigRecords, `metrics` and `series` MetricRecords. Arrays travel as `.npy` bytes, never
pickled.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from sst_models import payload
from sst_models.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.payload import Parcel

DTYPES = ("float32", "float64", "uint8", "int64", "float16", "int16")
"""The only types of number that travel: weights and statistics, affines, labels, counts, coded differences."""


def decode_request(content: RecordDict) -> PhaseRequest:
    """Read what the hub asks, without its parts: these are in the message's parcel.

    Raises:
        KeyError, TypeError, ValueError: the message is not one of ours.
    """
    meta: Mapping[str, Any] = content.config_records["meta"]
    return PhaseRequest(
        run=str(meta["run"]),
        phase=str(meta["phase"]),
        round=int(meta["round"]),
        site=str(meta["site"]),
        experiment=str(meta["experiment"]),
        settings=_scalars(content.config_records.get("settings", {})),
        payload=str(meta["payload"]),
    )


def decode_parcel(content: RecordDict) -> Parcel:
    """Read the parts of a message, as they travelled.

    Raises:
        KeyError, TypeError, ValueError: the message is not one of ours.
    """
    records = {name: _to_arrays(record) for name, record in sorted(content.array_records.items())}
    return payload.read(records, _words(content, "digests"), _words(content, "bases"))


def encode_reply(reply: SiteReply, parcel: Parcel | None = None) -> RecordDict:
    """Write a reply as records, its parts as they are in `parcel`; all of them where there is none.

    Raises:
        TypeError: an array of a type that does not travel.
    """
    meta = {name: getattr(reply, name) for name in ("site", "phase", "round", "count", "error")}
    content = RecordDict({"meta": ConfigRecord(meta), "settings": ConfigRecord(dict(reply.settings))})
    content["metrics"] = MetricRecord(dict(reply.metrics))
    content["series"] = MetricRecord({key: list(values) for key, values in reply.series.items()})
    parcel = Parcel(reply.arrays) if parcel is None else parcel
    content["digests"], content["bases"] = ConfigRecord(dict(parcel.digests)), ConfigRecord(dict(parcel.bases))
    for name, arrays in parcel.records.items():
        content[name] = _to_record(arrays)
    return content


def return_nonce(asked: RecordDict, content: RecordDict) -> None:
    """Put the request's nonce into the reply: who did not get the request cannot answer it."""
    meta = asked.config_records.get("meta")
    content.config_records["meta"]["nonce"] = str(meta.get("nonce", "")) if meta else ""


def size(content: RecordDict) -> int:
    """Give the bytes of a message's arrays as they travel; 0 where they cannot be read."""
    try:
        return decode_parcel(content).bytes
    except Exception:  # a peer chose these bytes
        return 0


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
