"""Secure sums at the gate: what an app may not say, and which keys a site takes for other sites'."""

from pathlib import Path

import numpy as np
import pytest

import sst
from client.gate import gate, release, sums
from client.gate.approval import Approval
from client.gate.bounds import Seen
from client.gate.policy import Policy
from client.home import make_key
from client.site import Site
from configs.errors import ConfigError, DataError, RefusalError, ReleaseError
from configs.schema import Experiment, from_dict, load
from sst_models.secure_sum.terms import Terms
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply

SECURE = load("tiny", ("federation.aggregation=secure", "federation.foreign_negatives=0"))
WEIGHTS = {"w": np.zeros((2, 3), np.float32)}


def approval(experiment: Experiment = SECURE) -> Approval:
    """An approved run."""
    return Approval("run", experiment.to_json(), "0" * 64, "0" * 64, "0" * 64)


def ask(**changes: Arrays) -> PhaseRequest:
    """A request to train T."""
    return PhaseRequest("run", "register", 1, "east", SECURE.to_json(), {"T": WEIGHTS, **changes})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site with a key."""
    make_key(tmp_path / "gate" / "site.key", tmp_path / "east.pub")
    return Site("east", (tmp_path,), tmp_path, Policy(level="networks"))


@pytest.mark.parametrize("part", sorted(release.GATES_OWN))
def test_an_app_cannot_say_what_the_gate_alone_says(site: Site, part: str) -> None:
    """Bytes without a form would hold a scan: in runs with secure sums and in those without."""
    reply = SiteReply("east", "register", 1, 9, {"T": WEIGHTS, part: {"values": np.zeros(99, np.uint8)}})
    for experiment in (SECURE, load("tiny")):
        with pytest.raises(ReleaseError, match=f"holds the part '{part}', which the gate alone makes"):
            gate._asked(ask(), site, approval(experiment), lambda *_: reply, Seen(site.gate, site.gate))


@pytest.mark.parametrize(
    "reply",
    [
        SiteReply("east", "register", 1, 9, {"T": WEIGHTS}),
        SiteReply("east", "register", 1, 9, {"T": WEIGHTS, "masked": {"values": np.zeros(30, np.uint8)}}),
        SiteReply("east", "register", 1, 9, {"masked": {"values": np.zeros(31, np.uint8)}}),
        SiteReply("east", "register", 1, 9, {"masked": {"values": np.zeros(30, np.float32)}}),
        SiteReply("east", "register", 1, 9, {"masked": {"values": np.zeros(30, np.uint8)}}, metrics={"total": 1.0}),
    ],
)
def test_nothing_that_is_averaged_leaves_in_the_clear(reply: SiteReply) -> None:
    """Nor more than is masked, nor a curve, also where a reply comes from disk."""
    with pytest.raises(ReleaseError, match="unless it is masked"):
        sums.check_hidden(reply, ask())
    sums.check_hidden(SiteReply("east", "register", 1, 9, {"masked": {"values": np.zeros(30, np.uint8)}}), ask())


def test_training_that_went_off_does_not_leave(site: Site) -> None:
    """The hub cannot see which of the masked replies is far off."""
    far = SiteReply("east", "register", 1, 9, {"T": {"w": np.full((2, 3), 1e3, np.float32)}})
    with pytest.raises(ReleaseError, match="moved further than the approved steps reach"):
        dict(sums._changes(far, ask(), approval()))


def terms(folder: Path, run: str = "run", labels: tuple[str, ...] = SECURE.sums) -> Terms:
    """Terms of three sites whose keys are made in a folder, the first one's is there."""
    keys = {"east": folder / "east.pub"}
    for name in ("north", "south"):
        keys[name] = make_key(folder / f"{name}.key", folder / f"{name}.pub")
    return Terms(run, {name: path.read_text() for name, path in keys.items()}, labels)


def test_a_site_takes_no_key_that_its_it_did_not_approve(site: Site, tmp_path: Path) -> None:
    """Neither a site that is not known here, nor a known one with another key; nor another run, nor other rounds."""
    own = terms(tmp_path)
    with pytest.raises(RefusalError, match=r"names the site 'north' with the key SHA256:\S+, which is not approved"):
        sums._check_terms(own, site, approval())
    for name in ("north", "south"):
        assert sums.add_peer(site.gate, tmp_path / f"{name}.pub") == name
    sums._check_terms(own, site, approval())
    swapped = Terms(
        "run", {**own.sites, "south": make_key(tmp_path / "x.key", tmp_path / "x.pub").read_text()}, SECURE.sums
    )
    for odd in (swapped, terms(tmp_path, "another"), terms(tmp_path, labels=("register 1",))):
        with pytest.raises(RefusalError):
            sums._check_terms(odd, site, approval())


def test_peers_are_public_keys_of_sites(site: Site, tmp_path: Path) -> None:
    """Anything else is refused, and nothing of it is kept."""
    wrong = tmp_path / "wrong.pub"
    for text in ("", "ssh-rsa AAAA", (tmp_path / "gate" / "site.key").read_text()):
        wrong.write_text(text)
        with pytest.raises(DataError, match="no public key"):
            sums.add_peer(site.gate, wrong)
    assert not sums.peers(site.gate)


def test_the_command_shows_what_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is no site's is said so, by exit code 2."""
    public = make_key(tmp_path / "n.key", tmp_path / "north.pub")
    assert sst.run(["site", "peer", str(tmp_path), str(public)]) == 2
    (tmp_path / "site.toml").write_text('name = "east"\naddress = "h:1"\ndata = "d"\n')
    assert sst.run(["site", "peer", str(tmp_path), str(public)]) == 0
    assert "north: SHA256:" in capsys.readouterr().out and "north" in sums.peers(tmp_path / "gate")


def test_secure_sums_keep_moments_at_their_sites() -> None:
    """A preset that passes them on is refused before anything runs."""
    for changes in ({"foreign_negatives": 2}, {"style": "moments"}):
        with pytest.raises(ConfigError, match="moments of style codes stay at their sites"):
            from_dict(
                {"name": "odd", "federation": {"aggregation": "secure", "foreign_negatives": 0, **changes}}, "odd"
            )
    assert SECURE.sums and not load("tiny").sums
