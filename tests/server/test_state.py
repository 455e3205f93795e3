"""What the hub keeps between rounds."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs.phases import phase_of
from configs.schema import load
from server import state
from server.state import RunState, Store, Stored, fresh_parts
from sst_models.networks.build import build
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays


def part(value: float) -> Arrays:
    """One part of two arrays."""
    return {"bias": np.full(2, value, np.float32), "weight": np.full((2, 3), value, np.float32)}


def values(run: RunState) -> dict[str, dict[str, list[float]]]:
    """Everything in a state, read."""
    return {name: {key: array.tolist() for key, array in arrays.items()} for name, arrays in run.parts.items()}


def test_a_state_comes_back_whole(tmp_path: Path) -> None:
    """Shared parts and each site's own; what no state names any more is gone."""
    store = Store(tmp_path, load("tiny"))
    first = RunState(1, {"T": part(1), "A.left": part(2), "A.right": part(3), "moments.left": part(4)})
    store.save(first)
    kept = store.resume()
    assert kept is not None and kept.done == 1 and values(kept) == values(first)
    second = kept.with_parts({"A.left": part(5)})
    store.save(second)
    again = store.resume()
    assert again is not None and again.done == 2 and values(again) == values(second)
    assert len(list((tmp_path / "library").iterdir())) == 2


def test_how_far_rounds_went_comes_back_to_the_bit(tmp_path: Path) -> None:
    """A resumed run shortens a reply as one that was not stopped; a state of an earlier version knows no way yet."""
    store = Store(tmp_path, load("tiny"))
    store.save(RunState(2, {"T": part(1)}, moved={"T": (0.1, 1 / 3)}))
    kept = store.resume()
    assert kept is not None and kept.moved == {"T": (0.1, 1 / 3)}
    document = json.loads((tmp_path / "state.json").read_text())
    experiment = json.loads(document.pop("experiment"))
    del document["moved"], experiment["federation"]["quorum"]  # a key that this version did not have, say
    (tmp_path / "state.json").write_text(json.dumps({**document, "experiment": json.dumps(experiment)}))
    old = store.resume()
    assert old is not None and old.moved == {} and old.done == 2


def test_the_parts_of_sites_stay_on_disk(tmp_path: Path) -> None:
    """Their memory would grow with the number of sites."""
    store = Store(tmp_path, load("tiny"))
    store.save(RunState(1, {"T": part(1), "A.left": part(2)}))
    kept = store.resume()
    assert kept is not None
    own = kept.parts["A.left"]
    assert isinstance(own, Stored) and set(own) == {"bias", "weight"} and len(own) == 2
    with pytest.raises(KeyError):
        own["gain"]


def test_a_save_that_is_cut_off_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the new state may be there already; the old one's all are."""
    store = Store(tmp_path, load("tiny"))
    first = RunState(1, {"T": part(1), "A.left": part(2)})
    store.save(first)

    def cut(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(state, "write_json", cut)
    with pytest.raises(OSError, match="no space"):
        store.save(first.with_parts({"T": part(6), "A.left": part(7)}))
    kept = store.resume()
    assert kept is not None and kept.done == 1 and values(kept) == values(first)


def test_a_phase_that_is_left_out_trains_nothing_and_the_next_one_begins_in_its_place():
    """Without register T stays as it begins, and F begins as it would have: as T does."""
    short = load("tiny", ("phases.register.rounds=0",))
    assert ("register", 1) not in short.schedule and "T" not in short.trained
    parts = fresh_parts(phase_of("joint"), RunState(), short)
    first = weights.parameters(build("T", short))
    assert all(np.array_equal(parts["F"][name], array) for name, array in first.items())
