"""What a site's SuperNode starts for each message: Flower's own command, with the gate in the place of the app.

Flower would unpack the bundle that the hub sends and run it in its own process, which holds the connection. Here the
bundle's digest is held against the approved one, its unpacked files against their list, and the app runs as a process
of its own (`client.gate.confined`). What is loaded in this process is this site's installation alone.

SST_SITE names the site's folder.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from client import app as site_app
from client.gate.confined import Confined
from client.home import Home
from configs import guard

RUNNER, COMMAND = "flwr.supernode.runtime.run_clientapp", "flwr.supernode.cli:flwr_clientapp"


def main() -> None:
    """Run Flower's command with the gate in it."""
    guard.end_with_parent()
    os.umask(0o077)  # what gate and app write, scans that were prepared for one, is for their user alone
    home = Home(Path(os.environ["SST_SITE"]))
    runner: Any = import_module(RUNNER)
    runner.install_from_fab = guard.checked(home.approved, home.flower, home.refused, install=None)
    runner.get_load_client_app_fn = lambda *_, **__: loader(home)
    sys.argv[0] = "flwr-clientapp"
    guard.named(COMMAND)()


def loader(home: Home) -> Callable[..., ClientApp]:
    """Give what Flower calls to load an app: whatever it is called with, it gives the gate around the approved one."""
    settings = home.settings
    tools = tuple(place for place in settings.tools.split(os.pathsep) if place)
    answer = Confined(home.app, tools, confined=settings.sandbox == "required")
    return lambda *_, **__: site_app.register(ClientApp(), answer)


if __name__ == "__main__":
    main()
