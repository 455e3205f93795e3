"""Arrays and words in Flower's records: what both halves of a message's coding share.

Record names: `arrays.PART` or `delta.PART` one ArrayRecord per part (`sst_models.wire.payload`), `digests` and `bases`
of parts, `meta` and `settings` ConfigRecords, `metrics` and `series` MetricRecords. Arrays travel as `.npy` bytes,
never pickled. `client.messages` reads requests and writes replies, `server.messages` the other way round.
"""

from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.lib import format as npy

from sst_models.wire import payload
from sst_models.wire.exchange import Arrays
from sst_models.wire.payload import Parcel

DTYPES = ("float32", "float64", "uint8", "int64", "float16", "int16")
"""The only types of number that travel: weights and statistics, affines, labels, counts, coded differences."""


def decode_parcel(content: RecordDict) -> Parcel:
    """Read the parts of a message, as they travelled.

    Raises:
        KeyError, TypeError, ValueError: the message is not one of ours.
    """
    records = {name: to_arrays(record) for name, record in sorted(content.array_records.items())}
    return payload.read(records, words(content, "digests"), words(content, "bases"))


def to_record(arrays: Arrays) -> ArrayRecord:
    """Write the arrays of one part, sorted by name.

    Raises:
        TypeError: an array of a type that does not travel.
    """
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES:
            raise TypeError(f"array '{name}' is {array.dtype}; only {', '.join(DTYPES)} travel")
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in sorted(arrays.items())})


def to_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Read the arrays of one part, sorted by name.

    Raises:
        TypeError: an array of a type that does not travel.
        ValueError: an array that is not as large as it says.
    """
    for array in record.values():
        _check_size(array.data)
    arrays = {name: array.numpy() for name, array in sorted(record.items())}
    if any(str(array.dtype) not in DTYPES for array in arrays.values()):
        raise TypeError(f"the message holds an array that is none of {', '.join(DTYPES)}")
    return arrays


def _check_size(data: bytes) -> None:
    """See that `.npy` bytes hold what their header says: NumPy makes room for an array before it reads it.

    Raises:
        ValueError: they do not.
    """
    file = BytesIO(data)
    version = npy.read_magic(file)
    shape, _, kind = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if prod(shape) * kind.itemsize != len(data) - file.tell():
        raise ValueError("the message holds an array that is not as large as it says")


def words(content: RecordDict, name: str) -> dict[str, str]:
    """Read a ConfigRecord of texts by part, such as `digests`."""
    return {part: str(word) for part, word in sorted(content.config_records[name].items())}


def scalars(record: Mapping[str, Any]) -> dict[str, int | float | str | bool]:
    """Give the scalars and texts of a ConfigRecord, sorted by name."""
    return {key: value for key, value in sorted(record.items()) if isinstance(value, int | float | str | bool)}
