"""The hub's Flower ServerApp: wait for the sites, run the experiment of the hub's folder, say how it ended.

The process that starts ServerApps gets three environment variables: SST_HUB, the hub's folder (`experiment.json`, the
atlas, the state of the run); SST_SITES_EXPECTED, how many sites must be there before the run starts (1);
SST_SITES_WAIT, for how many seconds to wait for them (600); and SST_QUORUM_WAIT, for how many seconds a round waits for
its quorum (0). They are not run config, which every site could read.
"""

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from configs import logs
from configs.errors import ConfigError, RunError, SstError
from configs.schema import from_json
from server.federation import Federation, GridFederation
from server.receipts import Receipts
from sst_models.training.memory import keep_freed_on
from sst_models.wire.files import lock, replace_file

FAILED, HOLDINGS = "failed.json", "holdings.json"

TRIES = 5
"""Times that the lock on the hub's folder is asked for, 0.2 s apart."""
"""In the hub's folder after a run that failed: `{"code", "message"}`. A run that starts removes an old one."""

log = logging.getLogger(__name__)

Run = Callable[[Path, Federation], object]


def serve(grid: Grid, run: Run) -> None:
    """Run the experiment of SST_HUB over `grid`; one run at a time works in a hub's folder.

    Raises:
        SstError: why the run cannot go on; its line is also in the hub's folder.
    """
    hub = Path(_variable("SST_HUB", ""))
    with _alone(hub), logs.kept(hub / "logs" / "hub.jsonl", "server"):
        (hub / FAILED).unlink(missing_ok=True)
        try:
            experiment = from_json(_read(hub / "experiment.json"))
            keep_freed_on(experiment.grid.shape)
            deadline, receipts = experiment.federation.deadline, Receipts(hub)
            federation = GridFederation(grid, deadline, kept=hub / HOLDINGS, receipts=receipts)
            if not (hub / "members.json").exists():  # else the run goes on, and each round waits for whom it needs
                federation.wait(_number("SST_SITES_EXPECTED", "1"), _number("SST_SITES_WAIT", "600"))
            run(hub, federation)
        except Exception as error:
            shown = _full(error, hub)
            known = isinstance(shown, SstError)
            message = str(shown) if known else f"{type(shown).__name__}: {shown}"
            log.error("run failed: %s", message)
            code = type(shown).__name__ if known else "internal"
            with suppress(OSError):  # a full disk must not hide why
                replace_file(hub / FAILED, json.dumps({"code": code, "message": message}))
            if shown is error:
                raise
            raise shown from error


@contextmanager
def _alone(hub: Path) -> Iterator[None]:
    """Keep a second run out of the hub's folder, which somebody on the hub's machine may have submitted.

    Raises:
        RunError: another run works there.
    """
    if not hub.is_dir():
        raise RunError(f"{hub} is no folder: SST_HUB must name a hub's folder")
    folder = os.open(hub, os.O_RDONLY)  # the lock is on the folder itself, and ends with the process
    try:
        for left in range(TRIES, 0, -1):  # `sst hub start` looks at the lock, too, for an instant
            try:
                lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB, hub)
                break
            except BlockingIOError as error:
                if left == 1:
                    raise RunError(f"another run works in {hub}; stop it, or wait for it") from error
                time.sleep(0.2)
        yield
    finally:
        os.close(folder)


def _full(error: Exception, hub: Path) -> Exception:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"the disk of {hub} is full: make room, then sst hub resume; nothing of a finished round is lost"
        )
    return error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be read: SST_HUB must name a folder with an experiment.json") from error


def _variable(name: str, default: str) -> str:
    value = os.environ.get(name, default)
    if not value:
        raise ConfigError(f"{name} is not set: give it to the process that starts ServerApps")
    return value


def _number(name: str, default: str) -> int:
    value = _variable(name, default)
    if not value.isdecimal():
        raise ConfigError(f"{name} must be a whole number, not '{value}'")
    return int(value)


app = ServerApp()  # a plain assignment: Flower looks for it in the syntax tree


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment of the hub's folder."""
    from server.run import run

    patience, least = _number("SST_QUORUM_WAIT", "0"), _number("SST_SITES_EXPECTED", "1")
    serve(grid, lambda hub, federation: run(hub, federation, patience, least))
