"""The hub and its SuperLink's commands: one that fails is not taken for an answer."""

import fcntl
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.cli.build import build_fab_from_disk

from configs.errors import ConfigError, FederationError, RunError
from configs.processes import Processes
from configs.schema import load
from server import events, launch, setup, sources
from server.launch import Flower, Unanswered
from server.office import Office, Settings, write_settings


class Script:
    """Flower's commands: what each answers, and which were called."""

    def __init__(self) -> None:
        """Let all succeed."""
        self.called: list[tuple[str, ...]] = []
        self.failing: set[str] = set()
        self.runs: list[dict[str, str]] = []

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Answer one command."""
        self.called.append(words)
        if self.failing & set(words):
            return subprocess.CompletedProcess(words, 1, json.dumps({"success": False}), "connection refused")
        told = {"success": True, "runs": self.runs, "node-id": "7"}
        return subprocess.CompletedProcess(words, 0, json.dumps(told), "")


def wait_for(path: Path) -> None:
    """Wait until another process has written a file."""
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)


@pytest.fixture
def script() -> Script:
    """Commands that succeed."""
    return Script()


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """A hub with one admitted site."""
    office = Office(tmp_path)
    office.flower.mkdir(parents=True)
    office.approved.parent.mkdir(parents=True, exist_ok=True)
    office.approved.write_text('{"digest": "abc"}')
    office.key("left").parent.mkdir(parents=True, exist_ok=True)
    office.key("left").write_text("key of left")
    with zipfile.ZipFile(office.bundle, "w") as bundle:
        bundle.writestr("server/app.py", "# as it was approved")
    return office


@pytest.fixture
def flower(office: Office, script: Script, monkeypatch: pytest.MonkeyPatch) -> Flower:
    """The hub's side of the script."""
    flower = Flower(office, {})
    monkeypatch.setattr(flower, "_call", script)
    return flower


def test_a_silent_superlink_is_not_one_without_a_run(flower: Flower, script: Script) -> None:
    """Otherwise a second run would be submitted beside the first."""
    assert flower.status() == ""
    script.runs = [{"fab-hash": "other", "status": "running"}, {"fab-hash": "abc", "status": "pending"}]
    assert flower.status() == "pending"
    script.failing = {"list"}
    with pytest.raises(Unanswered, match="connection refused"):
        flower.status()


def test_a_dismissed_site_is_out_only_once_its_key_is(flower: Flower, office: Office, script: Script) -> None:
    """A SuperLink that is just starting again is asked anew."""
    said: list[str] = []
    flower.register(said.append)
    office.key("left").unlink()
    script.failing = {"unregister"}
    with pytest.raises(Unanswered, match="left"):
        flower.register(said.append)
    script.failing = set()
    flower.register(said.append)
    assert said == ["site left may come in", "site left is out"]
    assert [words[:2] for words in script.called].count(("supernode", "unregister")) == 2


def test_a_new_key_of_a_site_puts_the_old_one_out(flower: Flower, office: Office, script: Script) -> None:
    """Before it is let in: else the old one, which may be stolen, still could come."""
    said: list[str] = []
    flower.register(said.append)
    office.key("left").write_text("new key of left")
    script.called.clear()
    flower.register(said.append)
    assert [words[1] for words in script.called] == ["unregister", "register"]
    assert said[1:] == ["the old key of site left is out", "site left may come in"]
    script.called.clear()
    flower.register(said.append)
    assert script.called == []


def test_the_proxy_is_told_of_a_new_certificate(office: Office, tmp_path: Path) -> None:
    """By the signal at which nginx reads its files again; without a proxy of the hub's own, the operator is told."""
    script = (  # not of the shell, which cannot trap what nohup ignores
        "import signal, sys, time; from pathlib import Path; "
        "signal.signal(signal.SIGHUP, lambda *_: (Path('told').touch(), sys.exit())); "
        "Path('up').touch(); time.sleep(60)"
    )
    with Processes(dict(os.environ), tmp_path / "logs", tmp_path / "work") as processes:
        said: list[str] = []
        launch._show_certificate(office, processes, said.append)
        assert "nginx -s reload" in said[0]
        process = processes.start("proxy", [sys.executable, "-c", script])
        wait_for(tmp_path / "work" / "up")
        launch._show_certificate(office, processes, said.append)
        process.wait(20)
        assert (tmp_path / "work" / "told").exists() and "nginx shows the new certificate" in said[1]


def test_what_is_run_is_what_the_sites_approve(flower: Flower, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower is given the files of the bundle, wherever the hub's own were installed."""
    given: list[dict[str, str]] = []

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        folder = Path(words[1])
        given.append({str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()})
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(flower, "_call", run)
    flower.submit()
    assert given == [{"server/app.py": "# as it was approved"}]


def test_an_app_that_is_unpacked_and_built_again_is_the_same(tmp_path: Path) -> None:
    """As Flower does with what it is given; the hub knows its run by the digest."""
    bundle = sources.build_bundle()
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        archive.extractall(tmp_path)
    assert build_fab_from_disk(tmp_path) == bundle


def test_a_run_that_is_not_taken_is_told(flower: Flower, script: Script) -> None:
    """So that the hub asks again."""
    flower.submit()
    script.failing = {"run"}
    with pytest.raises(Unanswered, match="did not take the run"):
        flower.submit()


def test_a_missing_nginx_is_named_before_anything_starts(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to do without one."""
    monkeypatch.setattr(launch, "check_bundle", lambda _: None)
    monkeypatch.setattr(launch, "_path", lambda own: str(own.folder / "nothing"))
    monkeypatch.setattr(launch.Processes, "start", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(FederationError, match="nginx.* is not installed.*--no-proxy"):
        launch.serve(office, print)


def test_a_superlink_that_cannot_start_where_it_lies_is_named(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tool for databases takes a path with a space apart; one line says so at once, not after 90 s."""
    monkeypatch.setattr(launch, "check_bundle", lambda _: None)
    monkeypatch.setattr(launch, "find_spec", lambda _: SimpleNamespace(origin="/opt/my programs/flwr/__init__.py"))
    monkeypatch.setattr(launch.Processes, "start", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(ConfigError, match="/opt/my programs/flwr, a path with a space: move the project"):
        launch.serve(office, print, proxy=False)


def test_ports_of_hub_toml_reach_nginx_and_flower_at_each_start(office: Office) -> None:
    """Not only those that `sst hub init` was given; what somebody wrote into nginx.conf by hand is gone."""
    office.bundle.write_bytes(b"app")
    for port, inner in ((8443, 8000), (9443, 9000)):
        (office.folder / "hub.toml").write_text(write_settings(Settings("trial", "hub.example.org", port, inner)))
        launch.write_configuration(office)
        text = office.proxy.read_text()
        assert f"listen {port} ssl;" in text and f"proxy_pass https://127.0.0.1:{inner};" in text
        assert f"127.0.0.1:{inner}" in (office.flower / "config.toml").read_text()
        assert "hand" not in text
        office.proxy.write_text("# by hand\n")


@pytest.fixture
def tree(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree of three files of its own, and a hub whose app was built from it."""
    project = tmp_path / "project"
    (project / "server").mkdir(parents=True)
    (project / "pyproject.toml").write_text('[tool.flwr.app]\nfab-include = ["server/**/*.py"]\n')
    for name in ("app", "run"):
        (project / "server" / f"{name}.py").write_text(f"# {name}\n")
    monkeypatch.setattr(sources, "PROJECT", project)
    for module in (setup, launch):
        monkeypatch.setattr(module, "build_bundle", lambda: b"app")
    setup.write_bundle(office)
    return project


def test_a_hub_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without sources, and a folder that nginx cannot have: told before anything is written."""
    settings, files = Settings("sst", "localhost", 8443), [(tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz")]
    with pytest.raises(ConfigError, match="nginx cannot have"):
        setup.make_hub(tmp_path / "a hub", settings, "tiny", files)
    monkeypatch.setattr(sources, "PROJECT", tmp_path / "nothing")
    with pytest.raises(RunError, match="neither a source tree nor an installed wheel"):
        setup.make_hub(tmp_path / "hub", settings, "tiny", files)
    assert not list(tmp_path.iterdir())


def test_the_sources_are_compared_without_building(tree: Path, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started, which on a busy machine took longer than a start may."""
    for module in (setup, launch):
        monkeypatch.setattr(module, "build_bundle", lambda: pytest.fail("the app was built"))
    launch.check_bundle(office)
    (tree / "server" / "notes.txt").write_text("goes into no app")
    launch.check_bundle(office)


@pytest.mark.parametrize("how", ["edited", "added", "removed", "listed"])
def test_changed_sources_are_refused(how: str, tree: Path, office: Office) -> None:
    """With the name of a file that differs; the list of files itself counts, too."""
    victim = tree / "server" / "run.py"
    if how == "edited":
        victim.write_text("import os\n")
    elif how == "added":
        victim = tree / "server" / "new.py"
        victim.write_text("import os\n")
    elif how == "removed":
        victim.unlink()
    else:
        victim = tree / "pyproject.toml"
        victim.write_text(victim.read_text() + "# more\n")
    with pytest.raises(RunError, match=rf"{victim.name} differs.*sst hub renew"):
        launch.check_bundle(office)


def test_an_app_that_was_put_in_its_place_is_refused(tree: Path, office: Office) -> None:
    """The list says which bundle it is for."""
    office.bundle.write_bytes(b"another")
    with pytest.raises(RunError, match="is not the app that was built"):
        launch.check_bundle(office)


def test_a_hub_without_a_list_gets_one(tree: Path, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an earlier version builds once more; where that gives another app, the sources are refused."""
    kept = office.built.read_bytes()
    office.built.unlink()
    launch.check_bundle(office)
    assert office.built.read_bytes() == kept
    office.built.unlink()
    monkeypatch.setattr(launch, "build_bundle", lambda: b"another")
    with pytest.raises(RunError, match="sst hub renew"):
        launch.check_bundle(office)
    assert not office.built.exists()


def test_a_list_names_all_that_is_in_the_app() -> None:
    """Of the project itself: what Flower packs but for its own list."""
    with zipfile.ZipFile(io.BytesIO(sources.build_bundle())) as archive:
        assert set(archive.namelist()) - {".info/CONTENT"} == set(sources.sources())


def test_while_an_app_works_flower_is_not_asked(office: Office, flower: Flower, script: Script) -> None:
    """Its command would take a twelfth of a core from sites on this machine; without an app, it is."""
    flower.register(print)
    script.called.clear()
    held = os.open(office.folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    launch._look(office, flower, print)
    os.close(held)
    assert not script.called
    script.runs = [{"fab-hash": "abc", "status": "running"}]
    launch._look(office, flower, print)
    assert [words[0] for words in script.called] == ["list"]


def test_a_finished_run_is_opened_again_for_a_site_that_was_admitted_since(office: Office) -> None:
    """Where the hub has a common segmenter for it; else the operator reads why not, and the run stays finished."""
    said: list[str] = []
    (office.folder / "plan.json").write_text('{"run": "run"}')
    (office.folder / "members.json").write_text('{"left": {"scans": 9}}')
    events.tell(office.folder, "run.finished", "run", {})
    launch.reopen(office, said.append)
    assert launch.finished(office) and not said
    office.key("right").write_text("key of right")
    for common in (False, True):
        preset = load("tiny", ("phases.statistics.rounds=1", f"generation.common_segmenter={str(common).lower()}"))
        (office.folder / "experiment.json").write_text(preset.to_json())
        launch.reopen(office, said.append)
        assert launch.finished(office) is not common
    assert "no common segmenter" in said[0] and "opened again for right" in said[1]
    assert events.served(events.read(office.folder)) == ("left",) and events.awaited(events.read(office.folder)) == (
        "right",
    )
    office.key("right").unlink()  # dismissed: nobody is left
    launch.reopen(office, said.append)
    assert launch.finished(office) and "nobody is left" in said[2]


def test_a_site_without_its_model_is_served_although_it_joined(office: Office) -> None:
    """As one that was in quarantine at the end of the run, and is out of it now; half a line makes no difference."""
    (office.folder / "plan.json").write_text('{"run": "run"}')
    preset = load("tiny", ("phases.statistics.rounds=1", "generation.common_segmenter=true"))
    (office.folder / "experiment.json").write_text(preset.to_json())
    (office.folder / "members.json").write_text('{"left": {"scans": 9}, "right": {"scans": 9}}')
    office.key("right").write_text("key of right")
    (office.folder / "strikes.json").write_text('{"right": 3}')
    events.tell(office.folder, "site.delivered", "run", {"site": "left"})
    events.tell(office.folder, "run.finished", "run", {})
    with (office.folder / events.NAME).open("a") as file:
        file.write('{"time": 1, "event": "run.reo')
    launch.reopen(office, print)
    assert launch.finished(office)
    (office.folder / "strikes.json").unlink()
    launch.reopen(office, print)
    assert events.awaited(events.read(office.folder)) == ("right",) and events.served(events.read(office.folder)) == (
        "left",
    )
