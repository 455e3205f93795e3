"""Between Flower's records and the exchange types, the hub's half: requests go out, replies come in.

Which record holds what: `sst_models.wire.records`.
"""

from collections.abc import Mapping, MutableMapping
from hmac import compare_digest
from types import MappingProxyType
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from configs.phases import PHASES
from sst_models.wire import payload
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel
from sst_models.wire.records import decode_parcel, scalars, to_record

TYPES: Mapping[str, str] = MappingProxyType({phase.name: phase.message for phase in PHASES if phase.message})
"""Flower's message type of each phase that is asked of sites."""


def encode_request(
    request: PhaseRequest, written: MutableMapping[int, ArrayRecord], parcel: Parcel | None = None, nonce: str = ""
) -> RecordDict:
    """Write a request as records.

    Args:
        request: what to ask.
        written: records of parts that were written before, by the identity of the part's arrays, so that the same
            weights for many sites are serialised once. Keep the requests alive for as long as this mapping.
        parcel: the request's parts as they travel; all of them where there is none.
        nonce: a random text that the reply must bring back.

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
            written[id(arrays)] = to_record(arrays)
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
        settings=scalars(content.config_records.get("settings", {})),
        error=str(meta["error"]),
    )


def _metrics(content: RecordDict, name: str) -> Mapping[str, Any]:
    return content.metric_records[name]
