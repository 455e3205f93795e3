"""Watching a hub: figures for Prometheus, the operator's own command, and the SuperLink's health."""

import json
import re
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health as service
from grpc_health.v1 import health_pb2, health_pb2_grpc

import sst
from configs.errors import ConfigError, FederationError
from configs.schema import load
from server import events, launch, metrics, notify
from server.authority import issue_server, make_authority
from server.health import health
from server.notify import News
from server.office import Office, Settings, write_settings
from server.pulse import Pulse
from server.status import status
from server.watch import Watch
from simulation.engines.superlink import free_port

SAMPLE = re.compile(r'^(\w+)(?:\{(\w+)="((?:[^"\\]|\\.)*)"\})? (-?\d[\d.e+-]*)$')

WRITES = (
    "import json, os, sys; n = len(os.listdir(sys.argv[1])); open(f'{sys.argv[1]}/{n}.json', 'w').write(json.dumps("
)
WRITES += "[sys.argv[2:], {k: v for k, v in os.environ.items() if k.startswith('SST_')}]))"


def settings(**more: object) -> Settings:
    """Settings of a hub."""
    return Settings("trial", "hub.example.org", 8443, **more)  # type: ignore[arg-type]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """A hub's folder with two admitted sites, and a command that writes down what it is told."""
    made = Office(tmp_path / "hub")
    make_authority(made.tls, "trial")
    issue_server(made.tls, "hub.example.org")
    for site in ("north", "south"):
        made.key(site).parent.mkdir(parents=True, exist_ok=True)
        made.key(site).write_text(f"key of {site}")
    (tmp_path / "told").mkdir()
    (tmp_path / "tell.py").write_text(WRITES)
    command = shlex.join([sys.executable, str(tmp_path / "tell.py"), str(tmp_path / "told")])
    (made.folder / "hub.toml").write_text(write_settings(settings(notify=command)))
    (made.folder / "experiment.json").write_text(load("tiny").to_json())
    return made


def told(office: Office) -> list[list[object]]:
    """What the command was told."""
    return [json.loads(path.read_text()) for path in sorted((office.folder.parent / "told").iterdir())]


def played(office: Office, word: str = "lost") -> None:
    """Two rounds of events, a site that failed in one, and a wait."""
    traffic = [{"site": "north", "down": 100, "up": 30}, {"site": "south", "down": 100, "up": 40}]
    for number, failed in ((1, {}), (2, {"north": word})):
        events.tell(office.folder, "round.started", "sst", {"phase": "register", "round": number})
        series = {site: {"total": (1.0,)} for site in ("north", "south") if site not in failed}
        brought = {"series": series, "failed": failed, "traffic": traffic}
        events.tell(office.folder, "round.finished", "sst", {"phase": "register", "round": number, **brought})
    events.tell(office.folder, "round.started", "sst", {"phase": "style", "round": 1})
    events.tell(office.folder, "round.waiting", "sst", {"phase": "style", "round": 1, "missing": {"north": word}})


def samples(text: str) -> dict[tuple[str, str], float]:
    """Read the text format strictly: (metric, value of its label) -> value."""
    found, typed = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        if not line.startswith("#"):
            match = SAMPLE.match(line)
            assert match and match[1] in typed, line
            found[match[1], match[3] or ""] = float(match[4])
    assert text.endswith("\n")
    return found


def test_figures_are_those_of_the_run(office: Office) -> None:
    """Rounds, phase, sites, when each was seen, bytes, failed replies, strikes, disk and certificates."""
    Pulse(office).beat()
    played(office)
    (office.folder / "strikes.json").write_text(json.dumps({"south": 2}))
    recorded = events.read(office.folder)
    seen = [event["time"] for event in recorded if event["event"] == "round.finished"]
    found = samples(metrics.text(office, status(office), recorded, now=seen[1] + 60.0))
    assert found["sst_hub_rounds_finished", ""] == 2
    assert (found["sst_hub_state", "waiting"], found["sst_hub_state", "running"]) == (1, 0)
    assert (found["sst_hub_phase", "style"], found["sst_hub_round", ""], found["sst_hub_sites", ""]) == (1, 1, 2)
    assert found["sst_hub_site_seen_seconds", "south"] == pytest.approx(60.0, abs=1e-3)
    assert found["sst_hub_site_seen_seconds", "north"] == pytest.approx(60.0 + seen[1] - seen[0], abs=1e-3)
    assert (found["sst_hub_site_down_bytes_total", "north"], found["sst_hub_site_up_bytes_total", "south"]) == (200, 80)
    failed = [found["sst_hub_site_failed_replies_total", site] for site in ("north", "south")]
    assert failed == [1, 0] and found["sst_hub_site_strikes", "south"] == 2
    assert found["sst_hub_free_disk_bytes", ""] > 0
    assert found["sst_hub_certificate_days", "server"] == pytest.approx(825, abs=0.1)


def test_hostile_words_do_not_forge_figures(office: Office) -> None:
    """A phase with a quotation mark and a line of its own is one label."""
    Pulse(office).beat()
    word = 'x"} 1\nsst_hub_free_disk_bytes 0\n\\'
    events.tell(office.folder, "round.started", "sst", {"phase": word, "round": 1})
    found = samples(metrics.text(office, status(office), events.read(office.folder)))
    assert found["sst_hub_free_disk_bytes", ""] > 0
    assert len([name for name, _ in found if name == "sst_hub_phase"]) == 1


def test_figures_are_written_while_the_hub_runs(office: Office) -> None:
    """With each beat, from new events; the last ones say that it stopped."""
    with suppress(KeyboardInterrupt), Watch(office) as watch, Pulse(office, watch.look, every=0.01):
        played(office)
        end = time.monotonic() + 20
        while ("sst_hub_phase", "style") not in samples(office.metrics.read_text()):
            assert time.monotonic() < end
        raise KeyboardInterrupt
    assert samples(office.metrics.read_text())["sst_hub_state", "stopped"] == 1


def test_the_command_is_told_of_each_wait_once(office: Office) -> None:
    """As its last words and in its environment; a wait of before the start is no news, nor is a clean stop."""
    played(office)
    with suppress(KeyboardInterrupt), Watch(office) as watch:
        Pulse(office).beat()
        watch.look()
        events.tell(office.folder, "round.started", "sst", {"phase": "style", "round": 2})
        for _ in range(2):
            events.tell(
                office.folder, "round.waiting", "sst", {"phase": "style", "round": 2, "missing": {"north": "lost"}}
            )
            watch.look()
        raise KeyboardInterrupt
    ((words, environment),) = told(office)
    assert words == ["waiting", "north (lost)"]
    assert environment["SST_EVENT"] == "waiting" and environment["SST_MESSAGE"] == "north (lost)"
    assert (environment["SST_PHASE"], environment["SST_ROUND"]) == ("style", "2")
    assert environment["SST_HUB"] == str(office.folder.resolve())


def test_the_command_is_told_how_a_run_ends(office: Office) -> None:
    """Finished, or failed with the reason, in which a site's words are harmless."""
    with Watch(office):
        pass
    with suppress(FederationError), Watch(office):
        raise FederationError("north: \x1b[2J" + "A" * 10_000)
    assert [words[0] for words, _ in told(office)] == ["finished", "failed"]  # type: ignore[index]
    message = told(office)[1][0][1]  # type: ignore[index]
    assert message.startswith("north: \\x1b[2J") and len(message) == 2000


@pytest.mark.parametrize("command", ["/nothing/there", "false", "python3 -c 'import time; time.sleep(100)'", ""])
def test_a_command_that_fails_harms_nothing(command: str, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there, a failure, one that does not end, and none at all; what went wrong is in its log."""
    monkeypatch.setattr(notify, "MOST", 0.2)
    (office.folder / "hub.toml").write_text(write_settings(settings(notify=command)))
    began = time.monotonic()
    with Watch(office):
        pass
    assert time.monotonic() - began < 9
    log = office.logs / "notify.log"
    assert log.exists() == bool(command)
    if command:
        assert re.search(r"did not work|ended with 1", log.read_text())


def test_no_shell_reads_the_command(office: Office, tmp_path: Path) -> None:
    """What a site calls its error is one word of it."""
    words = [sys.executable, str(tmp_path / "tell.py"), str(tmp_path / "told")]
    notify.tell(office, words, News("waiting", "$(id); `id` *")).join(30)
    assert told(office)[0][0] == ["waiting", "$(id); `id` *"]
    (office.folder / "hub.toml").write_text(write_settings(settings(notify='mail "x')))
    with pytest.raises(ConfigError, match="'notify' is .* no command"):
        Watch(office)


def test_figures_that_cannot_be_written_harm_nothing(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once."""
    with Watch(office) as watch:
        office.metrics.unlink()
        office.metrics.mkdir()
        assert watch.look() is None and watch.look() is None
    assert [record.message.startswith("no figures are written") for record in caplog.records] == [True]


def test_the_superlinks_health_is_asked(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    """Where hub.toml gives a port, and the hub is alive; the SuperLink is started with that port."""
    port = free_port()
    assert health(port) == "does not answer"
    server, servicer = grpc.server(ThreadPoolExecutor(1)), service.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        assert health(port) == "serving"
        (office.folder / "hub.toml").write_text(write_settings(settings(health=port)))
        assert sst.run(["hub", "status", str(office.folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["superlink"] == ""
        Pulse(office).beat()
        assert sst.run(["hub", "status", str(office.folder)]) == 0
        assert "SuperLink: serving" in capsys.readouterr().out
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert health(port) == "not serving"
    finally:
        server.stop(None)
    assert launch.commands(office)["superlink"][-2:] == ["--health-server-address", f"127.0.0.1:{port}"]
    (office.folder / "hub.toml").write_text(write_settings(settings()))
    assert "--health-server-address" not in launch.commands(office)["superlink"]
