"""Between Flower's records and the exchange types, the site's half: requests come in, replies go out.

Record names: `arrays.PART` one ArrayRecord per part, `meta` and `settings` ConfigRecords, `metrics` and `series`
MetricRecords. Arrays travel as `.npy` bytes, never pickled.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from sst_models.exchange import Arrays, PhaseRequest, SiteReply

PREFIX = "arrays."
DTYPES = ("float32", "float64", "uint8", "int64")
"""The only types of number that travel: weights and statistics, affines, labels, counts."""


def decode_request(content: RecordDict) -> PhaseRequest:
    """Read what the hub asks.

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
        arrays=_to_parts(content),
        settings=_scalars(content.config_records.get("settings", {})),
    )


def encode_reply(reply: SiteReply) -> RecordDict:
    """Write a reply as records.

    Raises:
        TypeError: an array of a type that does not travel.
    """
    meta = {name: getattr(reply, name) for name in ("site", "phase", "round", "count", "error")}
    content = RecordDict({"meta": ConfigRecord(meta), "settings": ConfigRecord(dict(reply.settings))})
    content["metrics"] = MetricRecord(dict(reply.metrics))
    content["series"] = MetricRecord({key: list(values) for key, values in reply.series.items()})
    for part, arrays in sorted(reply.arrays.items()):
        content[PREFIX + part] = _to_record(arrays)
    return content


def _to_record(arrays: Arrays) -> ArrayRecord:
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES:
            raise TypeError(f"array '{name}' is {array.dtype}; only {', '.join(DTYPES)} travel")
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in sorted(arrays.items())})


def _to_parts(content: RecordDict) -> dict[str, Arrays]:
    records = sorted(content.array_records.items())
    return {key.removeprefix(PREFIX): _to_arrays(record) for key, record in records}


def _to_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    arrays = {name: array.numpy() for name, array in sorted(record.items())}
    if any(str(array.dtype) not in DTYPES for array in arrays.values()):
        raise TypeError(f"the message holds an array that is none of {', '.join(DTYPES)}")
    return arrays


def _scalars(record: Mapping[str, Any]) -> dict[str, int | float | str | bool]:
    return {key: value for key, value in sorted(record.items()) if isinstance(value, int | float | str | bool)}
