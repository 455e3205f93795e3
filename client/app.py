"""The site's Flower ClientApp: each message in, one message out, whatever happens between.

Flower starts a new process for each message, so this file imports nothing heavy; the phases do, where they need it.
It also never lets an exception out: Flower would put its text, and with it perhaps a patient's name, into a message to
the hub, and a handler that returns nothing would block the site's node for ever (docs/flower.md, finding 10).

A site says who it is in its node's config: `site-name`, `data-path` (one folder or several, separated as in PATH),
`state-dir`; it may add `policy` (a policy.toml), `splits` (a splits.tsv), `device`, `mask-pattern` and `strip` as
`sst prepare` takes them, and `bias`, "no" for scans whose bias field is out already. Flower's simulation gives a site
nothing but its number; then the JSON file named by the environment variable SST_SITES lists `{"name", "data": [...],
"state"}` and the same three by that number.
"""

import errno
import json
import logging
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.answer import answer
from client.gate import ledger, release, replies
from client.gate.policy import read_policy
from client.kept import Kept
from client.messages import decode_request, encode_reply, return_nonce, size
from client.preparation import Preparation, Stripping
from client.site import Site
from configs import logs
from configs.errors import ConfigError, DataError, FederationError, ReleaseError, RunError, SstError
from configs.phases import PHASES
from sst_models.wire import payload
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.records import decode_parcel

Answer = Callable[[PhaseRequest, Site], SiteReply]

CODES: dict[type[Exception], str] = {
    ConfigError: "config",
    DataError: "data",
    ReleaseError: "release",
    payload.MissingBase: "base",
    payload.WrongDigest: "digest",
    FederationError: "mismatch",
    RunError: "state",
    SstError: "site",
    MemoryError: "memory",
}
"""What the hub hears in place of an exception; anything else is "internal". At "base" it sends all of a part."""

OPTIONS = ("policy", "splits", "device", "mask-pattern", "strip", "bias")
"""What a node's config may say beside the site's name and folders."""

LOG = "log.jsonl"
"""In the site's state folder: start and end of each request; `site.log` has in full what went wrong."""

CODE_FOLDERS = ("client", "configs", "sst_models")
"""The packages that run at a site."""


def respond(message: Message, context: Context, answer: Answer) -> Message:
    """Answer one message: from the reply cache or by `answer`, then release check, coding, ledger entry, reply.

    Returns:
        A message, always: on any failure one with an error code, while the site's own log gets the whole story.
    """
    request = PhaseRequest(run="", phase="", round=0, site="", experiment="")
    state: Path | None = None
    code = ""
    began = time.monotonic()
    try:
        request = decode_request(message.content)
        site = site_of(context)
        state = site.state
        _log(state, "request started", request)
        content = _release(message.content, request, site, answer)
    except Exception as error:
        _record(state, request, error)
        code = _code(error)
        content = encode_reply(SiteReply(request.site, request.phase, request.round, count=0, error=code))
    return_nonce(message.content, content)
    took, down, up = round(time.monotonic() - began, 3), size(message.content), size(content)
    _log(state, "request finished", request, seconds=took, down=down, up=up, code=code)
    return Message(content, reply_to=message)


def register(app: ClientApp, answer: Answer) -> ClientApp:
    """Let `app` answer every phase by `answer`."""

    def handle(message: Message, context: Context) -> Message:
        return respond(message, context, answer)

    for phase in PHASES:
        if phase.message:
            category, _, action = phase.message.partition(".")
            getattr(app, category)(action)(handle)
    return app


def site_of(context: Context) -> Site:
    """Find out which site this process is.

    Raises:
        ConfigError: the node's config is incomplete, or SST_SITES does not list it.
    """
    own = context.node_config
    if "site-name" not in own:
        return _site(_listed(own.get("partition-id")))
    missing = [key for key in ("data-path", "state-dir") if key not in own]
    if missing:
        raise ConfigError(f"the node's config has no '{missing[0]}': add it to --node-config")
    given = {"name": own["site-name"], "data": str(own["data-path"]).split(os.pathsep), "state": own["state-dir"]}
    return _site(given | {key: own[key] for key in OPTIONS if key in own})


def code_digest(root: Path) -> str:
    """Give the SHA-256 of all Python files that run at a site, below `root`."""
    digest = sha256()
    for path in sorted(path for folder in CODE_FOLDERS for path in (root / folder).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _release(content: RecordDict, request: PhaseRequest, site: Site, answer: Answer) -> RecordDict:
    release.permit(request, site.policy)
    held = Kept(site.folder(request.run) / "parts")
    request = replace(request, arrays=_received(content, held))
    folder, key = site.state / "replies", replies.key_of(request)
    kept = replies.recall(folder, key)
    reply = kept or replace(_answer(request, site, answer), site=request.site)
    release.check(reply, request, site.policy)
    if kept is None and request.phase != "hello" and not reply.error:
        replies.remember(folder, key, reply)
    parcel, results = payload.answer(reply.arrays, request)
    for digest, arrays in results.items():
        held.remember(digest, arrays)
    ledger.append(site.state / ledger.NAME, request, reply, parcel)
    return encode_reply(reply, parcel)


def _received(content: RecordDict, held: Kept) -> dict[str, Arrays]:
    """Unpack the request's parts, and keep those that the hub will come back to."""
    parcel = decode_parcel(content)
    parts = payload.unpack(parcel, held.recall)
    for part in {*parcel.whole, *parcel.deltas} & set(parcel.digests):
        held.remember(parcel.digests[part], parts[part])
    return parts


def _answer(request: PhaseRequest, site: Site, answer: Answer) -> SiteReply:
    return _hello(request, site) if request.phase == "hello" else answer(request, site)


def _hello(request: PhaseRequest, site: Site) -> SiteReply:
    settings = {
        "name": site.name,
        "code": code_digest(Path(__file__).parent.parent),
        "flwr": version("flwr"),
        "python": platform.python_version(),
        "torch": version("torch").split("+")[0],
    }
    return SiteReply(request.site, request.phase, request.round, count=0, settings=settings)


def _site(given: Mapping[str, Any]) -> Site:
    policy, splits = (Path(given[key]) if given.get(key) else None for key in ("policy", "splits"))
    return Site(
        name=str(given["name"]),
        data=tuple(Path(folder) for folder in given["data"]),
        state=Path(given["state"]),
        policy=read_policy(policy),
        splits=splits,
        device=str(given.get("device", "auto")),
        preparation=Preparation(
            bias=_yes("bias", given),
            mask=str(given.get("mask-pattern", "")),
            stripping=Stripping(str(given.get("strip", ""))),
        ),
    )


def _yes(key: str, given: Mapping[str, Any]) -> bool:
    word = given.get(key, "yes")
    if word not in ("yes", "no"):
        raise ConfigError(f'the node\'s config says {key}={word!r}; give "yes" or "no"')
    return bool(word == "yes")


def _listed(number: object) -> dict[str, Any]:
    listing = os.environ.get("SST_SITES", "")
    if number is None or not listing:
        raise ConfigError("this node does not say which site it is: set site-name, data-path and state-dir")
    try:
        sites = json.loads(Path(listing).read_text(encoding="utf-8"))
        return dict(sites[int(str(number))])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"SST_SITES does not list site number {number}") from error


def _code(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk"
    return next((word for kind, word in CODES.items() if isinstance(error, kind)), "internal")


def _log(state: Path | None, event: str, request: PhaseRequest, **fields: object) -> None:
    if state is not None:
        level = logging.WARNING if fields.get("code") else logging.INFO
        logs.note(state / LOG, event, level, run=request.run, phase=request.phase, round=request.round, **fields)


def _record(state: Path | None, request: PhaseRequest, error: Exception) -> None:
    """Write the whole story of a failure where only the site reads it."""
    story = (
        f"run={request.run} phase={request.phase} round={request.round}\n{''.join(traceback.format_exception(error))}"
    )
    try:
        if state is None:
            raise OSError("no state folder is known")
        state.mkdir(parents=True, exist_ok=True)
        with (state / "site.log").open("a", encoding="utf-8") as file:
            file.write(story)
    except OSError:
        logging.getLogger("client").error(story)  # the node's own output: it stays in the building, too


app = ClientApp()  # a plain assignment: Flower looks for it in the syntax tree
register(app, answer)
