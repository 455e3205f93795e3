"""What of a part travels: a digest where the other side holds it, else a coded difference, else all of it.

A difference is rounded to half precision in units of one power of two per tensor, so that nothing overflows and what is
29 binades below the largest value of a tensor still has its 11 bits. Both sides add it to the same bytes and get the
same bytes; a digest over these says so.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from configs.errors import FederationError
from sst_models.wire.exchange import Arrays, Delta, PhaseRequest

WHOLE, DELTA = "arrays.", "delta."
"""First words of the names of records."""

TOP = 15
"""Binary logarithm below which the largest coded value of a tensor is scaled; float16 ends at 2^16."""

REACH = 200
"""No exponent of a difference of two float32 is as large: below it nothing overflows a float64."""

_LARGEST = float(np.finfo(np.float32).max)


class MissingBase(FederationError):
    """The receiver does not hold the version that a difference starts from; the sender has to send all of it."""


class WrongDigest(FederationError):
    """What was received is not what was sent."""


@dataclass(frozen=True)
class Parcel:
    """Parts in the form in which they travel. A part that has a digest and nothing else is at the receiver already."""

    whole: Mapping[str, Arrays] = field(default_factory=dict)
    deltas: Mapping[str, Delta] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)  # of parts that are checked, and that both sides keep

    @property
    def records(self) -> dict[str, Arrays]:
        """Give the arrays that travel, by the name of their record."""
        whole = {WHOLE + part: arrays for part, arrays in sorted(self.whole.items())}
        return whole | {DELTA + part: delta.arrays for part, delta in sorted(self.deltas.items())}

    @property
    def bases(self) -> dict[str, str]:
        """Give the digest of what each difference starts from."""
        return {part: delta.base for part, delta in sorted(self.deltas.items())}

    @property
    def bytes(self) -> int:
        """Bytes of the arrays that travel."""
        return sum(array.nbytes for arrays in self.records.values() for array in arrays.values())


def read(records: Mapping[str, Arrays], digests: Mapping[str, str], bases: Mapping[str, str]) -> Parcel:
    """Put a parcel together again from what arrived.

    Raises:
        KeyError, ValueError: it was not made by a `Parcel`.
    """
    if odd := [name for name in records if not name.startswith((WHOLE, DELTA))]:
        raise ValueError(f"record '{odd[0]}' is not known")
    coded = {name.removeprefix(DELTA): arrays for name, arrays in records.items() if name.startswith(DELTA)}
    return Parcel(
        whole={name.removeprefix(WHOLE): arrays for name, arrays in records.items() if name.startswith(WHOLE)},
        deltas={part: Delta(bases[part], digests[part], arrays) for part, arrays in coded.items()},
        digests=digests,
    )


def unpack(parcel: Parcel, held: Callable[[str, str], Arrays | None]) -> dict[str, Arrays]:
    """Give the parts of a parcel, each checked against its digest where it has one.

    Args:
        parcel: what arrived.
        held: gives a part by its name and digest, or None.

    Raises:
        MissingBase: a part that is not held is needed.
        WrongDigest: a part is not what was sent.
        ValueError: a part comes in two forms, or its difference does not fit what it starts from.
    """
    if twice := set(parcel.whole) & set(parcel.deltas):
        raise ValueError(f"part '{min(twice)}' comes in two forms")
    parts = dict(parcel.whole)
    for part, delta in parcel.deltas.items():
        parts[part] = apply_delta(_held(part, delta.base, held), delta.arrays)
    for part in set(parcel.digests) - set(parts):
        parts[part] = _held(part, parcel.digests[part], held)
    for part, wanted in parcel.digests.items():
        if digest(parts[part]) != wanted:
            raise WrongDigest(f"part '{part}' arrived with another digest: hub and site need the same version")
    return dict(sorted(parts.items()))


def answer(arrays: Mapping[str, Arrays], request: PhaseRequest) -> tuple[Parcel, dict[str, Arrays]]:
    """Make a reply's parts ready to travel: as differences to what the request sent, where it sent them.

    Returns:
        The parcel, and what the differences give, by digest: what the hub will hold.
    """
    whole: dict[str, Arrays] = {}
    deltas: dict[str, Delta] = {}
    kept: dict[str, Arrays] = {}
    for part, own in arrays.items():
        base = request.arrays.get(part)
        if request.payload == "full" or base is None or not _fits(base, own):
            whole[part] = own
            continue
        deltas[part], result = delta_between(base, own)
        kept[deltas[part].digest] = result
    return Parcel(whole, deltas, {part: delta.digest for part, delta in deltas.items()}), kept


def delta_between(base: Arrays, new: Arrays) -> tuple[Delta, dict[str, np.ndarray]]:
    """Code the difference of one version of a part from another, of the same names and shapes, float32 and finite.

    Returns:
        The difference, and `new` as it gives it: up to rounding.
    """
    values, exponents = [np.empty(0, np.float16)], []
    for name in sorted(base):
        difference = (new[name].astype(np.float64) - base[name]).ravel()
        difference[difference == 0] = -0.0  # x + -0.0 is x, also where x is -0.0: what did not change keeps its bytes
        exponent = int(np.frexp(np.abs(difference).max(initial=0.0))[1]) - TOP
        values.append(np.ldexp(difference, -exponent).astype(np.float16))
        exponents.append(exponent)
    arrays = {"values": np.concatenate(values), "exponents": np.array(exponents, np.int16)}
    result = apply_delta(base, arrays)
    return Delta(digest(base), digest(result), arrays), result


def apply_delta(base: Arrays, delta: Arrays) -> dict[str, np.ndarray]:
    """Apply a coded difference to `base`. Whoever does it gets the same bytes.

    Raises:
        ValueError: the difference is not whole, not finite, or not one of `base`.
    """
    names = sorted(base)
    sizes = [base[name].size for name in names]
    _check(base, delta, sum(sizes))
    pieces = np.split(delta["values"].astype(np.float64), np.cumsum(sizes))
    result = {}
    for name, piece, exponent in zip(names, pieces, delta["exponents"], strict=False):  # the last piece is empty
        moved = base[name] + np.ldexp(piece, exponent).reshape(base[name].shape)
        result[name] = np.asarray(np.clip(moved, -_LARGEST, _LARGEST), dtype=np.float32)
    return result


def digest(arrays: Arrays) -> str:
    """Give the SHA-256 of a part: names, types, shapes and bytes."""
    whole = sha256()
    for name, array in sorted(arrays.items()):
        whole.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def distance(one: Arrays, other: Arrays) -> float:
    """Give the Euclidean distance of two versions of a part."""
    total = sum(float(np.square(array.astype(np.float64) - other[name]).sum()) for name, array in one.items())
    return math.sqrt(total)


def _held(part: str, name: str, held: Callable[[str, str], Arrays | None]) -> Arrays:
    found = held(part, name)
    if found is None:
        raise MissingBase(f"part '{part}' of digest {name} is not here any more")
    return found


def _fits(base: Arrays, new: Arrays) -> bool:
    if set(base) != set(new):
        return False
    return all(base[n].shape == a.shape and base[n].dtype == a.dtype == np.float32 for n, a in new.items())


def _check(base: Arrays, delta: Arrays, size: int) -> None:
    if any(array.dtype != np.float32 for array in base.values()):
        raise ValueError("a part that is not float32 has no differences")
    if set(delta) != {"values", "exponents"}:
        raise ValueError("a difference is values and exponents, nothing else")
    values, exponents = delta["values"], delta["exponents"]
    if values.dtype != np.float16 or values.shape != (size,):
        raise ValueError(f"a difference of {values.dtype} {values.shape} for {size} weights")
    if exponents.dtype != np.int16 or exponents.shape != (len(base),):
        raise ValueError(f"exponents of {exponents.dtype} {exponents.shape} for {len(base)} tensors")
    if not np.isfinite(values).all() or ((exponents < -REACH) | (exponents > REACH)).any():
        raise ValueError("a difference that is not finite")
