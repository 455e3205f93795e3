"""The site's Flower ClientApp: each message in, one message out, whatever happens between.

Flower starts a new process for each message, so this file imports nothing heavy; the phases do, where they need it.
It also never lets an exception out: Flower would put its text, and with it perhaps a patient's name, into a message to
the hub, and a handler that returns nothing would block the site's node for ever (docs/flower.md, finding 10).

A site says who it is in its node's config: `site-name`, `data-path` (one folder or several, separated as in PATH),
`state-dir`; it may add `gate-dir` (for what the gate alone writes; else a folder in the state's), `key` (its private
key, for secure sums), `policy` (a policy.toml), `splits` (a splits.tsv), `device`, `mask-pattern` and `strip` as `sst
prepare` takes them, and `bias`, "no" for scans whose bias field is out already. Flower's simulation gives a site
nothing but its number; then the JSON file named by the environment variable SST_SITES lists
`{"name", "data": [...], "state"}` and the same three by that number.
"""

import errno
import json
import logging
import os
import platform
import time
import traceback
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.answer import answer
from client.gate.confined import AppFailedError
from client.gate.gate import REFUSED, Answer, handle
from client.gate.policy import read_policy
from client.messages import decode_request, encode_reply, receipt_in, return_nonce, size
from client.preparation import Preparation, Stripping
from client.site import Site, read_salt
from configs import logs
from configs.errors import (
    ConfigError,
    DataError,
    DeclinedError,
    FederationError,
    RefusalError,
    ReleaseError,
    RunError,
    SstError,
    TooFewError,
)
from configs.phases import PHASES
from sst_models.wire import payload
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.records import decode_parcel

CODES: dict[type[Exception], str] = {
    ConfigError: "config",
    TooFewError: "too-few",
    DataError: "data",
    RefusalError: "refused",
    DeclinedError: "declined",
    ReleaseError: "release",
    payload.MissingBase: "base",
    payload.WrongDigest: "digest",
    FederationError: "mismatch",
    RunError: "state",
    SstError: "site",
    MemoryError: "memory",
}
"""What the hub hears in place of an exception; anything else is "internal". At "base" it sends all of a part."""

OPTIONS = ("gate-dir", "key", "policy", "splits", "device", "mask-pattern", "strip", "bias")
"""What a node's config may say beside the site's name and folders."""

LOG, STORY = "log.jsonl", "site.log"
"""In the gate's folder: start and end of each request; in full what went wrong."""

TOO_LATE = (
    "too late for this run: it has learnt the scanners' styles, and makes no model for this site; wait for the next"
)

MOST = 5_000_000
"""Bytes of `site.log`; the one before it is kept as `site.log.1`."""

CODE_FOLDERS = ("client", "configs", "sst_models")
"""The packages that run at a site."""


def respond(message: Message, context: Context, answer: Answer) -> Message:
    """Answer one message through the site's gate (`client.gate.gate`).

    Returns:
        A message, always: on any failure one with an error code, while the site's own log gets the whole story.
    """
    request = PhaseRequest(run="", phase="", round=0, site="", experiment="")
    gate: Path | None = None
    code = ""
    began = time.monotonic()
    try:
        request = decode_request(message.content)
        site = site_of(context)
        gate = site.gate
        _log(gate, "request started", request)
        travelled, receipt = partial(decode_parcel, message.content), receipt_in(message.content)
        content = encode_reply(*handle(request, receipt, travelled, site, _with_hello(answer)))
        if request.settings.get("late"):
            logs.note(gate / LOG, TOO_LATE, logging.WARNING, run=request.run)
    except Exception as error:
        _record(gate, request, error)
        code = code_of(error)
        content = encode_reply(SiteReply(request.site, request.phase, request.round, count=0, error=code))
    return_nonce(message.content, content)
    took, down, up = round(time.monotonic() - began, 3), size(message.content), size(content)
    _log(gate, "request finished", request, seconds=took, down=down, up=up, code=code)
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


def _with_hello(answer: Answer) -> Answer:
    return lambda request, site: _hello(request, site) if request.phase == "hello" else answer(request, site)


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
    named = ("policy", "splits", "gate-dir", "key")
    policy, splits, gate, own_key = (Path(given[key]) if given.get(key) else None for key in named)
    state = Path(given["state"])
    return Site(
        name=str(given["name"]),
        data=tuple(Path(folder) for folder in given["data"]),
        state=state,
        policy=read_policy(policy),
        splits=splits,
        device=str(given.get("device", "auto")),
        preparation=Preparation(
            bias=_yes("bias", given),
            mask=str(given.get("mask-pattern", "")),
            stripping=Stripping(str(given.get("strip", ""))),
        ),
        gate_folder=gate,
        key_file=own_key,
        salt=read_salt(gate or state / "gate"),
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


def code_of(error: Exception) -> str:
    """Give the code that stands for an exception."""
    if isinstance(error, AppFailedError):
        return error.code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk"
    return next((word for kind, word in CODES.items() if isinstance(error, kind)), "internal")


def _named(request: PhaseRequest) -> dict[str, str | int]:
    """Say which request; a hub may write any length."""
    return {"run": request.run[:64], "phase": request.phase[:64], "round": request.round}


def _log(gate: Path | None, event: str, request: PhaseRequest, **fields: object) -> None:
    if gate is not None:
        level = logging.WARNING if fields.get("code") else logging.INFO
        logs.note(gate / LOG, event, level, **_named(request), **fields)


def _record(gate: Path | None, request: PhaseRequest, error: Exception) -> None:
    """Write the whole story of a failure where only the site reads it; a refusal is a line of its own, too."""
    about = " ".join(f"{key}={value}" for key, value in _named(request).items())
    refused = isinstance(error, RefusalError)
    story = f"{about}\n{str(error) + chr(10) if refused else ''.join(traceback.format_exception(error))}"
    try:
        if gate is None:
            raise OSError("no folder is known")
        if refused:
            logs.note(gate / REFUSED, "refused", logging.WARNING, **_named(request), why=str(error))
        gate.mkdir(parents=True, exist_ok=True)
        path = gate / STORY
        if path.exists() and path.stat().st_size > MOST:
            path.replace(path.with_name(f"{STORY}.1"))
        with path.open("a", encoding="utf-8") as file:
            file.write(story)
    except OSError:
        logging.getLogger("client").error(story)  # the node's own output: it stays in the building, too


app = ClientApp()  # a plain assignment: Flower looks for it in the syntax tree
register(app, answer)
