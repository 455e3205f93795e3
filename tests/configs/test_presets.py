"""What presets say of themselves, and `sst presets`."""

import json
from pathlib import Path

import pytest

import sst
from configs import presets
from configs.schema import load


@pytest.mark.parametrize("name", presets.names())
def test_each_preset_says_in_a_line_what_it_is_for(name: str) -> None:
    """A sentence that fits into a table, how long it takes or on what, and the command that uses it."""
    told = presets.about(presets.find(name))
    assert told.name == name and 10 < len(told.purpose) < 80 and told.takes
    assert told.command.startswith("sst ") and told.text.startswith(told.purpose)
    assert not told.extends or told.extends in presets.names()


def test_the_list_has_all_of_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a table, and as one JSON document."""
    monkeypatch.setenv("COLUMNS", "200")
    assert sst.run(["presets"]) == 0
    table = capsys.readouterr().out
    assert sst.run(["presets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["presets"]
    assert [one["name"] for one in listed] == list(presets.names())
    assert all(one["purpose"].replace("`", "") in table and one["takes"] in table for one in listed)


def test_one_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """The file itself on stdout, so that it can be kept and changed; where the rest comes from on stderr."""
    assert sst.run(["presets", "real-gpu"]) == 0
    out, err = capsys.readouterr()
    assert out == presets.find("real-gpu").read_text(encoding="utf-8")
    assert "sst presets real-cpu-networks" in err


def test_all_settings_of_one_are_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also what it takes from another, and the schema's defaults; of a file of one's own, too."""
    (tmp_path / "mine.toml").write_text('extends = "tiny"\n[phases.segment]\nsteps = 7\n')
    assert sst.run(["presets", str(tmp_path / "mine.toml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"] == json.loads(load(str(tmp_path / "mine.toml")).to_json())
    assert told["settings"]["phases"]["segment"]["steps"] == 7 and told["about"]["extends"] == "tiny"


@pytest.mark.parametrize("text", ["[grid", "\xff"], ids=["no TOML", "not UTF-8"])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And a name that there is none of names those that there are."""
    (tmp_path / "x.toml").write_bytes(text.encode("latin-1"))
    assert sst.run(["presets", str(tmp_path / "x.toml")]) == 2
    assert "x.toml is not valid TOML" in capsys.readouterr().err
    assert sst.run(["presets", "rael-cpu"]) == 2
    assert "give one of demo, paper, real-cpu" in capsys.readouterr().err
