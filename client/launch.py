"""Running a site: one SuperNode, kept going, that runs the approved app and no other."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from client.consent import fault
from client.gate.confine import missing
from client.gate.gate import REFUSED
from client.home import SETTINGS, Home
from client.preflight import TOLERATED, versions
from configs import guard
from configs.errors import RunError
from configs.processes import QUIET, Processes, guarded, stoppable
from configs.shown import LINE, shown
from sst_models.wire.files import replace_file

PAUSE = 15.0
"""Seconds before a SuperNode that ended is started again: Flower lets a crashed one back after up to 60 s, and each try
in between ends with its code 2004 (docs/flower.md, finding 9)."""


PATIENCE = 90.0
"""Seconds of being turned away after which it is no crash any more, of which Flower lets one back in after 60 s."""

BEGINS, ACTIVATION = "Starting Flower SuperNode", "[code: 2004]"
"""In the SuperNode's log: its first line, and that the hub did not let it in."""

TURNED_AWAY = (
    "the hub does not let this site in: it was dismissed, its key was replaced, or this machine's clock is wrong; "
    "ask the hub's operator. It is tried again every 15 s"
)


def command(home: Home) -> list[str]:
    """Give the command of the site's SuperNode."""
    settings = home.settings
    config = {
        "site-name": settings.name,
        "data-path": settings.data,
        "state-dir": str(home.state.resolve()),
        "gate-dir": str(home.gate.resolve()),
        "key": str(home.key.resolve()),
        "policy": str(home.policy.resolve()),
        "device": settings.device,
        "splits": settings.splits,
        "mask-pattern": settings.mask_pattern,
        "strip": settings.strip,
        "bias": settings.bias,
    }
    words = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in config.items() if value)
    return [
        "flower-supernode", "--superlink", settings.address, "--root-certificates", str(home.authority.resolve()),
        "--auth-supernode-private-key", str(home.key.resolve()), "--host", "127.0.0.1", "--port", str(settings.port),
        "--node-config", words,
    ]  # fmt: skip


def variables(home: Home) -> dict[str, str]:
    """Give what the SuperNode and its parts find in their environment beside the machine's own."""
    return {
        **QUIET,
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds; a second otherwise, at each message
        "FLWR_HOME": str(home.flower.resolve()),
        "SST_SITE": str(home.folder.resolve()),
        "SST_REFUSED": str(home.refused.resolve()),
        "PYTHONDONTWRITEBYTECODE": "1",  # the app's folder is read-only, and holds what was approved and nothing else
        "NO_PROXY": "127.0.0.1",
        "NO_COLOR": "1",
    }


def printed(home: Home) -> str:
    """Give the command as a person, or a service manager, would type it."""
    own = {**variables(home), "PATH": _path(home)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in own.items()]
    return "\n".join(
        ["umask 077", *lines, shlex.join([str(Path(sys.executable).parent / "flower-supernode"), *command(home)[1:]])]
    )


def start(home: Home, say: Callable[[str], None]) -> None:
    """Run the site until it is stopped.

    Raises:
        RunError: app or run is not approved, the app was changed since, it cannot be confined, there is no policy, or
            Flower or this project have another version than the hub's.
    """
    for line in (line for line in versions(home) if not line.fine):
        if line.name not in TOLERATED:
            raise RunError(f"{line.name}: {line.found}; {line.do}")
        say(f"{line.name}: {line.found}; {line.do} if something does not work")
    if why := fault(home):
        raise RunError(why)
    if home.settings.sandbox == "required" and (lack := missing()):
        raise RunError(
            f"the hub's app cannot be confined here: {lack}; use another machine or, if you trust the app, "
            f'set sandbox = "off" in {home.folder / SETTINGS}'
        )
    if not home.policy.exists():
        raise RunError(f"{home.policy} is missing, so nothing may leave: sst site approve {home.folder} writes one")
    write_tools(home)
    home.state.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **variables(home), "PATH": _path(home)}
    door = Door()
    with stoppable(), Processes(environment, home.folder / "logs", home.folder / "empty") as processes:
        processes.start("supernode", command(home))
        say(f"the site {home.settings.name} is up, and asks {home.settings.address} for work; Ctrl-C stops it")
        said = _refusals(home)
        while True:
            time.sleep(2.0)
            refused = _refusals(home)
            for text in refused[len(said) :]:
                say(shown(text, LINE))
            said = refused
            log = processes.logs / "supernode.log"
            if away := door.look(processes.ended("supernode"), log, time.monotonic()):
                say(away)
            if processes.mend(PAUSE):
                say(f"the SuperNode had ended and was started again; why is in {log}")


@dataclass
class Door:
    """Whether the hub lets this site in, from how the SuperNode ends (docs/flower.md, finding 28)."""

    since: float | None = None  # time.monotonic() of the first time that it was turned away
    told: bool = False
    up: float | None = None  # time.monotonic() since which it runs

    def look(self, code: int | None, log: Path, now: float) -> str:
        """Say once that the site is turned away.

        Args:
            code: the SuperNode's exit code, or None while it runs.
            log: its output.
            now: time.monotonic().
        """
        if code is None:
            self.up = now if self.up is None else self.up
            if now - self.up > PATIENCE:
                self.since, self.told = None, False
            return ""
        self.up = None
        if code and ACTIVATION not in _tail(log):
            return ""
        self.since = now if self.since is None else self.since
        if self.told or (code and now - self.since < PATIENCE):
            return ""
        self.told = True
        return TURNED_AWAY


def _tail(log: Path) -> str:
    """Give the end of a log, of its last start alone."""
    text = log.read_bytes()[-8000:].decode(errors="replace") if log.exists() else ""
    return text[text.rfind(BEGINS) + 1 :]


def _refusals(home: Home) -> list[str]:
    """Give a line for each request that the gate refused, as far as its log goes back."""
    path = home.gate / REFUSED
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found = []
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            found.append(f"refused: a request for {entry['phase']} {entry['round']} of the hub: {entry['why']}")
    return found


def write_tools(home: Home) -> Path:
    """Write the folder from which Flower's SuperNode takes the commands that it starts.

    It comes first in PATH, and no folder of Flower's own commands is in it: without the gate nothing runs.
    """
    tools, python = home.folder.resolve() / "bin", shlex.quote(sys.executable)
    gate = "from client.gate.clientapp import main; main()"  # this installation's: the app has its own `client`
    plain = "from flwr.supercore.cli import flower_superexec; flower_superexec()"
    named = "import sys; sys.argv.pop(1); "  # its name stands in the list of processes
    programs = {"flwr-clientapp": gate, "flower-superexec": plain}
    scripts = {
        name: f'#!/bin/sh\nexec {python} -P -c {shlex.quote(named + code)} {name} "$@"\n'
        for name, code in programs.items()
    }
    for name, text in (scripts | {name: guard.refusal(name) for name in guard.OTHERS}).items():
        replace_file(tools / name, text)
        (tools / name).chmod(0o700)
    return tools


def _path(home: Home) -> str:
    return guarded(home.folder.resolve() / "bin")
