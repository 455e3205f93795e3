"""Running a hub: the SuperLink, the process that starts its ServerApps, the proxy, and the run itself, kept going.

What ends is started again, but not for ever: what does not stay up ends the hub with the reason. A run whose ServerApp
died is submitted again, and goes on from its last finished round.
"""

import hashlib
import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from configs import guard
from configs.errors import ConfigError, FederationError, RunError
from configs.processes import QUIET, STARTS, Processes, guarded, stoppable
from configs.schema import from_json
from server import events
from server.journal import noted
from server.members import CLOSING, STRIKES, joined
from server.office import Office, works
from server.pulse import Pulse
from server.setup import proxy as proxy_of
from server.sources import PROJECT, build_bundle, sources
from server.vet import Strikes
from server.watch import Watch
from sst_models.wire.files import replace_file, write_json

CONNECTION = "hub"
HEALTHY = 90.0
"""Seconds for a SuperLink to answer; 2 to 3 on an idle machine of two cores, imports from a cold disk more."""

PAUSE = 3.0
"""Seconds before a process that ended is started again."""

LOOK = 15.0
"""Seconds between two looks at the run; one that finds no app at work starts Flower's command (1.3 s of a core)."""

TRIES = 3
"""Times that the hub's app may fail by itself, as when the SuperLink goes away, without a round between."""

PARTING = 15.0
"""Seconds that the hub's app has to tell the SuperLink that it is done."""

Say = Callable[[str], None]


def commands(office: Office) -> dict[str, list[str]]:
    """Give the command of each of the hub's processes, by its name."""
    settings, tls = office.settings, office.tls.resolve()
    inner, secret = f"127.0.0.1:{settings.inner}", str(office.secret.resolve())
    health = ["--health-server-address", f"127.0.0.1:{settings.health}"] if settings.health else []
    return {
        "superlink": [
            "flower-superlink", "--host", "127.0.0.1", "--port", str(settings.inner),
            "--ssl-ca-certfile", str(tls / "ca.crt"), "--ssl-certfile", str(tls / "server.crt"),
            "--ssl-keyfile", str(tls / "server.key"), "--enable-supernode-auth",
            "--database", str(office.flower.resolve() / "state.db"), "--disable-runtime-dependency-installation",
            "--isolation", "process", "--superexec-auth-secret-file", secret, *health,
        ],
        "superexec": [
            "flower-superexec", "--runtime-api-address", inner, "--root-certificates", str(tls / "ca.crt"),
            "--superexec-auth-secret-file", secret,
        ],
        "proxy": ["nginx", "-c", str(office.proxy.resolve())],
    }  # fmt: skip


def variables(office: Office) -> dict[str, str]:
    """Give what the hub's processes find in their environment beside the machine's own."""
    settings = office.settings
    return {
        **QUIET,
        "FLWR_HOME": str(office.flower.resolve()),
        "SST_HUB": str(office.folder.resolve()),
        "SST_SITES_EXPECTED": str(settings.sites),
        "SST_SITES_WAIT": str(settings.wait),
        "SST_QUORUM_WAIT": str(settings.wait),
        "SST_APPROVED": str(office.approved.resolve()),
        "SST_REFUSED": str(office.logs.resolve() / "refused.log"),
        "NO_PROXY": "127.0.0.1",
        "NO_COLOR": "1",
    }


def printed(office: Office) -> str:
    """Give the commands as a person, or a service manager, would type them."""
    own = {**variables(office), "PATH": _path(office)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in own.items()]
    return "\n".join(["umask 077", *lines, *map(_typed, commands(office).values())])


def _typed(command: Sequence[str]) -> str:
    own = Path(sys.executable).parent / command[0]
    return shlex.join([str(own) if own.exists() else command[0], *command[1:]])


def serve(office: Office, say: Say, proxy: bool = True) -> None:
    """Run the hub until its run is finished; go on with one that was stopped.

    Args:
        office: the hub's folder.
        say: told what happens, a line at a time.
        proxy: start the proxy, too; without it the sites cannot come, unless another one is there.

    Raises:
        RunError: the folder is no hub's, or its sources are not those that the sites approved.
        ConfigError: hub.toml is not as it should be, or Flower is installed where its SuperLink cannot start.
        FederationError: nginx is missing, a process does not start or does not stay up, or the run failed for a reason
            that a person must mend.
    """
    check_bundle(office)
    if proxy and shutil.which("nginx", path=_path(office)) is None:
        raise FederationError("nginx, which faces the sites, is not installed: install it, or start with --no-proxy")
    _check_place()
    settings = office.settings
    write_configuration(office)
    environment = {**os.environ, **variables(office), "PATH": _path(office)}
    with (
        stoppable(),
        noted(office),
        Watch(office) as watch,
        Pulse(office, watch.look),
        Processes(environment, office.logs, office.folder / "empty") as processes,
    ):
        wanted = commands(office)
        processes.start("superlink", wanted["superlink"])
        _await_health(office, processes)
        processes.start("superexec", wanted["superexec"])
        if proxy:
            processes.start("proxy", wanted["proxy"])
        flower = Flower(office, environment)
        say(f"the hub of {settings.name} is up; sites reach it at {settings.address}")
        reopen(office, say)
        _watch(office, processes, flower, say)


def _check_place() -> None:
    """See that the SuperLink can prepare its database: its tool takes a path with a space apart, and it does not start.

    Raises:
        ConfigError: it cannot.
    """
    found = find_spec("flwr")
    place = str(Path(found.origin).parent) if found and found.origin else ""
    if " " in place:
        raise ConfigError(
            f"Flower's SuperLink cannot start from {place}, a path with a space: move the project to a folder without "
            "one, and set it up anew there"
        )


def write_configuration(office: Office) -> None:
    """Write what the hub's processes read, from `hub.toml` as it is now.

    Raises:
        RunError: the folder is no hub's.
        ConfigError: hub.toml is not as it should be, or the folder's path cannot stand in nginx's configuration.
    """
    office.flower.mkdir(parents=True, exist_ok=True)
    replace_file(office.proxy, proxy_of(office, office.settings))
    _write_connection(office)
    _write_tools(office)


def check_bundle(office: Office) -> None:
    """See that the sources are those of the bundle that the sites approve, by the list that was kept when it was built.

    Raises:
        RunError: they are not, or the bundle is another.
    """
    digest = hashlib.sha256(office.bundle.read_bytes()).hexdigest()
    built = json.loads(office.built.read_text(encoding="utf-8")) if office.built.exists() else _built_before(office)
    if built["digest"] != digest:
        raise RunError(f"{office.bundle} is not the app that was built: sst hub renew builds it, and every kit, anew")
    before, now = built["sources"], sources()
    if odd := sorted(name for name, _ in before.items() ^ now.items()):
        raise RunError(
            f"the sources in {PROJECT} are not those of {office.bundle}, which the sites approve ({odd[0]} differs): "
            "check out the version that the hub was made with, or take the new one by sst hub renew, which every site "
            "must approve"
        )


def _built_before(office: Office) -> dict[str, Any]:
    """Make the list for a hub of a version that kept none, by building the app once more."""
    files, bundle = sources(), build_bundle()
    built = {"digest": hashlib.sha256(bundle).hexdigest(), "sources": files}
    if bundle == office.bundle.read_bytes():
        write_json(built, office.built)
        return built
    return {"digest": hashlib.sha256(office.bundle.read_bytes()).hexdigest(), "sources": {}}


class Unanswered(FederationError):
    """The SuperLink did not do what it was asked: it may just be starting again."""


class Flower:
    """Flower's own commands to this hub's SuperLink."""

    def __init__(self, office: Office, environment: Mapping[str, str]) -> None:
        """Use the connection in the hub's folder."""
        self._office, self._environment = office, environment
        self.reached, self.stuck = -1, 0  # rounds at the app's last failure; failures without one between
        self._digest = json.loads(office.approved.read_text(encoding="utf-8"))["digest"]

    def register(self, say: Say) -> None:
        """Register the keys of all admitted sites that are not yet, and unregister those of dismissed ones.

        Raises:
            Unanswered: the SuperLink did not take a key.
        """
        path = self._office.flower / "registered.json"  # Flower lists nodes without their names
        known: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        keys = {site: self._office.key(site).read_text(encoding="ascii") for site in self._office.admitted}
        for site in sorted(known):
            if keys.get(site) != known[site]["key"]:  # dismissed, or with another key: the old one must not come in
                self._unregister(site, known[site]["node"])
                del known[site]
                write_json(known, path)
                say(f"the old key of site {site} is out" if site in keys else f"site {site} is out")
        for site, key in keys.items():
            if site in known:
                continue
            where = str(self._office.key(site).resolve())
            done = self._call("supernode", "register", where, CONNECTION, "--name", site, "--format", "json")
            told = done.stdout + done.stderr
            if done.returncode and "already" not in told:
                raise Unanswered(f"the key of the site '{site}' cannot be registered: {_last(told)}")
            known[site] = {"key": key, "node": str(_parsed(done.stdout).get("node-id", ""))}
            write_json(known, path)
            say(f"site {site} may come in")

    def _unregister(self, site: str, node: str) -> None:
        if node:
            done = self._call("supernode", "unregister", node, CONNECTION)
            told = done.stdout + done.stderr
            if done.returncode and "not found" not in told:
                raise Unanswered(f"the key of the site '{site}' cannot be unregistered: {_last(told)}")

    def submit(self) -> None:
        """Submit the run.

        Raises:
            Unanswered: the SuperLink did not take it.
        """
        with TemporaryDirectory(prefix="sst-app-") as folder:
            app = Path(folder) / "app"  # what the sites approve, to the byte; Flower packs it again
            with zipfile.ZipFile(self._office.bundle) as bundle:
                bundle.extractall(app)
            done = self._call("run", str(app), CONNECTION)
        if done.returncode:
            raise Unanswered(f"the SuperLink did not take the run: {_last(done.stdout + done.stderr)}")

    def status(self) -> str:
        """Give the status of the last run of the hub's own app, e.g. "running"; "" where there is none.

        Raises:
            Unanswered: the SuperLink did not say.
        """
        done = self._call("list", CONNECTION, "--format", "json")
        listed = _parsed(done.stdout)
        if done.returncode or "runs" not in listed:  # not the same as no run: a second one would be begun
            raise Unanswered(f"the SuperLink does not list its runs: {_last(done.stdout + done.stderr)}")
        runs = [run for run in listed["runs"] if run.get("fab-hash") == self._digest]
        return str(runs[0]["status"]) if runs else ""

    def _call(self, *words: str) -> subprocess.CompletedProcess[str]:
        tool = str(Path(sys.executable).with_name("flwr"))
        where = self._office.folder / "empty"
        return subprocess.run(
            [tool, *words],
            cwd=where,
            env=dict(self._environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def _watch(office: Office, processes: Processes, flower: Flower, say: Say) -> None:
    looked, answered = -LOOK, time.monotonic()
    shown = _changed(office)
    recorded = events.Recorded(office.folder)
    while not events.ended(recorded.read()):
        if _changed(office) != shown:
            shown = _changed(office)
            _show_certificate(office, processes, say)
        for name in processes.mend(PAUSE, STARTS):
            say(f"{name} had ended and was started again; why is in {processes.logs / name}.log")
        if time.monotonic() - looked >= LOOK:
            try:
                _look(office, flower, say)
                answered = time.monotonic()
            except (Unanswered, subprocess.TimeoutExpired) as error:
                if time.monotonic() - answered > HEALTHY:
                    raise FederationError(f"{_brief(error)}; see {processes.logs / 'superlink.log'}") from error
                say(f"{_brief(error)}; it is asked again")
            looked = time.monotonic()
        time.sleep(1.0)
    end = time.monotonic() + PARTING
    with suppress(Unanswered, subprocess.TimeoutExpired):
        while flower.status() == "running" and time.monotonic() < end:
            time.sleep(1.0)
    say(f"the run is finished: {office.folder / 'cross-site.json'} has what each site's model reaches")


def _changed(office: Office) -> int:
    path = office.tls / "server.crt"
    return path.stat().st_mtime_ns if path.exists() else 0


def _show_certificate(office: Office, processes: Processes, say: Say) -> None:
    """Let the proxy show a new certificate to the sites; a run goes on meanwhile."""
    if processes.reload("proxy"):
        say("nginx shows the new certificate; the SuperLink, on loopback, takes it at the next sst hub start")
    else:
        say(f"{office.tls / 'server.crt'} is a new certificate: let your nginx read it, by nginx -s reload")


def _brief(error: Exception) -> str:
    return str(error) if isinstance(error, Unanswered) else "the SuperLink does not answer"


def _look(office: Office, flower: Flower, say: Say) -> None:
    flower.register(say)
    if works(office.folder):
        return
    status = flower.status()
    if status in ("", "finished:completed", "finished:failed", "finished:stopped"):
        _raise_if_failed(office, flower, say)
        if not finished(office):
            flower.submit()
            say("the run goes on" if status else "the run has begun")


def _write_tools(office: Office) -> None:
    """Write the app's digest, and the command that the process which starts ServerApps finds first: it runs no other.

    Whoever reaches the SuperLink on loopback can submit a run, which would work in this hub's folder.
    """
    write_json({"digest": hashlib.sha256(office.bundle.read_bytes()).hexdigest()}, office.approved)
    checked = guard.wrapper(sys.executable)
    for name, text in (("flwr-serverapp", checked), *((name, guard.refusal(name)) for name in guard.OTHERS)):
        tool = office.folder / "bin" / name
        replace_file(tool, text)
        tool.chmod(0o700)


def _path(office: Office) -> str:
    return os.pathsep.join((guarded(office.folder.resolve() / "bin"), "/usr/sbin"))


def finished(office: Office) -> bool:
    """Whether the run has come to its end."""
    return events.ended(events.read(office.folder))


def reopen(office: Office, say: Say) -> None:
    """Open a run that is finished again for sites that were admitted since: they get the common segmenter, if any."""
    told = events.read(office.folder)
    done, served = events.ended(told), events.served(told)
    if done and not served:  # by a version before 0.4
        served = joined(office.folder)
        for site in served:
            events.tell(office.folder, "site.delivered", "", {"site": site})
    new = sorted(set(office.admitted) - set(served) - Strikes(office.folder / STRIKES).out)
    if not done and events.awaited(told) and not new:
        events.tell(office.folder, "run.finished", "", {})
        (office.folder / CLOSING).unlink(missing_ok=True)
        say("nobody is left for whom the run was opened again: it is finished")
    if not done or not new:
        return
    preset, plan = ((office.folder / name).read_text(encoding="utf-8") for name in ("experiment.json", "plan.json"))
    if not from_json(preset).generation.common_segmenter:
        say(f"the run is finished, and has no common segmenter (generation.common_segmenter) for {', '.join(new)}")
        return
    (office.folder / CLOSING).unlink(missing_ok=True)
    events.tell(office.folder, "run.reopened", json.loads(plan)["run"], {"sites": new})
    say(f"the run is finished; it is opened again for {', '.join(new)}, and waits until one of them has joined")


def _raise_if_failed(office: Office, flower: Flower, say: Say) -> None:
    """A run that a person must mend is not begun again by itself, nor one that gets no further."""
    path = office.folder / "failed.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    path.rename(path.with_name("failed-last.json"))
    reached = [event["event"] for event in events.read(office.folder)].count("round.finished")
    flower.stuck = flower.stuck + 1 if reached == flower.reached else 0
    flower.reached = reached
    if told["code"] != "internal" or flower.stuck >= TRIES:
        raise FederationError(f"{told['message']}; sst hub resume goes on once it is mended")
    say(f"the hub's app failed and is started again: {told['message']}")


def _write_connection(office: Office) -> None:
    lines = (
        "[superlink]", f'default = "{CONNECTION}"', f"[superlink.{CONNECTION}]",
        f'address = "127.0.0.1:{office.settings.inner}"', 
        f"root-certificates = {json.dumps(str(office.tls.resolve() / 'ca.crt'))}",
    )  # fmt: skip
    replace_file(office.flower / "config.toml", "\n".join(lines) + "\n")


def _await_health(office: Office, processes: Processes) -> None:
    context = ssl.create_default_context(cafile=str(office.tls / "ca.crt"))
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    end = time.monotonic() + HEALTHY
    while time.monotonic() < end:
        processes.mend(PAUSE, STARTS)  # its port may be held by one that is just ending
        try:
            opener.open(f"https://127.0.0.1:{office.settings.inner}/health", timeout=2.0).close()
            return
        except (URLError, OSError):
            time.sleep(0.3)
    raise FederationError(
        f"the SuperLink did not answer within {HEALTHY:.0f} s: see {processes.logs / 'superlink.log'}"
    )


def _parsed(text: str) -> dict[str, Any]:
    """Read what one of Flower's commands printed; {} where that is no JSON object."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _last(text: str) -> str:
    """Give the last line with a word in it; Flower draws a frame around what went wrong."""
    lines: Sequence[str] = [line.strip(" │") for line in text.splitlines() if any(map(str.isalnum, line))]
    return lines[-1] if lines else "no reason given"
