"""A model as one folder: what is in it, and that no other folder passes for it."""

import json
from pathlib import Path

import pytest
import torch

from client.model import CARD, GENERATOR, SEGMENTER, open_model
from configs.errors import DataError
from configs.structures import PAPER
from egg import make_model
from sst_models.networks.build import build
from sst_models.wire import weights


def test_a_model_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Weights, grid, labels and what it is for; nothing pickled."""
    model = make_model(tmp_path / "model")
    net = model.segmenter(torch.device("cpu"))
    for name, value in build("segmenter", model.experiment).named_parameters():
        torch.testing.assert_close(dict(net.named_parameters())[name], value, check_stride=False)
    card = json.loads((tmp_path / "model" / CARD).read_text())
    assert card["labels"] == {str(s.id): s.name for s in PAPER.structures}
    assert card["grid"]["shape"] == list(model.frame.shape)
    assert {"use", "limits", "licence", "figures", "run", "site", "sites", "experiment"} <= set(card)
    assert {path.suffix for path in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", [SEGMENTER, "atlas.safetensors", GENERATOR])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    """One flipped byte anywhere, or a file that was not copied."""
    path = make_model(tmp_path / "model").folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=name):
        open_model(tmp_path / "model")
    path.unlink()
    with pytest.raises(DataError, match=f"has no {name}"):
        open_model(tmp_path / "model")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99, "digests": {}}', '{"format": 1, "digests": {}}'])
def test_a_folder_without_a_card_of_ours_is_no_model(tmp_path: Path, text: str) -> None:
    """Each is one line, never a stack trace."""
    (tmp_path / CARD).write_text(text)
    with pytest.raises(DataError, match=str(tmp_path)):
        open_model(tmp_path)


def test_a_card_of_another_grid_is_refused(tmp_path: Path) -> None:
    """The card is not in its own digests; the grid of the atlas still has to be the preset's."""
    model = make_model(tmp_path / "model")
    card = {**model.card, "experiment": {**model.card["experiment"], "grid": {"shape": [48, 48, 48], "spacing": 4.0}}}
    (tmp_path / "model" / CARD).write_text(json.dumps(card))
    with pytest.raises(DataError, match="another grid"):
        open_model(tmp_path / "model")


def test_writing_again_replaces_the_model_as_a_whole(tmp_path: Path) -> None:
    """No file of the old one stays, and nothing else is left beside it."""
    make_model(tmp_path / "model")
    make_model(tmp_path / "model", generator=False)
    assert not (tmp_path / "model" / GENERATOR).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_without_a_generator_says_so(tmp_path: Path) -> None:
    """A site may keep the weights of A."""
    with pytest.raises(DataError, match="no generator"):
        make_model(tmp_path / "model", generator=False).generator(torch.device("cpu"))


def test_a_model_carries_labels_only_if_it_holds_all_that_it_takes(tmp_path: Path) -> None:
    """E and F, and A, which a site may keep to itself."""
    assert make_model(tmp_path / "none").registration(torch.device("cpu")) is None
    assert make_model(tmp_path / "no-a", generator=False, registration=True).registration(torch.device("cpu")) is None
    model = make_model(tmp_path / "all", registration=True)
    found = model.registration(torch.device("cpu"))
    assert found is not None and sorted(found) == ["A", "E", "F"]
    for part, net in found.items():
        for name, value in build(part, model.experiment).named_parameters():
            torch.testing.assert_close(dict(net.named_parameters())[name], value, check_stride=False)


def test_the_digest_names_the_weights(tmp_path: Path) -> None:
    """Two folders of the same weights have one name; other weights have another."""
    first, second = (make_model(tmp_path / name) for name in ("a", "b"))
    assert first.digest == second.digest
    assert make_model(tmp_path / "c", generator=False).digest != first.digest
    assert weights.load(first.folder / SEGMENTER)


def test_a_run_s_or_site_s_folder_leads_to_its_model(tmp_path: Path) -> None:
    """The only one is opened; of several the choices are listed, and none is guessed."""
    run = tmp_path / "run"
    first = make_model(run / "sites" / "a" / "runs" / "x" / "model")
    for folder in (run, run / "sites" / "a", run / "sites" / "a" / "runs" / "x"):
        assert open_model(folder).digest == first.digest
    other = make_model(run / "sites" / "b" / "runs" / "x" / "model").folder
    with pytest.raises(DataError, match=f"run holds 2 models; name one of {first.folder}, {other}$"):
        open_model(run)
    assert open_model(run / "sites" / "b").folder == other
