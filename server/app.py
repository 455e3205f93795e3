"""The hub's Flower ServerApp: wait for the sites, run the experiment of the hub's folder, say how it ended.

The process that starts ServerApps gets three environment variables: SST_HUB, the hub's folder (`experiment.json`, the
atlas, the state of the run); SST_SITES_EXPECTED, how many sites must be there before the run starts (1); and
SST_SITES_WAIT, for how many seconds to wait for them (600). They are not run config, which every site could read.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from configs.errors import ConfigError, RunError, SstError
from configs.schema import from_json
from server.federation import Federation, GridFederation

FAILED = "failed.json"
"""In the hub's folder after a run that failed: `{"code", "message"}`. A run that starts removes an old one."""

log = logging.getLogger(__name__)

Run = Callable[[Path, Federation], object]


def serve(grid: Grid, run: Run) -> None:
    """Run the experiment of SST_HUB over `grid`.

    Raises:
        SstError: why the run cannot go on; its line is also in the hub's folder.
    """
    hub = Path(_variable("SST_HUB", ""))
    (hub / FAILED).unlink(missing_ok=True)
    try:
        experiment = from_json(_read(hub / "experiment.json"))
        federation = GridFederation(grid, deadline_s=experiment.federation.deadline)
        federation.wait(_number("SST_SITES_EXPECTED", "1"), _number("SST_SITES_WAIT", "600"))
        run(hub, federation)
    except Exception as error:
        known = isinstance(error, SstError)
        message = str(error) if known else f"{type(error).__name__}: {error}"
        log.error("run failed: %s", message)
        code = type(error).__name__ if known else "internal"
        (hub / FAILED).write_text(json.dumps({"code": code, "message": message}), encoding="utf-8")
        raise


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

    serve(grid, run)
