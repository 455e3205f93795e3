"""What operators did to a hub is in its log: each command, by whom, with fingerprints that can be compared."""

import json
import os
import pwd
from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest

import sst
from client import home
from configs.errors import FederationError
from configs.structures import PAPER
from server.journal import NAME, digest, noted, read
from server.office import Office
from simulation.phantom import draw_anatomy
from simulation.scanner import OASIS, scan
from sst_models.wire.credentials import fingerprint


def run(*words: object) -> None:
    """Run one command that succeeds."""
    assert sst.run(["hub", *map(str, words)]) == 0


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A hub to which every command was given once."""
    root = tmp_path_factory.mktemp("operator")
    image, classes, affine = scan(draw_anatomy(1, 30.0, spacing=3.0), OASIS, 1)
    ids = np.array([0, *(structure.id for structure in PAPER.structures)])[np.asarray(classes)]
    for name, voxels in (("t1", np.asarray(image, np.float32)), ("labels", ids.astype(np.int16))):
        nib.save(nib.Nifti1Image(voxels, affine), root / f"{name}.nii.gz")
    made = Office(root / "hub")
    words = ["--image", root / "t1.nii.gz", "--labels", root / "labels.nii.gz", "--preset", "tiny"]
    run("init", made.folder, "--address", "localhost:8443", *words)
    run("invite", made.folder, "north")
    public = home.join(made.kit("north"), root / "north", ())[1]
    run("admit", made.folder, public)
    run("dismiss", made.folder, "north")
    run("admit", made.folder, home.new_key(home.Home(root / "north")), "--replace")
    run("renew", made.folder)
    run("renew-certificates", made.folder)
    with noted(made):
        pass
    run("backup", made.folder, root / "hub.tar")
    run("restore", root / "hub.tar", root / "again")
    return made


def test_each_command_is_a_line_with_its_user(office: Office) -> None:
    """In their order; the user is the system's word, not the environment's."""
    entries = read(office)
    assert [entry["what"] for entry in entries] == (
        ["init", "invite", "admit", "dismiss", "admit", "renew", "renew-certificates", "start", "stop", "backup"]
    )
    assert all(entry["user"].startswith(pwd.getpwuid(os.getuid()).pw_name) for entry in entries)


def test_digests_and_fingerprints_are_those_of_what_came_of_it(office: Office) -> None:
    """So that a site's IT can compare them, years later."""
    entries = read(office)
    init, admit, dismiss, again = entries[0], entries[2], entries[3], entries[4]
    assert init["authority"] == digest(office.tls / "ca.crt")
    assert admit["key"] == dismiss["key"] != again["key"] == fingerprint(office.key("north").read_bytes())
    assert (admit["replace"], again["replace"]) == (False, True)
    assert entries[6]["server"] == digest(office.tls / "server.crt")
    assert entries[5]["app"] == entries[7]["app"] == digest(office.bundle)
    assert (entries[8]["why"], entries[8]["pid"]) == ("finished", os.getpid())
    assert entries[9]["digest"] == digest(office.folder.parent / "hub.tar")


def test_a_restored_hub_goes_on_with_its_log(office: Office) -> None:
    """The backup has the lines before it, and the restoring is the next."""
    again = read(Office(office.folder.parent / "again"))
    assert again[:-1] == read(office)[:-1]
    assert (again[-1]["what"], again[-1]["digest"]) == ("restore", read(office)[-1]["digest"])


def test_the_log_is_shown_and_verified(
    office: Office, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a table or as JSON; a line that was taken out is found, exit code 2."""
    monkeypatch.setenv("COLUMNS", "80")
    run("log", office.folder)
    told = capsys.readouterr().out
    assert f"{len(read(office))} entries, each following from the one before it" in told
    about = "".join(line.split("│")[4].strip() for line in told.splitlines() if line.count("│") == 5)
    assert fingerprint(office.key("north").read_bytes()) in about and digest(office.bundle) in about
    run("log", office.folder, "--json")
    assert [json.loads(line)["what"] for line in capsys.readouterr().out.splitlines()][:2] == ["init", "invite"]
    path = office.folder / NAME
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    assert sst.run(["hub", "log", str(office.folder)]) == 2
    assert "line 4 does not follow" in capsys.readouterr().err
    path.write_bytes(whole)


def test_why_a_hub_stopped_is_in_it(office: Office) -> None:
    """Asked to, or by an error, which stays the error that the caller sees."""
    before = len(read(office))
    with suppress(KeyboardInterrupt), noted(office):
        raise KeyboardInterrupt
    with pytest.raises(FederationError, match="no quorum"), noted(office):
        raise FederationError("no quorum")
    assert [entry.get("why") for entry in read(office)[before:]] == [None, "stopped", None, "no quorum"]


def test_a_script_gets_kits_and_fingerprints(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    """What an operator reads is on stderr, and the document has the same."""
    folder = office.folder.parent
    run("invite", office.folder, "east", "west", "--json")
    out, err = capsys.readouterr()
    kits = json.loads(out)["kits"]
    assert [kit["site"] for kit in kits] == ["east", "west"] and all(kit["digest"] in err for kit in kits)
    public = home.join(office.kit("east"), folder / "east", ())[1]
    run("admit", office.folder, public, "--json")
    (admitted,) = json.loads(capsys.readouterr().out)["admitted"]
    assert admitted == {"site": "east", "fingerprint": fingerprint(public.read_bytes())}
    run("backup", office.folder, folder / "more.tar", "--json")
    saved = json.loads(capsys.readouterr().out)
    assert saved["digest"] == digest(folder / "more.tar") and saved["path"] == str(folder / "more.tar")


@pytest.mark.parametrize("words", ["admit x.pub", "dismiss north", "status", "invite north", "renew"])
def test_a_folder_that_is_no_hubs_is_named(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else: whatever else is wrong comes after that."""
    command, *more = words.split()
    assert sst.run(["hub", command, "no such hub", *more]) == 2
    assert capsys.readouterr().err.startswith("error: no such hub is not a hub's folder")
