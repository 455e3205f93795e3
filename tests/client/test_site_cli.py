"""What the commands of a hospital print."""

from pathlib import Path

import pytest

import sst
from client.gate import ledger
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
    ledger.append(tmp_path / "state" / ledger.NAME, PhaseRequest(word, word, 1, "north", "{}"), reply, Parcel({}))
    assert sst.run(["site", "ledger", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert all(line.isprintable() for line in told.splitlines()) and len(told) < 20 * 400
    assert ":skull:" in told or "skull" not in word
    assert "[link=http://evil]" in told or "link" not in word
    assert "1 entries" in told
