"""What the commands of a hospital print."""

import json
from pathlib import Path

import pytest

import sst
from client.gate import ledger
from client.preflight import COMPARED
from server.authority import make_authority
from simulation.engines.superlink import free_port
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel

HOSTILE = (
    "[/boom]",
    "[link=http://evil]all well[/link]",
    "\x1b[2J\x1b[31mx",
    "A" * 3_000_000,
    "a\u202eb",
    "\x9b2J\x7f",
    ":skull: │",
)


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hubs_hostile_words_do_nothing_to_the_ledgers_table(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run and phase of a request come from the hub."""
    monkeypatch.setenv("COLUMNS", "400")
    reply = SiteReply("north", "register", 1, 3, error=word)
    ledger.append(tmp_path / "gate" / ledger.NAME, PhaseRequest(word, word, 1, "north", "{}"), reply, Parcel({}))
    assert sst.run(["site", "ledger", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert all(line.isprintable() for line in told.splitlines()) and len(told) < 20 * 400
    assert ":skull:" in told or "skull" not in word
    assert "[link=http://evil]" in told or "link" not in word
    assert "1 entries" in told
    assert sst.run(["site", "ledger", str(tmp_path), "--json"]) == 0
    document = capsys.readouterr().out
    (entry,) = json.loads(document)["entries"]
    assert document.isascii() and entry["phase"] == word[: len(entry["phase"])] and entry["site"] == "north"


@pytest.mark.parametrize("command", ["ledger", "check", "start", "approve", "report", "new-key"])
def test_a_folder_that_is_no_sites_is_named(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is misspelt has no empty ledger: it has none."""
    for folder in (tmp_path, tmp_path / "none"):
        assert sst.run(["site", command, str(folder)]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith(f"error: {folder} is not a site's folder")


def test_an_empty_ledger_is_a_document_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script need not tell it apart."""
    (tmp_path / "site.toml").write_text('name = "north"\naddress = "127.0.0.1:9"\ndata = "x"\n')
    assert sst.run(["site", "ledger", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing has left this site\n"
    assert sst.run(["site", "ledger", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"entries": []}


def test_a_kits_hostile_words_do_nothing_to_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions come from the hub; each line is one line, and only its mark has a colour."""
    monkeypatch.setenv("COLUMNS", "3000")
    make_authority(tmp_path, "trial")
    versions = dict.fromkeys(COMPARED, "") | dict(zip("abcdefgh", HOSTILE, strict=False))
    (tmp_path / "kit.json").write_text(json.dumps({"versions": versions}))
    (tmp_path / "site.toml").write_text(f'name = "north"\naddress = "127.0.0.1:{free_port()}"\ndata = "{tmp_path}"\n')
    assert sst.run(["site", "check", str(tmp_path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() and line[:6] in ("  ok  ", "STOP  ") and len(line) < 2100 for line in lines)
    assert len([line for line in lines if line.startswith("STOP  version of ")]) == len(versions)
    assert sst.run(["site", "check", str(tmp_path), "--json"]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert out.isascii() and document["fine"] is False and len(document["lines"]) == len(lines)
    assert set(document["lines"][0]) == {"name", "fine", "found", "do"} and "error: " in err.splitlines()[-1]
    assert any("the hub has [/boom]" in line for line in lines) and any(":skull:" in line for line in lines)
