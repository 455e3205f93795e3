"""Between Flower's records and the exchange types, the hub's half: requests go out, replies come in.

Which record holds what: `sst_models.wire.records`.
"""

from collections.abc import Mapping, MutableMapping
from hmac import compare_digest
from itertools import chain
from types import MappingProxyType
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from configs.phases import PHASES
from sst_models.wire import grammar, payload
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel
from sst_models.wire.receipts import Receipt
from sst_models.wire.records import decode_parcel, scalars, to_record

TYPES: Mapping[str, str] = MappingProxyType({phase.name: phase.message for phase in PHASES if phase.message})
"""Flower's message type of each phase that is asked of sites."""


NO_RECEIPT = Receipt("", "")


def encode_request(
    request: PhaseRequest,
    written: MutableMapping[int, ArrayRecord],
    parcel: Parcel | None = None,
    nonce: str = "",
    receipt: Receipt = NO_RECEIPT,
) -> RecordDict:
    """Write a request as records.

    Args:
        request: what to ask.
        written: records of parts that were written before, by the identity of the part's arrays, so that the same
            weights for many sites are serialised once. Keep the requests alive for as long as this mapping.
        parcel: the request's parts as they travel; all of them where there is none.
        nonce: a random text that the reply must bring back.
        receipt: for the last entry of the site's ledger.

    Raises:
        TypeError: an array of a type that does not travel.
    """
    meta = {name: getattr(request, name) for name in ("run", "phase", "round", "site", "experiment", "payload")}
    meta |= {"nonce": nonce, **receipt.as_meta()}
    content = RecordDict({"meta": ConfigRecord(meta), "settings": ConfigRecord(dict(request.settings))})
    parcel = Parcel(request.arrays) if parcel is None else parcel
    content["digests"], content["bases"] = ConfigRecord(dict(parcel.digests)), ConfigRecord(dict(parcel.bases))
    for name, arrays in parcel.records.items():
        if id(arrays) not in written:
            written[id(arrays)] = to_record(arrays)
        content[name] = written[id(arrays)]
    return content


ROOM = 1 << 20
"""Bytes of arrays that a reply may have beside as many as its request: headers of `.npy`, moments."""

MASKED = 1.25
"""Bytes of a masked weight beside those of one that was sent: 5 to 4."""

RECORDS = frozenset({"meta", "settings", "digests", "bases", "metrics", "series"})
"""The records of a reply that hold no arrays."""


class Malformed(ValueError):
    """A reply that is none of ours. Its text says nothing that came with the reply, so that it can be logged."""


def decode_reply(content: RecordDict, request: PhaseRequest, nonce: str = "") -> SiteReply:
    """Read what a site answers to `request`; the site's name is the one that the hub asked.

    Sizes are bounded first. What the reply says is its site's word, to be compared with the grammar (`server.vet`),
    except for the error code: it is one that a site may give.

    Raises:
        Malformed: it is larger than any reply, or says what no site says.
        KeyError, TypeError, ValueError: the message is not one of ours, or answers another request.
        FederationError: a part is not what the site sent (`payload.unpack`).
    """
    _check_size(content, request)
    meta: Mapping[str, Any] = content.config_records["meta"]
    if (meta["phase"], meta["round"]) != (request.phase, request.round):
        raise Malformed("it answers another phase or round")
    if not compare_digest(str(meta.get("nonce", "")).encode(), nonce.encode()):
        raise Malformed("it does not answer this request: its nonce is another one")
    if type(meta["count"]) is not int or meta["error"] not in {"", *grammar.REASONS}:
        raise Malformed("its count is no number, or its error code is none of a site's")
    return SiteReply(
        site=request.site,
        phase=request.phase,
        round=request.round,
        count=meta["count"],
        arrays=payload.unpack(decode_parcel(content), lambda part, _: request.arrays.get(part)),
        metrics=dict(sorted(content.metric_records["metrics"].items())),  # type: ignore[arg-type]
        series={key: _curve(values) for key, values in sorted(content.metric_records["series"].items())},
        settings=scalars(content.config_records.get("settings", {})),
        error=meta["error"],
    )


def ledger_head(content: RecordDict) -> str:
    """Give the hash of a reply's entry in its site's ledger, as far as it is one."""
    return Receipt.of(content.config_records["meta"]).head


def _check_size(content: RecordDict, request: PhaseRequest) -> None:
    """See that a reply is no larger than one can be, before anything of it is unpacked.

    Raises:
        Malformed: it is.
    """
    _check_words(content)
    sent = [array for part in request.arrays.values() for array in part.values()]
    records: list[ArrayRecord] = list(content.array_records.values())
    sizes = [len(array.data) for record in records for array in record.values()]
    numbers = [_length(each) for record in content.metric_records.values() for each in record.values()]
    if sum(numbers) > grammar.MOST_VALUES:
        raise Malformed("it holds more numbers than any reply")
    if len(records) > grammar.MOST_RECORDS or len(sizes) > len(sent) + grammar.MOST_RECORDS:
        raise Malformed("it holds more arrays than its request")
    if sum(sizes) > MASKED * sum(array.nbytes for array in sent) + ROOM:
        raise Malformed("its arrays have more bytes than those of its request")


def _check_words(content: RecordDict) -> None:
    words, numbers = content.config_records, content.metric_records
    entries = [*map(len, words.values()), *map(len, numbers.values())]
    if not {*words, *numbers} <= RECORDS or max(entries, default=0) > grammar.MOST_RECORDS:
        raise Malformed("it holds records or entries that no reply has")
    for key, value in chain.from_iterable(record.items() for record in words.values()):
        if not isinstance(value, str | int | float):
            raise Malformed("it holds a value that is none")
        if max(len(key), len(value) if isinstance(value, str) else 0) > grammar.MOST_LETTERS:
            raise Malformed("it holds a longer text than any reply")


def _length(numbers: object) -> int:
    return len(numbers) if isinstance(numbers, list) else 1


def _curve(values: object) -> tuple[float, ...]:
    if not isinstance(values, list):
        raise Malformed("a curve of it is none")
    return tuple(values)
