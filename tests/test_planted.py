"""Names, paths and header texts of patients, planted at a site, are looked for in all that reaches the hub."""

from pathlib import Path

import nibabel as nib
import pytest
from flwr.app import Message
from flwr.common.serde import recorddict_to_proto

from configs.errors import FederationError
from configs.schema import from_dict
from live import TINY, write_brains
from server.atlas import load_atlas, save_atlas
from simulation.engines import SiteFolder, run_federation
from simulation.engines.inprocess import InProcessGrid

PLANTED = ("DoeJane", "19700101", "Saint-Nowhere", "scanner-of-ward-7", "secret")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Everything that sites send, as it goes over the wire."""
    found: list[bytes] = []
    answer = InProcessGrid._answer

    def listen(self: InProcessGrid, message: Message) -> Message:
        reply = answer(self, message)
        found.append(recorddict_to_proto(reply.content).SerializeToString() if reply.has_content() else b"")
        found.append(repr(reply.metadata).encode() + str(reply.error if reply.has_error() else "").encode())
        return reply

    monkeypatch.setattr(InProcessGrid, "_answer", listen)
    return found


def plant(folder: Path, seed: int) -> None:
    """Scans of people whose names are in the paths and in the headers, one of them damaged."""
    write_brains(folder, seed, people=7)
    for path in sorted(folder.rglob("*sub-0*.nii.gz")):
        image = nib.load(path)
        image.header["descrip"] = b"DoeJane 19700101 secret"
        image.header["intent_name"] = b"DoeJane"
        nib.save(image, path)
    for path in sorted(folder.rglob("*sub-0*"), reverse=True):
        path.rename(path.with_name(path.name.replace("sub-0", "sub-DoeJane19700101")))
    damaged = next(iter(sorted(folder.rglob("*7_T1w.nii.gz"))))
    damaged.write_bytes(damaged.read_bytes()[:2000])


def federation(root: Path) -> tuple[Path, list[SiteFolder]]:
    """A hub and two sites."""
    sites = []
    for seed, name in enumerate(("left", "right")):
        data = root / "Saint-Nowhere" / "scanner-of-ward-7" / name
        plant(data, seed)
        sites.append(SiteFolder(name, (data,), root / "Saint-Nowhere" / f"state-{name}", device="cpu"))
    hub = root / "hub"
    hub.mkdir()
    write_brains(root / "atlas", 9, people=1)
    start = root / "atlas"
    image, labels = (next(start.rglob(f"*{kind}.nii.gz")) for kind in ("T1w", "dseg"))
    experiment = from_dict(dict(TINY), "tiny")
    save_atlas(load_atlas(image, labels, experiment.grid.shape, experiment.grid.spacing), hub)
    (hub / "experiment.json").write_text(experiment.to_json())
    (hub / "plan.json").write_text('{"run": "tiny", "device": "cpu"}')
    return hub, sites


def leaks(sent: list[bytes], hub: Path) -> list[str]:
    """Give what was planted and came to the hub, and where."""
    files = {str(path.relative_to(hub)): path.read_bytes() for path in sorted(hub.rglob("*")) if path.is_file()}
    texts = {"the wire": b"\n".join(sent), **files}
    found = [
        (word, where) for where, text in texts.items() for word in PLANTED if word.lower().encode() in text.lower()
    ]
    return [f"{word} in {where}" for word, where in found]


def test_a_run_tells_the_hub_nothing_of_patients(tmp_path: Path, sent: list[bytes]) -> None:
    """A whole run, with a damaged scan at each site, whose name is in that site's own log."""
    hub, sites = federation(tmp_path)
    run_federation("inprocess", hub, sites, tmp_path / "work")
    assert sum(map(len, sent)) > 100_000
    assert leaks(sent, hub) == []
    own = b"".join(path.read_bytes() for path in sites[0].state.rglob("*") if path.is_file())
    assert b"DoeJane" in own  # so it was there to leak


def test_a_failure_tells_the_hub_nothing_of_patients(tmp_path: Path, sent: list[bytes]) -> None:
    """Nor do the words of an error, which name the file for the site's own log."""
    hub, sites = federation(tmp_path)
    for path in sites[1].data[0].rglob("*.nii.gz"):
        path.write_bytes(b"no NIfTI")
    with pytest.raises(FederationError, match="right could not join") as told:
        run_federation("inprocess", hub, sites, tmp_path / "work")
    assert not any(word in str(told.value) for word in PLANTED)
    assert leaks(sent, hub) == []
    assert "DoeJane" in (sites[1].state / "gate" / "site.log").read_text()
