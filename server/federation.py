"""The hub's only way to its sites: ask, and fold the replies in one by one.

`Federation` is what the hub's loop sees. `GridFederation` does it over Flower's `Grid`, with what Flower's own loop
lacks: one reply in memory at a time, a deadline, and asking again where a message or its reply can get lost
(docs/flower.md, finding 9).
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from types import MappingProxyType
from typing import Protocol

from flwr.app import ArrayRecord, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from configs.errors import FederationError
from configs.phases import phase_of
from server.holdings import Holdings
from server.messages import NO_RECEIPT, TYPES, Malformed, decode_reply, encode_request, ledger_head
from server.receipts import Receipts
from sst_models.wire import grammar
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel, WrongDigest
from sst_models.wire.records import decode_parcel

log = logging.getLogger(__name__)

# Flower's error codes (`flwr.common.constant.ErrorCode`) as the error code that a reply's `error` holds.
CODES = MappingProxyType(
    {1: "load", 2: "raised", 3: "lost", 4: "lost", 5: "unavailable", 6: "mod", 7: "bundle", 8: "crashed"}
)
ASK_AGAIN = frozenset({3, 5, 8})
"""Lost on the way, node away, client process killed. Code 2 is the site's own no: never asked again."""

MARGIN = 30.0  # seconds that a message outlives its deadline, so that the hub's clock decides, not Flower's
HELLO = 120.0  # seconds that a node has to say its name: process start and imports, 6 to 9 s on a slow machine


@dataclass(frozen=True)
class Traffic:
    """Bytes of arrays as they travelled: down to a site with one request (repeats counted), and up from it."""

    phase: str
    round: int
    site: str
    down: int
    up: int


@dataclass(frozen=True)
class Late:
    """A reply that came after its deadline."""

    phase: str
    round: int
    site: str


class Federation(Protocol):
    """What the hub's loop sees of its sites."""

    traffic: list[Traffic]
    late: list[Late]  # replies that came after their deadline and do not count, until somebody takes them out

    def sites(self) -> tuple[str, ...]:
        """Give the names of the sites that are there, sorted."""
        ...

    def ask(self, requests: Sequence[PhaseRequest]) -> Iterator[SiteReply]:
        """Ask all at once; give one reply per request, in the order of the requests.

        A site that failed or did not answer in time gives a reply whose `error` is a code. A reply is freed as soon
        as the caller lets it go, so memory does not grow with the number of sites.
        """
        ...

    def begin(self, requests: Sequence[PhaseRequest], deadline: float) -> None:
        """Ask, and wait for nothing: `answered` has the replies when they are there, within `deadline` seconds."""
        ...

    def answered(self) -> list[SiteReply]:
        """Give the replies that have come to what was begun; where a site failed, with an error as `ask` gives it."""
        ...


@dataclass
class _Open:
    """A request under way. It has one message, or several where it was asked again."""

    request: PhaseRequest
    asked: float  # time.monotonic() of the last push
    deadline: float  # seconds
    nonce: str = field(default_factory=lambda: token_hex(16))  # a reply must bring it: nobody else's, no older one does
    node: int = 0
    activated: str = ""  # the node's last_activated_at at the last push
    messages: list[str] = field(default_factory=list)
    pushes: int = 0
    whole: bool = False  # the site lacked what a difference starts from: send all
    sent: Parcel = Parcel()
    down: int = 0  # bytes
    up: int = 0
    away_since: float | None = None


class GridFederation:
    """A federation over Flower's `Grid`."""

    def __init__(
        self,
        grid: Grid,
        deadline_s: float,
        retries: int = 3,
        patience_s: float = 180.0,
        kept: Path | None = None,
        receipts: Receipts | None = None,
    ) -> None:
        """Use `grid`.

        Args:
            grid: Flower's grid, of any engine.
            deadline_s: seconds that a site has for one request; a repeated request starts anew.
            retries: how often a lost request is sent again.
            patience_s: seconds to wait for a node that went away; Flower lets a crashed one back after 60.
            kept: file for what each site holds, so that a hub that is started again goes on with differences; or None.
            receipts: for the last entries of the sites' ledgers, or None.
        """
        self.traffic: list[Traffic] = []
        self.late: list[Late] = []
        self._beside: list[_Open] = []  # what was begun and is not answered
        self._overdue: dict[str, PhaseRequest] = {}  # by message
        self._holdings, self._receipts = Holdings(kept), receipts
        self._grid, self._deadline, self._retries, self._patience = grid, deadline_s, retries, patience_s
        self._called: dict[int, str] = {}  # names that unregistered nodes gave in their hello
        self._watched = 0.0

    def sites(self) -> tuple[str, ...]:
        """Give the names of the sites that are there, sorted."""
        return tuple(sorted(self._nodes()))

    def wait(self, expected: int, seconds: float) -> tuple[str, ...]:
        """Wait until `expected` sites are there, and give their names.

        Raises:
            FederationError: fewer came in time.
        """
        end = time.monotonic() + seconds
        while len(names := self.sites()) < expected:
            if time.monotonic() > end:
                raise FederationError(
                    f"{len(names)} of {expected} sites came within {seconds:.0f} s ({', '.join(names) or 'none'}): "
                    "start the others, or look into their site.log"
                )
            time.sleep(1.0)
        return names

    def ask(self, requests: Sequence[PhaseRequest]) -> Iterator[SiteReply]:
        """Ask all sites at once; give the replies one by one, in the order of the requests."""
        nodes = self._nodes({request.site for request in requests})
        underway = [_Open(request, time.monotonic(), self._deadline) for request in requests]
        self._push([one for one in underway if one.request.site in nodes], nodes)
        return self._replies(underway)

    def begin(self, requests: Sequence[PhaseRequest], deadline: float) -> None:
        """Ask beside the rounds: nothing waits for the replies."""
        nodes = self._nodes({request.site for request in requests}) if requests else {}
        begun = [_Open(request, time.monotonic(), deadline) for request in requests]
        self._push([one for one in begun if one.request.site in nodes], nodes)
        self._beside += begun

    def answered(self) -> list[SiteReply]:
        """Give the replies that have come to what was begun, with each site that failed or took too long."""
        self._watch([])
        replies = []
        for one in list(self._beside):
            reply = self._look(one)
            if reply is not None:
                self._beside.remove(one)
                self._note(reply, one)
                replies.append(reply)
        if replies:
            self._holdings.save()
        return replies

    def _replies(self, underway: list[_Open]) -> Iterator[SiteReply]:
        while underway:
            one = underway[0]
            reply = self._wait_for(one, underway)
            self._note(reply, one)
            underway.pop(0)
            if not underway:
                self._holdings.save()
            yield reply
            del reply  # else it would live while the next one is unpacked

    def _wait_for(self, one: _Open, underway: list[_Open]) -> SiteReply:
        pause = 0.05
        while True:
            reply = self._look(one)
            if reply is not None:
                return reply
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)
            self._watch(underway)

    def _look(self, one: _Open) -> SiteReply | None:
        """Give the request's reply if it is there, or cannot be expected any more."""
        reply = self._poll(one)
        if reply is not None:
            return reply
        if time.monotonic() - one.asked > one.deadline:
            self._overdue |= dict.fromkeys(one.messages, _bare(one.request))
            return _failed(one.request, "deadline")
        if not one.messages and not self._ask_again(one):
            return _failed(one.request, "unavailable")
        return None

    def _note(self, reply: SiteReply, one: _Open) -> None:
        self.traffic.append(Traffic(reply.phase, reply.round, reply.site, one.down, one.up))
        _log(reply, time.monotonic() - one.asked, one)

    def _poll(self, one: _Open) -> SiteReply | None:
        """Give the request's reply if one is there; forget messages that came back as lost."""
        for message_id in list(one.messages):
            for message in self._grid.pull_messages([message_id]):
                if message.has_content():
                    reply = self._taken(message, one)
                    if reply.error != "base":
                        return reply
                    if one.whole:  # which lacks nothing: without an end, it would be sent for ever
                        return _failed(one.request, "malformed")
                    self._send_whole(one)
                    return None
                one.messages.remove(message_id)
                code = message.error.code
                if one.messages:
                    continue  # an older message; a newer one is still open
                if code not in ASK_AGAIN or one.pushes > self._retries:
                    return _failed(one.request, CODES.get(code, "unknown"))
                log.warning("ask again site=%s phase=%s code=%d", one.request.site, one.request.phase, code)
        return None

    def _taken(self, message: Message, one: _Open) -> SiteReply:
        """Read a reply; what it and its request brought, the site holds from now on."""
        reply = _decoded(message, one.request, one.nonce)
        if not reply.error:
            parcel = decode_parcel(message.content)
            one.up += parcel.bytes
            self._holdings.note(one.request, [*one.sent.digests.values(), *parcel.digests.values()])
            if self._receipts is not None:
                self._receipts.take(one.request.site, ledger_head(message.content))
        return reply

    def _send_whole(self, one: _Open) -> None:
        """Send a request again at once, with all of each part; this counts as no try."""
        log.info("send whole site=%s phase=%s", one.request.site, one.request.phase)
        self._holdings.forget(one.request)
        one.whole, one.asked, one.pushes = True, time.monotonic(), one.pushes - 1
        one.messages.clear()
        self._ask_again(one)

    def _ask_again(self, one: _Open) -> bool:
        """Send a lost request to wherever its site is now; False once the site was away for too long."""
        if one.pushes > self._retries:
            return False
        now = time.monotonic()
        one.away_since = one.away_since or now
        nodes = self._nodes({one.request.site})
        if one.request.site in nodes:
            self._push([one], nodes)
            one.away_since = None
        return one.away_since is None or now - one.away_since < self._patience

    def _watch(self, underway: list[_Open]) -> None:
        """Ask again where a node restarted: its message was claimed by the old process and is lost in silence."""
        now = time.monotonic()
        if now - self._watched < 5.0:
            return
        self._watched = now
        self._discard_late()
        activated = {node.node_id: node for node in self._grid.get_nodes()}
        for one in (*underway, *self._beside):
            node = activated.get(one.node)
            if node and node.last_activated_at != one.activated and one.messages and one.pushes <= self._retries:
                log.warning("ask again site=%s phase=%s: node restarted", one.request.site, one.request.phase)
                self._push([one], {one.request.site: node})

    def _discard_late(self) -> None:
        """Take replies that came after their deadline out of Flower's hands, and note them; nothing else is done."""
        for message_id, request in list(self._overdue.items()):
            for message in self._grid.pull_messages([message_id]):
                del self._overdue[message_id]
                if message.has_content():
                    log.warning("late reply discarded site=%s phase=%s", request.site, request.phase)
                    self.late.append(Late(request.phase, request.round, request.site))

    def _push(self, some: list[_Open], nodes: dict[str, NodeInfo]) -> None:
        if not some:
            return
        written: dict[int, ArrayRecord] = {}
        digests: dict[int, str] = {}
        for one in some:
            one.sent = self._holdings.pack(one.request, digests, one.whole)
        messages = [self._message(one, nodes[one.request.site].node_id, written) for one in some]
        ids = list(self._grid.push_messages(messages)) or [""] * len(messages)  # none: Flower found them too large
        for one, message_id in zip(some, ids, strict=True):
            node = nodes[one.request.site]
            one.node, one.activated, one.asked = node.node_id, node.last_activated_at, time.monotonic()
            one.pushes, one.down = one.pushes + 1, one.down + one.sent.bytes
            if message_id:
                one.messages.append(message_id)

    def _message(self, one: _Open, node: int, written: dict[int, ArrayRecord]) -> Message:
        request = one.request
        receipt = self._receipts.of(request.site) if self._receipts else NO_RECEIPT
        content = encode_request(request, written, one.sent, one.nonce, receipt)
        return Message(content, node, TYPES[request.phase], ttl=one.deadline + MARGIN, group_id=str(request.round))

    def _nodes(self, wanted: set[str] | None = None) -> dict[str, NodeInfo]:
        """Map the name of each site that is there to its node; nodes without a registered name are asked."""
        there = list(self._grid.get_nodes())
        names = {node.node_id: node.name for node in there}
        if not any(names.values()):  # else keys are registered, and a node without a name has no business here
            names |= {node: name for node, name in self._called.items() if node in names}
            strangers = [node for node in there if not names[node.node_id]]
            if strangers and not (wanted and wanted <= set(names.values())):
                names |= self._greet(strangers)
        named = [(names[node.node_id], node) for node in there if names[node.node_id]]
        # A node that came back under a new id is listed twice for up to a minute: the last one counts.
        return dict(sorted(named, key=lambda pair: (pair[0], pair[1].last_activated_at)))

    def _greet(self, strangers: list[NodeInfo]) -> dict[int, str]:
        greeting = PhaseRequest(run="", phase="hello", round=0, site="", experiment="")
        ids = self._grid.push_messages(
            [Message(encode_request(greeting, {}), n.node_id, TYPES["hello"], ttl=HELLO) for n in strangers]
        )
        waiting = dict(zip(ids, strangers, strict=True))
        end = time.monotonic() + HELLO
        while waiting and time.monotonic() < end:
            for message in list(self._grid.pull_messages(list(waiting))):
                node = waiting.pop(message.metadata.reply_to_message_id)
                self._called |= _name_in(message, greeting, node)
            if waiting:
                time.sleep(0.5)
        return dict(self._called)


def _name_in(message: Message, greeting: PhaseRequest, node: NodeInfo) -> dict[int, str]:
    reply = _decoded(message, greeting) if message.has_content() else _failed(greeting, "silent")
    found = grammar.fault(reply, phase_of("hello"))
    name = str(reply.settings.get("name", ""))
    if found or not name:
        log.warning("node=%d does not say its name code=%s", node.node_id, found.code if found else reply.error)
        return {}
    log.info("hello node=%d site=%s versions=%s", node.node_id, name, dict(reply.settings))
    return {node.node_id: name}


def _decoded(message: Message, request: PhaseRequest, nonce: str = "") -> SiteReply:
    try:
        return decode_reply(message.content, request, nonce)
    except WrongDigest:
        log.warning("damaged reply site=%s phase=%s", request.site, request.phase)
        return _failed(request, "digest")
    except Exception as error:  # a peer chose these bytes; numpy alone has half a dozen ways to refuse them
        why = str(error) if isinstance(error, Malformed) else type(error).__name__  # whose text may quote the peer
        log.warning("malformed reply site=%s phase=%s: %s", request.site, request.phase, why)
        return _failed(request, "malformed")


def _bare(request: PhaseRequest) -> PhaseRequest:
    """Give a request without its weights, to remember it by."""
    return replace(request, arrays={})


def _log(reply: SiteReply, seconds: float, one: _Open) -> None:
    line = "reply site=%s phase=%s round=%d seconds=%.3f down=%d up=%d code=%s"
    values = (reply.site, reply.phase, reply.round, seconds, one.down, one.up, reply.error)
    log.log(logging.WARNING if reply.error else logging.INFO, line, *values)


def _failed(request: PhaseRequest, error: str) -> SiteReply:
    return SiteReply(request.site, request.phase, request.round, count=0, error=error)
