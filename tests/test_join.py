"""From the hub's kit to an approved app at a site, and what is refused on the way."""

import hashlib
import io
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import sst
from approving import blank_atlas, usual_policy
from client import bundle, consent, home
from client.gate.approval import approved_runs
from client.kit import read_kit
from configs import guard, kits
from configs.errors import ConfigError, DataError, RunError
from configs.schema import load
from server.atlas import published, read_atlas, save_atlas
from server.authority import issue_server, make_authority, sign
from server.kit import admit, dismiss, invite
from server.office import LEFT, Office, Settings, check_address, write_settings
from server.pulse import Pulse
from server.setup import proxy
from server.sources import build_bundle
from server.status import status
from simulation.engines import OPEN
from sst_models.wire.payload import digest


@pytest.fixture(scope="module")
def app() -> bytes:
    """The project's own bundle."""
    return build_bundle()


@pytest.fixture
def office(tmp_path: Path, app: bytes, monkeypatch: pytest.MonkeyPatch) -> Office:
    """A hub's folder, as init makes it."""
    monkeypatch.setattr("server.kit.versions", lambda: {"flwr": "1.41.0"})
    made = Office(tmp_path / "hub")
    make_authority(made.tls, "trial")
    issue_server(made.tls, "hub.example.org")
    (made.folder / "hub.toml").write_text(write_settings(Settings("trial", "hub.example.org", 8443)))
    (made.folder / "experiment.json").write_text(load("tiny").to_json())
    (made.folder / "plan.json").write_text(json.dumps({"run": "winter"}))
    save_atlas(blank_atlas(load("tiny")), made.folder)
    made.bundle.write_bytes(app)
    return made


@pytest.fixture
def site(office: Office, tmp_path: Path) -> home.Home:
    """A site that joined."""
    (tmp_path / "scans").mkdir()
    return home.join(invite(office, "north").path, tmp_path / "north", (tmp_path / "scans",))[0]


def approved(site: home.Home) -> Path:
    """Approve the site's bundle; give its unpacked folder."""
    return bundle.approve(site, bundle.read_bundle(site.bundle))


def unzipped(path: Path) -> dict[str, bytes]:
    """Give an archive's files."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(content: Mapping[str, bytes], folder: Path) -> Path:
    """Write an archive."""
    with zipfile.ZipFile(folder / "kit.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return folder / "kit.zip"


def longer(app: bytes) -> bytes:
    """Give an app with another line in one of its files."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(app)) as old, zipfile.ZipFile(memory, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + (b"import os\n" if name == "client/learn.py" else b""))
    return memory.getvalue()


def forge(content: Mapping[str, bytes], folder: Path) -> Path:
    """Write a kit with the files of another one, signed by an authority of one's own that has the hub's name."""
    make_authority(folder / "forger", "trial")
    own = {**content, "ca.crt": (folder / "forger" / "ca.crt").read_bytes()}
    return zipped({**own, kits.SIGNATURE: sign(folder / "forger", kits.listing(own))}, folder)


def test_certificates_hold_for_the_public_name_and_loopback(office: Office) -> None:
    """And the authority signs nothing but what it is asked to: it can make no authority under it."""
    authority = x509.load_pem_x509_certificate((office.tls / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((office.tls / "server.crt").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example.org", "localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert ssl.create_default_context(cafile=str(office.tls / "ca.crt")).get_ca_certs()


def test_private_files_are_for_their_owner_alone(office: Office, site: home.Home) -> None:
    """Keys of the authority, the hub and the site."""
    for path in (office.tls / "ca.key", office.tls / "server.key", site.key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_kit_holds_no_secret_and_is_the_same_each_time(office: Office) -> None:
    """No private key of any kind, and the same bytes for the same hub and site."""
    kit = invite(office, "north")
    first = kit.path.read_bytes()
    with zipfile.ZipFile(kit.path) as archive:
        assert sorted(archive.namelist()) == [*kits.FILES, kits.SIGNATURE]
        assert not any(b"PRIVATE KEY-----" in archive.read(name) for name in archive.namelist() if name != "app.fab")
    assert invite(office, "north").path.read_bytes() == first


def test_only_the_public_key_goes_back(office: Office, site: home.Home) -> None:
    """The hub takes it, twice without harm."""
    public = site.folder / "north.pub"
    assert serialization.load_ssh_public_key(public.read_bytes())
    assert [admit(office, public), admit(office, public)] == ["north", "north"]
    assert office.admitted == ("north",)


def test_the_hub_refuses_keys_that_are_not_what_they_should_be(office: Office, site: home.Home, tmp_path: Path) -> None:
    """No key, an uninvited site, another site's key, and a second key for a name."""
    public = site.folder / "north.pub"
    with pytest.raises(DataError, match="no site 'south' was invited"):
        admit(office, Path(shutil.copy(public, tmp_path / "south.pub")))
    admit(office, public)
    invite(office, "south")
    with pytest.raises(DataError, match="is the key of the site 'north'"):
        admit(office, tmp_path / "south.pub")
    (tmp_path / "south.pub").write_text("ssh-rsa nothing")
    with pytest.raises(DataError, match="no public key of a site"):
        admit(office, tmp_path / "south.pub")
    other = home.join(invite(office, "north").path, tmp_path / "again", ())[1]
    before = office.key("north").read_bytes()
    with pytest.raises(DataError, match=r"had another key, SHA256:.*--replace"):
        admit(office, other)
    assert office.key("north").read_bytes() == before
    assert admit(office, other, replace=True) == "north" and office.key("north").read_bytes() == other.read_bytes()


def test_a_dismissed_site_is_out_until_it_is_admitted_again(office: Office, site: home.Home) -> None:
    """Its key is gone, and the status says why it is not asked."""
    with pytest.raises(DataError, match="no site 'north' is admitted"):
        dismiss(office, "north")
    admit(office, site.folder / "north.pub")
    dismiss(office, "north")
    assert office.admitted == ()
    assert [one.state for one in status(office).sites] == ["dismissed"]
    assert json.loads((office.folder / LEFT).read_text()) == ["north"]
    admit(office, site.folder / "north.pub")
    assert json.loads((office.folder / LEFT).read_text()) == []
    assert [one.state for one in status(office).sites] == ["admitted"]


def test_a_dismissed_site_comes_back_by_its_old_key_alone(office: Office, site: home.Home, tmp_path: Path) -> None:
    """A new one needs the flag, also where the hub does not know the old one; so does nobody else's name."""
    public = site.folder / "north.pub"
    admit(office, public)
    dismiss(office, "north")
    other = home.join(invite(office, "north").path, tmp_path / "again", ())[1]
    with pytest.raises(DataError, match="--replace"):
        admit(office, other)
    office.old_key("north").unlink()
    with pytest.raises(DataError, match="--replace"):
        admit(office, public)
    assert admit(office, other, replace=True) == "north" and office.admitted == ("north",)
    dismiss(office, "north")
    invite(office, "south")
    with pytest.raises(DataError, match="is the key of the site 'north'"):
        admit(office, Path(shutil.copy(other, tmp_path / "south.pub")), replace=True)


def test_a_site_makes_a_new_key_and_takes_it_in_use_later(office: Office, site: home.Home) -> None:
    """Until then the old one counts; made twice it is the same; afterwards the old one is still there."""
    old, public = site.key.read_bytes(), site.folder / "north.pub"
    admit(office, public)
    with pytest.raises(RunError, match="has no new key"):
        home.use_new_key(site)
    waiting = home.new_key(site)
    assert home.new_key(site) == waiting and site.key.read_bytes() == old
    assert stat.S_IMODE(site.new_key.stat().st_mode) == 0o600
    text = waiting.read_bytes()
    assert text != public.read_bytes()
    assert admit(office, waiting, replace=True) == "north"
    assert home.use_new_key(site) == public
    assert public.read_bytes() == text == office.key("north").read_bytes()
    assert (site.folder / "private" / "old.key").read_bytes() == old
    assert stat.S_IMODE(site.key.stat().st_mode) == 0o600 and not site.new_key.exists()


def test_both_sides_show_the_fingerprint_that_ssh_shows(
    office: Office, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sst site join` and `sst hub admit` print it, and so does `ssh-keygen -lf`, where there is one."""
    (tmp_path / "data").mkdir()
    kit, folder = invite(office, "south").path, tmp_path / "south"
    assert sst.run(["site", "join", str(kit), "--data", str(tmp_path / "data"), "--folder", str(folder)]) == 0
    assert sst.run(["hub", "admit", str(office.folder), str(folder / "south.pub")]) == 0
    shown = re.findall(r"SHA256:\S+", capsys.readouterr().out)
    assert len(shown) == 2 and shown[0] == shown[1]
    if tool := shutil.which("ssh-keygen"):
        told = subprocess.run([tool, "-lf", folder / "south.pub"], capture_output=True, text=True, check=True).stdout
        assert told.split()[1] == shown[0]


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "é", "x" * 33])
def test_names_that_cannot_be_files_are_refused(name: str, office: Office) -> None:
    """A site's name becomes a path at the hub."""
    with pytest.raises(ConfigError):
        invite(office, name)


@pytest.mark.parametrize("address", ["hub", "hub:", ":8443", "hub:x", "hub:0", "hub:70000"])
def test_an_address_is_host_and_port(address: str) -> None:
    """One line with an example."""
    with pytest.raises(ConfigError, match="HOST:PORT"):
        check_address(address)


def test_a_kit_names_the_run_that_a_site_approves(office: Office) -> None:
    """Its name, its atlas and its seed, beside preset and app."""
    content = unzipped(invite(office, "north").path)
    about = json.loads(content["kit.json"])
    assert (about["run"], about["seed"]) == ("winter", load("tiny").seed)
    assert about["atlas"]["digest"] == read_atlas(office.folder).digest
    assert about["atlas"]["image"] == digest(published(read_atlas(office.folder)))
    assert about["bundle"] == hashlib.sha256(content["app.fab"]).hexdigest()
    (office.folder / "plan.json").unlink()
    with pytest.raises(RunError, match="no readable plan and atlas"):
        invite(office, "north")


def test_what_is_approved_is_shown_and_pinned(office: Office, site: home.Home) -> None:
    """App, run, schedule and what may leave in one text; afterwards the gate knows this run and no other."""
    found = bundle.read_bundle(site.bundle)
    text = "\n".join(consent.lines(site, found))
    for words in (
        "run winter, and no other",
        "preset tiny, seed 1",
        "2 steps",
        "what may leave",
        "mean over the people who train",
    ):
        assert words in text, words
    assert "weights of" not in text and "NOT WITHIN THE POLICY" not in text
    assert "declined, as the policy says: register, style, joint, flow_codes" in text
    assert re.search(r"declined, as .*, evaluate\n", text)
    site.policy.write_text(consent.policy_text().replace("dice = false", "dice = true"))
    assert not re.search(r"declined, as .*evaluate", "\n".join(consent.lines(site, found)))
    site.policy.write_text(usual_policy("networks"))
    text = "\n".join(consent.lines(site, found))
    assert "weights of" in text and "NOT WITHIN THE POLICY" in text and "weights leave with noise" not in text
    site.policy.write_text(usual_policy("networks").replace("networks_epsilon = inf", "networks_epsilon = 3"))
    text = "\n".join(consent.lines(site, found))
    assert "weights leave with noise of epsilon 3, delta 1e-05; 0.00 of 2 is spent so far" in text
    assert "but no training curves and no moments" in text and "declined, as the policy says: style, joint" in text
    site.policy.write_text(usual_policy("networks"))
    with pytest.raises(RunError, match="the policy asks for 40 or more.*Not approved"):
        consent.approve(site, found)
    assert not site.approved.exists()
    site.policy.unlink()
    consent.approve(site, found)
    assert site.policy.read_text() == consent.policy_text()
    (run,) = approved_runs(site.gate)
    assert (run.run, run.preset) == ("winter", load("tiny"))
    assert len((site.gate / "salt").read_bytes()) == 32
    assert consent.fault(site) == ""


def test_a_kit_for_another_run_has_to_be_approved(office: Office, site: home.Home) -> None:
    """Until then nothing runs; and then the first run is answered no more."""
    site.policy.write_text(OPEN)
    consent.approve(site, bundle.read_bundle(site.bundle))
    salt = (site.gate / "salt").read_bytes()
    (office.folder / "plan.json").write_text(json.dumps({"run": "spring"}))
    home.take(site, invite(office, "north").path)
    assert "the run of the last kit is not approved yet" in consent.fault(site)
    consent.approve(site, bundle.read_bundle(site.bundle))
    assert [run.run for run in approved_runs(site.gate)] == ["spring"]
    assert (site.gate / "salt").read_bytes() == salt


def test_a_folder_of_an_older_version_does_not_start(site: home.Home) -> None:
    """Its kit says nothing of a run: one line, which says what to ask for; to approve the app alone is not enough."""
    bundle.approve(site, bundle.read_bundle(site.bundle))
    assert "the run of the last kit is not approved yet" in consent.fault(site)
    about = {key: value for key, value in site.kit.items() if key not in ("run", "atlas", "signer")}
    (site.folder / "kit.json").write_text(json.dumps(about))
    assert "of a version before 0.3; ask the hub's operator for a new one" in consent.fault(site)
    with pytest.raises(DataError, match="of a version before 0.3"):
        consent.approve(site, bundle.read_bundle(site.bundle))


def test_a_ledger_of_an_older_version_goes_on(office: Office, site: home.Home) -> None:
    """It lay in the state folder; nothing of it is lost."""
    site.state.mkdir()
    (site.state / "ledger.jsonl").write_text("an entry\n")
    site.policy.write_text(OPEN)
    consent.approve(site, bundle.read_bundle(site.bundle))
    assert (site.gate / "ledger.jsonl").read_text() == "an entry\n"


@pytest.mark.parametrize("name", kits.FILES)
def test_hub_and_site_print_one_digest_of_the_whole_kit(
    name: str, office: Office, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At invite, join and approve; and with a byte more in any one file, signed or not, it is another one."""
    assert sst.run(["hub", "invite", str(office.folder), "north"]) == 0
    kit, where = office.kit("north"), str(tmp_path / "north")
    assert sst.run(["site", "join", str(kit), "--data", str(tmp_path), "--folder", where]) == 0
    (tmp_path / "north" / "policy.toml").write_text(OPEN)
    assert sst.run(["site", "approve", where, "--yes"]) == 0
    content = unzipped(kit)
    digest = kits.digest(content)
    assert re.fullmatch(r"([0-9a-f]{4} ){7}[0-9a-f]{4}", digest)
    assert capsys.readouterr().out.count(digest) == 3
    assert kits.digest({**content, name: content[name] + b"\n"}) != digest


def test_a_kit_that_was_changed_is_refused(office: Office, tmp_path: Path) -> None:
    """Any file of it, one more, one less; a torn file; a file that is no zip."""
    kit = invite(office, "north").path
    content = unzipped(kit)
    for name in kits.FILES:
        with pytest.raises(DataError, match="not as its hub signed it|damaged or no start-up kit"):
            read_kit(zipped({**content, name: content[name] + b" "}, tmp_path))
        with pytest.raises(DataError, match=f"damaged or no start-up kit \\({name}\\)"):
            read_kit(zipped({other: data for other, data in content.items() if other != name}, tmp_path))
    with pytest.raises(DataError, match="not as its hub signed it"):
        read_kit(zipped({**content, kits.SIGNATURE: content[kits.SIGNATURE][:-1]}, tmp_path))
    with pytest.raises(DataError, match="evil.py"):
        read_kit(zipped({**content, "evil.py": b""}, tmp_path))
    with pytest.raises(DataError, match="is not signed"):
        read_kit(zipped({name: content[name] for name in kits.FILES}, tmp_path))
    for data in (kit.read_bytes()[:1000], kit.read_bytes() + b" ", b"no zip", b""):
        (tmp_path / "torn.zip").write_bytes(data)
        with pytest.raises(DataError, match="damaged or no start-up kit"):
            read_kit(tmp_path / "torn.zip")


def test_a_kit_with_another_app_is_refused_or_shows_another_digest(office: Office, tmp_path: Path) -> None:
    """Whoever changes the app cannot sign; whoever signs it by an authority of their own cannot keep the digest."""
    kit = invite(office, "north")
    content = unzipped(kit.path)
    content["app.fab"] = longer(content["app.fab"])
    about = json.loads(content["kit.json"]) | {"bundle": hashlib.sha256(content["app.fab"]).hexdigest()}
    content["kit.json"] = json.dumps(about).encode()
    with pytest.raises(DataError, match="not as its hub signed it"):
        read_kit(zipped(content, tmp_path))
    forged = forge(content, tmp_path)
    assert home.join(forged, tmp_path / "forged", ())[2] != kit.digest


def test_a_kit_whose_app_is_a_bomb_is_refused(
    office: Office, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a folder is made, in one line, however well it is signed."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("client/zero.py", b"\0" * 60_000_000)
    office.bundle.write_bytes(memory.getvalue())
    kit, where = invite(office, "north").path, tmp_path / "north"
    assert sst.run(["site", "join", str(kit), "--data", str(tmp_path), "--folder", str(where)]) == 2
    assert capsys.readouterr().err == (
        f"error: the app in {kit} unpacks to 60,000,000 bytes; its kind has 50,000,000 at most: do not use it\n"
    )
    assert not where.exists()


def test_a_site_takes_new_kits_from_its_own_hub_alone(office: Office, site: home.Home, tmp_path: Path) -> None:
    """A kit of another authority, or for another site, leaves the folder as it was; its own hub's new app gets in."""
    before = {path.name: path.read_bytes() for path in site.folder.iterdir() if path.is_file()}
    content = unzipped(office.kit("north"))
    with pytest.raises(DataError, match="somebody else's"):
        home.take(site, forge(content, tmp_path))
    with pytest.raises(DataError, match="is the kit of the site 'south', not of 'north'"):
        home.take(site, invite(office, "south").path)
    assert {path.name: path.read_bytes() for path in site.folder.iterdir() if path.is_file()} == before
    office.bundle.write_bytes(longer(office.bundle.read_bytes()))
    kit = invite(office, "north")
    home.take(site, kit.path)
    assert site.bundle.read_bytes() == office.bundle.read_bytes()
    assert site.kit_digest == kit.digest


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_kit_can_be_checked_without_this_project(office: Office, tmp_path: Path) -> None:
    """By sha256sum and openssl, as `configs.kits.listing` says."""
    kit = invite(office, "north")
    with zipfile.ZipFile(kit.path) as archive:
        archive.extractall(tmp_path)
    said = kits.listing.__doc__ or ""
    commands = said[said.index("sha256sum README") : said.index("sha256sum list") + len("sha256sum list")]
    done = subprocess.run(["sh", "-ec", commands], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Verified OK\n{kit.digest.replace(' ', '')}")


def test_a_join_does_not_write_over_a_site(site: home.Home, office: Office, tmp_path: Path) -> None:
    """Nor into a folder of something else."""
    with pytest.raises(RunError, match="has joined already"):
        home.join(office.kit("north"), site.folder, ())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something else"):
        home.join(office.kit("north"), tmp_path / "full", ())


def test_the_approved_app_runs_and_no_other(site: home.Home, app: bytes) -> None:
    """The bundle itself, byte for byte: a hub that sends another is refused, whatever it calls it."""
    assert "no app is approved" in bundle.fault(site)
    approved(site)
    assert bundle.fault(site) == ""
    assert guard.fault(app, site.approved, site.flower) == ""
    assert "not the approved one" in guard.fault(app + b"x", site.approved, site.flower)
    assert guard.fault(app, site.folder / "nothing.json", site.flower) == "no app is approved"


@pytest.mark.parametrize("how", ["edited", "added", "compiled", "linked", "folder", "pipe", "removed"])
def test_an_unpacked_app_that_was_tampered_with_is_refused(how: str, site: home.Home, app: bytes) -> None:
    """Flower takes a folder that is there as it is, so each file is looked at, and none may be added."""
    folder = approved(site)
    bundle._writable(folder)
    victim = folder / "client" / "app.py"
    victim.chmod(0o644)
    if how == "edited":
        victim.write_text(victim.read_text() + "\nimport os\n")
    elif how == "added":
        (folder / "torch.py").write_text("evil = True\n")
    elif how == "compiled":
        (folder / "client" / "__pycache__").mkdir()
        (folder / "client" / "__pycache__" / "app.cpython-311.pyc").write_bytes(b"")
    elif how == "linked":
        victim.rename(site.folder / "kept.py")
        victim.symlink_to(site.folder / "kept.py")
    elif how == "folder":
        (site.folder / "evil").mkdir()
        (folder / "torch").symlink_to(site.folder / "evil")
    elif how == "pipe":
        os.mkfifo(folder / "pipe")
    else:
        victim.unlink()
    assert "differs from what was approved" in guard.fault(app, site.approved, site.flower)
    assert "differs from what was approved" in bundle.fault(site)


def test_a_second_app_beside_the_approved_one_is_found(site: home.Home) -> None:
    """As is a new kit's app before it is approved, and approving it takes the old one away."""
    folder = approved(site)
    bundle._writable(folder.parent)
    (folder.parent / "other.app.1.0.0.01234567").mkdir()
    assert "holds another app" in bundle.fault(site)
    approved(site)
    assert bundle.fault(site) == ""
    with zipfile.ZipFile(site.bundle, "a") as archive:
        archive.writestr("client/new.py", "x = 1\n")
    assert "not approved yet" in bundle.fault(site)
    before = bundle.approved_files(site)
    found = bundle.read_bundle(site.bundle)
    assert bundle.changes(found.files, before) == bundle.Changes(("client/new.py",), (), ())
    approved(site)
    assert [path.name for path in (site.flower / "apps").iterdir()] == [found.folder]


def test_the_unpacked_app_cannot_be_written_by_its_user(site: home.Home) -> None:
    """Folders and files alike."""
    folder = approved(site)
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o222 for path in (folder.parent, folder, *folder.rglob("*"))}
    assert modes == {0}


def test_a_bundle_that_leads_out_of_its_folder_is_refused(site: home.Home, tmp_path: Path) -> None:
    """Before anything is unpacked."""
    shutil.copy(site.bundle, tmp_path / "odd.fab")
    with zipfile.ZipFile(tmp_path / "odd.fab", "a") as archive:
        archive.writestr("../../evil.py", "x = 1\n")
    with pytest.raises(DataError, match="leads out of its folder"):
        bundle.read_bundle(tmp_path / "odd.fab")


def test_the_proxy_passes_the_fleet_path_alone(office: Office) -> None:
    """All names are filled in, and every location but one is refused."""
    text = proxy(office, office.settings)
    assert not any(word in text.split("http {")[1] for word in ("FOLDER", "PORT", "INNER"))
    assert [line.split()[1] for line in text.splitlines() if line.strip().startswith("location")] == ["/v1/fleet/", "/"]
    assert "location / { return 403; }" in text
    odd = Office(office.folder.parent / "PORTAL" / "INNER")
    assert str(odd.folder.resolve()) in proxy(odd, office.settings)
    with pytest.raises(ConfigError, match="nginx"):
        proxy(Office(office.folder / "a b"), office.settings)


def test_settings_name_the_key_that_is_wrong(office: Office, site: home.Home) -> None:
    """In hub.toml and site.toml alike."""
    for path, read in (
        (office.folder / "hub.toml", lambda: office.settings),
        (site.folder / "site.toml", lambda: site.settings),
    ):
        whole = path.read_text()
        assert read().name in ("trial", "north")
        path.write_text(whole + "prot = 1\n")
        with pytest.raises(ConfigError, match="unknown key 'prot'"):
            read()
        path.write_text(whole.replace("port = ", 'port = "x" # '))
        with pytest.raises(ConfigError, match="'port' is 'x'"):
            read()


def test_the_status_is_read_from_what_the_hub_wrote(office: Office, site: home.Home) -> None:
    """Phase, round, sites and their last failures; a torn last line is no error."""
    admit(office, site.folder / "north.pub")
    assert status(office).state == "not begun"
    Pulse(office).beat()
    events = [
        {"time": 1.0, "event": "round.started", "phase": "register", "round": 1},
        {
            "time": 3.0,
            "event": "round.finished",
            "phase": "register",
            "round": 1,
            "series": {"north": {}},
            "failed": {},
        },
        {"time": 4.0, "event": "round.started", "phase": "register", "round": 2},
    ]
    lines = "\n".join(json.dumps(event) for event in events)
    (office.folder / "events.jsonl").write_text(lines + '\n{"time": 5')
    found = status(office)
    assert (found.state, found.phase, found.round) == ("running", "register", 2)
    assert found.left is not None
    assert (found.sites[0].name, found.sites[0].state, found.sites[0].rounds) == ("north", "taking part", 1)
    waiting = {"time": 6.0, "event": "round.waiting", "phase": "register", "round": 2, "missing": {"north": "lost"}}
    (office.folder / "events.jsonl").write_text(lines + "\n" + json.dumps(waiting) + "\n")
    assert (status(office).state, status(office).message) == ("waiting", "north (lost)")
    late = {"time": 6.5, "event": "site.late", "site": "north"}
    (office.folder / "events.jsonl").write_text(json.dumps(late) + "\n")
    assert [(one.name, one.state) for one in status(office).sites] == [("north", "too late")]
    (office.folder / "failed.json").write_text(json.dumps({"code": "x", "message": "no quorum"}))
    os.utime(office.folder / "failed.json")
    assert (status(office).state, status(office).message) == ("failed", "no quorum")
