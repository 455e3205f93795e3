"""How long certificates hold, who is told, and a new one for the server."""

import json
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

import sst
from configs.errors import RunError
from configs.schema import load
from server import authority
from server.authority import issue_server, make_authority
from server.certificates import certificates, renew, warnings
from server.office import Office, Settings, write_settings
from sst_models.wire.credentials import lasting


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """A hub's folder with an authority."""
    made = Office(tmp_path / "hub")
    make_authority(made.tls, "trial")
    (made.folder / "hub.toml").write_text(write_settings(Settings("trial", "hub.example.org", 8443)))
    (made.folder / "experiment.json").write_text(load("tiny").to_json())
    return made


def test_new_certificates_are_shown_and_nobody_is_warned(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are in the table's page and in the JSON."""
    issue_server(office.tls, "hub.example.org")
    assert [round(one.days) for one in certificates(office)] == [3650, 825]
    assert list(warnings(office)) == []
    assert sst.run(["hub", "status", str(office.folder)]) == 0
    told = capsys.readouterr()
    assert "certificate of the authority: until" in told.out and ", 825 days" in told.out and told.err == ""
    assert sst.run(["hub", "status", str(office.folder), "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["certificates"]] == ["authority", "server"]


def test_certificates_are_as_strict_clients_want_them(office: Office) -> None:
    """Python's own from 3.13 on: each says whose key it holds, and whose signed it (RFC 5280)."""
    issue_server(office.tls, "localhost")
    here = ssl.create_default_context(cafile=str(office.tls / "ca.crt"))
    here.verify_flags |= ssl.VERIFY_X509_STRICT
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(office.tls / "server.crt", office.tls / "server.key")
    pipes = [ssl.MemoryBIO() for _ in range(2)]
    ends = [
        here.wrap_bio(pipes[0], pipes[1], server_hostname="localhost"),
        there.wrap_bio(pipes[1], pipes[0], server_side=True),
    ]
    for end in ends * 2:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert ends[0].getpeercert()


@pytest.mark.parametrize(("days", "severe", "word"), [(29, False, "until"), (-0.01, True, "expired on")])
def test_an_operator_is_warned_in_time(
    days: float, severe: bool, word: str, office: Office, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """From 30 days before the end on, in the status and at the start, with what to do."""
    monkeypatch.setattr(authority, "SERVER_DAYS", days)
    issue_server(office.tls, "hub.example.org")
    (warned,) = warnings(office)
    assert warned.severe is severe and word in warned.text and "sst hub renew-certificates" in warned.text
    assert sst.run(["hub", "status", str(office.folder)]) == 0
    assert warned.text in " ".join(capsys.readouterr().err.split())
    sst.run(["hub", "start", str(office.folder)])  # has no app, and ends at once
    assert warned.text in " ".join(capsys.readouterr().err.split())


def test_a_renewed_certificate_is_for_the_host_of_hub_toml(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    """Another host is warned of until then; the authority stays, so that the sites' kits do."""
    issue_server(office.tls, "hub.example.org")
    before, kit = (office.tls / "server.crt").read_bytes(), (office.tls / "ca.crt").read_bytes()
    (office.folder / "hub.toml").write_text(write_settings(Settings("trial", "10.0.0.7", 8443)))
    (warned,) = warnings(office)
    assert "not for 10.0.0.7" in warned.text and warned.severe
    assert sst.run(["hub", "renew-certificates", str(office.folder)]) == 0
    assert "sst hub start" in capsys.readouterr().out
    assert list(warnings(office)) == []
    assert (office.tls / "server.crt").read_bytes() != before and (office.tls / "ca.crt").read_bytes() == kit
    server = x509.load_pem_x509_certificate((office.tls / "server.crt").read_bytes())
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(kit))


def test_no_certificate_outlives_its_authority(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends in 100 days gives 100 days, one that has ended none at all; nor does one without its key."""
    monkeypatch.setattr(authority, "AUTHORITY_DAYS", 100)
    make_authority(office.tls, "trial")
    assert renew(office).days == pytest.approx(100, abs=0.01)
    monkeypatch.setattr(authority, "AUTHORITY_DAYS", -0.01)
    make_authority(office.tls, "trial")
    with pytest.raises(RunError, match="authority's certificate .* has expired"):
        renew(office)
    (office.tls / "ca.key").unlink()
    with pytest.raises(RunError, match="ca.key.*is missing"):
        renew(office)


def test_a_date_is_said_with_its_days() -> None:
    """A day is 86400 seconds, and the date is UTC's."""
    assert lasting(86_400.0 * 11, now=86_400.0) == "until 1970-01-12, 10 days"
    assert lasting(86_400.0, now=86_401.0) == "expired on 1970-01-02"
