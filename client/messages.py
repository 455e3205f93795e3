"""Between Flower's records and the exchange types, the site's half: requests come in, replies go out.

Which record holds what: `sst_models.wire.records`.
"""

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel
from sst_models.wire.receipts import Receipt
from sst_models.wire.records import decode_parcel, scalars, to_record


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
        settings=scalars(content.config_records.get("settings", {})),
        payload=str(meta["payload"]),
    )


def receipt_in(content: RecordDict) -> Receipt:
    """Read the hub's receipt for the last entry of this site's ledger."""
    return Receipt.of(content.config_records["meta"])


def encode_reply(reply: SiteReply, parcel: Parcel | None = None, head: str = "") -> RecordDict:
    """Write a reply as records.

    Args:
        reply: what to write.
        parcel: its parts as they are to travel; all of them as they are where there is none.
        head: hash of its entry in the ledger.

    Raises:
        TypeError: an array of a type that does not travel.
    """
    meta = {name: getattr(reply, name) for name in ("site", "phase", "round", "count", "error")}
    meta["ledger"] = head
    content = RecordDict({"meta": ConfigRecord(meta), "settings": ConfigRecord(dict(reply.settings))})
    content["metrics"] = MetricRecord(dict(reply.metrics))
    content["series"] = MetricRecord({key: list(values) for key, values in reply.series.items()})
    parcel = Parcel(reply.arrays) if parcel is None else parcel
    content["digests"], content["bases"] = ConfigRecord(dict(parcel.digests)), ConfigRecord(dict(parcel.bases))
    for name, arrays in parcel.records.items():
        content[name] = to_record(arrays)
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
