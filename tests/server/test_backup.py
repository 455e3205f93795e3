"""A hub that is saved and restored: whole while it runs, and its run goes on to the same weights."""

import io
import json
import os
import shutil
import stat
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import sst
from configs.errors import DataError, RunError
from configs.schema import load
from server import backup as backups
from server.atlas import Atlas, save_atlas
from server.authority import issue_server, make_authority, make_secret
from server.backup import backup, restore
from server.federation import Late, Traffic
from server.hub import open_hub
from server.office import Office, Settings, write_settings
from server.run import joining_of, run_round
from server.state import RunState, Store, schedule
from sst_models.volume.labels import AtlasLabels
from sst_models.wire.exchange import PhaseRequest, SiteReply

EXPERIMENT = load("tiny")


class Adding:
    """Two sites whose training adds a number to every weight."""

    def __init__(self) -> None:
        """Know nothing of the past."""
        self.traffic: list[Traffic] = []
        self.late: list[Late] = []
        self.begun: list[PhaseRequest] = []

    def sites(self) -> tuple[str, ...]:
        """Who is there."""
        return ("north", "south")

    def ask(self, requests: Sequence[PhaseRequest]) -> Iterator[SiteReply]:
        """Answer with the weights that were sent, and 1 or 2 added."""
        for one in requests:
            step = np.float32(1 + (one.site == "south"))
            parts = {
                part: {name: values + step for name, values in arrays.items()} for part, arrays in one.arrays.items()
            }
            yield SiteReply(one.site, one.phase, one.round, 3, parts, series={"total": (1.0,)})

    def begin(self, requests: Sequence[PhaseRequest], deadline: float) -> None:
        """Take requests to join."""
        self.begun += requests

    def answered(self) -> list[SiteReply]:
        """Join."""
        ready, self.begun = self.begun, []
        return [
            SiteReply(one.site, "join", 1, 3, settings={"atlas": str(one.settings["atlas"]), "scans": 3})
            for one in ready
        ]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """A hub's folder with all that belongs to one."""
    made = Office(tmp_path / "hub")
    make_authority(made.tls, "trial")
    issue_server(made.tls, "hub.example.org")
    make_secret(made.secret)
    affine = tuple(tuple(6.0 * (i == j) for j in range(4)) for i in range(4))
    image = torch.ones(1, 4, 4, 4)
    save_atlas(
        Atlas(image, AtlasLabels(image[0].long()), affine, 6.0, digest_of(image, affine), "a.nii.gz"), made.folder
    )  # type: ignore[arg-type]
    (made.folder / "experiment.json").write_text(EXPERIMENT.to_json())
    (made.folder / "plan.json").write_text(json.dumps({"run": "trial", "segment": None, "device": "cpu"}))
    for path in (made.bundle, made.key("north"), made.old_key("east"), made.kit("north"), made.flower / "state.db"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (made.folder / "hub.toml").write_text(write_settings(Settings("trial", "hub.example.org", 8443)))
    return made


def digest_of(image: torch.Tensor, affine: object) -> str:
    """The digest that a saved atlas of ones must have."""
    from server.atlas import _digest

    return _digest(image[0], AtlasLabels(image[0].long()), affine)  # type: ignore[arg-type]


def go_on(folder: Path, until: int) -> RunState:
    """Run a hub's rounds up to the `until`-th, as `server.run.run` does."""
    torch.manual_seed(0)
    hub = open_hub(folder, Adding())
    store = Store(folder / "state", hub.experiment)
    state = store.resume() or RunState()
    joining_of(hub).gather(2)
    for phase, number in schedule(hub.experiment)[state.done : until]:
        state = run_round(hub, state, phase, number)
        store.save(state)
    return state


def content(folder: Path) -> dict[str, bytes]:
    """Give all files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_restored_hub_goes_on_to_the_same_weights(office: Office, tmp_path: Path) -> None:
    """Saved after one round, restored elsewhere, with the second round there; against one that was never stopped."""
    go_on(office.folder, 1)
    saved = backup(office, tmp_path / "hub.tar")
    go_on(office.folder, 2)
    made = restore(tmp_path / "hub.tar", tmp_path / "elsewhere")
    assert (made.digest, made.files) == (saved.digest, saved.files)
    assert Store(made.path / "state", EXPERIMENT).resume().done == 1  # type: ignore[union-attr]
    go_on(made.path, 2)
    one, two = content(office.folder / "state"), content(made.path / "state")
    assert one == two and len(one) >= 2
    lines = [json.loads(line) for line in (made.path / "events.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if line["event"] == "round.finished" and line["phase"] == "register"] == [
        1,
        2,
    ]


def test_all_that_a_hub_is_comes_back_and_nothing_of_its_machine(office: Office, tmp_path: Path) -> None:
    """Keys for their owner alone, and so is the tar; Flower's database and logs stay where they are."""
    go_on(office.folder, 1)
    before = content(office.folder)
    backup(office, tmp_path / "hub.tar")
    assert content(office.folder) == before
    assert stat.S_IMODE((tmp_path / "hub.tar").stat().st_mode) == 0o600
    made = Office(restore(tmp_path / "hub.tar", tmp_path / "elsewhere").path)
    after = content(made.folder)
    assert set(before) - set(after) == {"flower/state.db"} | {
        name for name in before if name.startswith("tensorboard/")
    }
    assert all(before[name] == after[name] for name in after)
    for path in (made.tls / "ca.key", made.tls / "server.key", made.secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.admitted == ("north",) and made.settings == office.settings


def test_nothing_is_written_over(office: Office, tmp_path: Path) -> None:
    """Neither a file by the backup nor a folder by the restoring; and no backup lies in what it saves."""
    (tmp_path / "there.tar").write_text("mine")
    with pytest.raises(RunError, match="is there already"):
        backup(office, tmp_path / "there.tar")
    with pytest.raises(RunError, match="in the hub's folder"):
        backup(office, office.folder / "x.tar")
    backup(office, tmp_path / "hub.tar")
    for place in (office.folder, tmp_path / "there.tar"):
        with pytest.raises(RunError, match="holds something already"):
            restore(tmp_path / "hub.tar", place)
    (tmp_path / "empty").mkdir()
    assert restore(tmp_path / "hub.tar", tmp_path / "empty").files > 5
    with pytest.raises(RunError, match="not a hub's folder"):
        backup(Office(tmp_path / "nothing"), tmp_path / "nothing.tar")


def test_what_is_saved_while_rounds_are_saved_is_one_state(office: Office, tmp_path: Path) -> None:
    """A state whose parts all say the number of its rounds, saved over and over; each backup has one, whole."""
    store, over = Store(office.folder / "state", EXPERIMENT), threading.Event()

    def state(number: int) -> RunState:
        part = {"w": np.full(20_000, number, np.float32)}
        return RunState(number, {"T": part, "A.north": part, "A.south": {"w": part["w"] + 1}})

    def save() -> None:
        number = 1
        while not over.wait(0.02):
            number += 1
            store.save(state(number))

    store.save(state(1))
    thread = threading.Thread(target=save)
    thread.start()
    try:
        for number in range(6):
            backup(office, tmp_path / f"{number}.tar")
    finally:
        over.set()
        thread.join()
    for number in range(6):
        folder = restore(tmp_path / f"{number}.tar", tmp_path / str(number)).path
        kept = Store(folder / "state", EXPERIMENT).resume()
        assert kept is not None
        assert {float(kept.parts[part]["w"].max()) for part in ("T", "A.north")} == {kept.done}
        assert float(kept.parts["A.south"]["w"].min()) == kept.done + 1
        assert len(list((folder / "state" / "library").iterdir())) == 2
    assert not list(office.folder.glob(".backup-*"))


def test_a_state_that_was_replaced_meanwhile_is_taken_again(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all its files were still there: events of a later round would stand beside it."""
    store, part = Store(office.folder / "state", EXPERIMENT), {"w": np.ones(3, np.float32)}
    store.save(RunState(1, {"T": part}))
    link, taken = backups._link, []

    def slow(path: Path, target: Path) -> None:
        link(path, target)
        taken.append(path.name)
        if taken == ["state.json", "round-1.safetensors"]:
            store.save(RunState(2, {"T": part}))

    monkeypatch.setattr(backups, "_link", slow)
    backup(office, tmp_path / "hub.tar")
    assert taken[2:] == ["state.json", "round-2.safetensors"]
    kept = Store(restore(tmp_path / "hub.tar", tmp_path / "again").path / "state", EXPERIMENT).resume()
    assert kept is not None and kept.done == 2


def test_where_files_cannot_be_linked_they_are_copied(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk of FAT."""
    go_on(office.folder, 1)

    def link(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", link)
    backup(office, tmp_path / "hub.tar")
    assert restore(tmp_path / "hub.tar", tmp_path / "again").files > 5


def rewritten(source: Path, target: Path, change: dict[str, bytes], more: dict[str, bytes] | None = None) -> Path:
    """Write a tar again with other content in some files, None for none, and with more files."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for one in old:
            data = change.get(one.name, old.extractfile(one).read())  # type: ignore[union-attr]
            one.size = len(data)
            new.addfile(one, io.BytesIO(data))
        for name, data in (more or {}).items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            new.addfile(about, io.BytesIO(data))
    return target


def test_a_backup_that_is_not_as_it_was_written_is_refused(office: Office, tmp_path: Path) -> None:
    """Changed, with more in it, cut short, or something else; nothing is left where it was to be."""
    whole = backup(office, tmp_path / "hub.tar").path
    for number, (change, more, why) in enumerate(
        (
            ({"hub.toml": b"name = 1"}, {}, "'hub.toml' is not as it was saved"),
            ({}, {"x.py": b"x"}, "'x.py' is not as it was saved"),
            ({}, {"../evil": b"x"}, "does not belong"),
            ({"backup.json": b"{}"}, {}, "no backup of a hub"),
        )
    ):
        with pytest.raises(DataError, match=why):
            restore(rewritten(whole, tmp_path / f"{number}.tar", change, more), tmp_path / "new")
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "text.tar").write_text("thesis")
    for name in ("cut.tar", "text.tar"):
        with pytest.raises(DataError, match="damaged, or no backup"):
            restore(tmp_path / name, tmp_path / "new")
    with pytest.raises(DataError, match="cannot be read"):
        restore(tmp_path / "nothing.tar", tmp_path / "new")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*")) and not (tmp_path / "evil").exists()


def test_the_commands_say_that_secrets_are_in_it(
    office: Office, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that the old hub has to stop."""
    assert sst.run(["hub", "backup", str(office.folder), str(tmp_path / "hub.tar")]) == 0
    assert "nobody else can read" in capsys.readouterr().out
    shutil.rmtree(office.folder)
    assert sst.run(["hub", "restore", str(tmp_path / "hub.tar"), str(office.folder)]) == 0
    assert "stop the old hub" in capsys.readouterr().out
