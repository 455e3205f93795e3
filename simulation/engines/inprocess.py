"""The embedded engine: both apps in this process and thread, joined by a `Grid` of our own.

A message runs when its reply is pulled, so one reply is in memory at a time. The private parts of Flower that this
needs (its task identity, and the two abstract members that only old apps call) are in this file alone.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from configs.errors import SstError
from simulation.engines import SiteFolder, environment, failure

RUN_ID = 1
HUB_NODE = 1  # the node id of a SuperLink

Fault = Callable[[str, Message], int | None]
"""Given a site's name and a message, Flower's error code to answer with, or None to go on as usual."""


class InProcessGrid(Grid):
    """Flower's `Grid` over ClientApps in this process: node 2 is the first site, and so on."""

    def __init__(
        self,
        app: ClientApp,
        configs: Mapping[str, Mapping[str, str]],
        fault: Fault | None = None,
        registered: bool = True,
    ) -> None:
        """Join `app` once per site.

        Args:
            app: the ClientApp, the same for all sites.
            configs: node config by the name of the site.
            fault: makes messages fail, for tests.
            registered: are the names known to the grid, or must the hub ask for them?
        """
        self._app, self._fault, self._registered = app, fault, registered
        self._contexts = {
            number: Context(RUN_ID, number, dict(config), RecordDict(), {})
            for number, config in enumerate(configs.values(), start=HUB_NODE + 1)
        }
        self._names = dict(zip(self._contexts, configs, strict=True))
        self._open: dict[str, Message] = {}
        self._pushed = 0
        self._run = Run.create_empty(RUN_ID)

    def set_run(self, run: Run) -> None:
        """Take a run; there is one here."""
        self._run = run

    @property
    def run(self) -> Run:
        """Give the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message; deprecated in Flower, but still abstract."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Give the ids of all sites' nodes."""
        return list(self._contexts)

    def get_nodes(self) -> list[NodeInfo]:
        """Give all sites' nodes, with their names where these are registered."""
        names = self._names.items()
        return [NodeInfo(node_id=number, name=name if self._registered else "") for number, name in names]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages; each runs when its reply is pulled."""
        ids = []
        for message in messages:
            self._pushed += 1
            ids.append(f"message-{self._pushed}")
            message.metadata.__dict__["_message_id"] = ids[-1]  # Flower has no public way to set it
            self._open[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Run the messages and give their replies."""
        return [self._answer(self._open.pop(one)) for one in message_ids if one in self._open]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        number = message.metadata.dst_node_id
        if number not in self._contexts:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE), reply_to=message)
        code = self._fault(self._names[number], message) if self._fault else None
        if code is not None:
            return Message(Error(code), reply_to=message)
        # A site may take entries out of its message; the arrays themselves are shared, not copied.
        own = RecordDict({name: record.copy() for name, record in message.content.items()})
        try:
            reply = self._app(make_message(message.metadata, own), self._contexts[number])
        except Exception as error:
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(type(error))), reply_to=message)
        return Message(reply.content, reply_to=message) if reply.has_content() else reply


def play(hub: Path, sites: Sequence[SiteFolder], work: Path) -> None:
    """Run the hub's experiment over the sites in this process (see `run_federation`).

    Raises:
        FederationError: the run failed.
    """
    from client.app import app as client_app
    from server.app import app as server_app

    with _variables(environment(hub, sites, work)), identity():
        grid = InProcessGrid(client_app, {site.name: node_config(site) for site in sites})
        try:
            server_app(grid, Context(RUN_ID, HUB_NODE, {}, RecordDict(), {}))
        except SstError as error:
            raise failure(hub, str(error)) from error


def node_config(site: SiteFolder) -> dict[str, str]:
    """Give the node config of a site, as its SuperNode would be given it."""
    return {
        "site-name": site.name,
        "data-path": os.pathsep.join(str(folder.resolve()) for folder in site.data),
        "state-dir": str(site.state.resolve()),
        **site.options(),
    }


@contextmanager
def identity() -> Iterator[None]:
    """Say who makes messages here: outside Flower's own processes `Message()` needs to be told."""
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, HUB_NODE, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
