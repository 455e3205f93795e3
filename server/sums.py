"""Secure sums at the hub: it relays the sites' keys and shares, adds up masked replies, and has the masks taken off.

The protocol is in `sst_models.secure_sum`. Who is in a sum is written down before the sites are asked for the shares
that take its masks off: they give them once, for one set of sites.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import DataError, FederationError, RunError
from configs.phases import phase_of
from server import vet
from server.fold import Fold
from server.hub import Hub
from sst_models.secure_sum import fixed_point, messages
from sst_models.secure_sum import hub as summing
from sst_models.secure_sum.hub import MaskedSum, Setup
from sst_models.secure_sum.messages import Announcement, Confirmation, Reveal
from sst_models.secure_sum.terms import Terms
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.files import replace_file, write_json
from sst_models.wire.payload import distance

FOLDER = "sums"
"""In the hub's folder: `setup.json`, and for each sum who is in it, `PHASE ROUND.json`."""

CODE = "sums"
"""What is wrong with a reply that does not fit into a sum."""


def set_up(hub: Hub) -> Setup:
    """Give the set-up of a run's secure sums; where there is none yet, the sites that train networks make it.

    Raises:
        FederationError: they are fewer than three, or too few answer.
        RunError: the hub has no key of one of them.
    """
    path = hub.folder / FOLDER / "setup.json"
    setup = Setup.from_json(path.read_text(encoding="utf-8")) if path.exists() else Setup(_terms(hub))
    if not setup.boxes:
        setup = replace(setup, announced={})  # a set-up that was broken off here begins again with the same keys
    for number, step in enumerate(_STEPS, start=1):
        if not step.done(setup):
            setup = _exchange(hub, number, step, setup)
            replace_file(path, setup.to_json())
    return setup


@dataclass
class MaskedFold:
    """The replies of one round of a run of secure sums: masked parts are added up, and none of them is kept.

    What is a site's own is not masked, and goes to `fold`.
    """

    hub: Hub
    setup: Setup
    fold: Fold
    label: str
    masked: MaskedSum = field(init=False)
    settled: tuple[str, ...] = field(init=False)  # who is in the sum, where that was decided before a restart
    clipped: dict[str, float] = field(default_factory=dict)  # none can be: the hub sees no single reply
    moved: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.masked = summing.start(self.label, sum(array.size for array in self._sent().values()))
        path = self._path
        self.settled = tuple(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else ()

    @property
    def series(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """Training curves: of nobody."""
        return {}

    def add(self, reply: SiteReply) -> str:
        """Take one reply in; give an error code where it must be left out."""
        request, own = self.fold.requests[reply.site], self.fold
        if code := vet.fault(reply, request, own.phase, own.experiment, masked=self.masked.total.size):
            return code
        if self.settled and reply.site not in self.settled:
            return CODE
        try:
            values = fixed_point.unpack(reply.arrays["masked"]["values"])
            self.masked = summing.add_masked(self.setup, self.masked, reply.site, values)
        except (FederationError, ValueError):
            return CODE
        return own.take(replace(reply, arrays={part: a for part, a in reply.arrays.items() if part != "masked"}))

    def drop_outliers(self) -> dict[str, str]:
        """Drop none: a reply that is masked has no length."""
        return {}

    def close(self) -> dict[str, Arrays]:
        """Give what the round brought: the mean over the sites in the sum, and what is each site's own.

        Raises:
            FederationError: too few sites are left to take the masks off.
        """
        write_json(list(self.masked.sites), self._path)
        total = _unmask(self.hub, self.setup, self.masked)
        sent = self._sent()
        shapes = {name: array.shape for name, array in sent.items()}
        changes = fixed_point.decode(total, shapes, self.setup.weight(self.masked.sites))
        shared: dict[str, dict[str, np.ndarray]] = {}
        for name, change in changes.items():
            part, inner = name.split("/", 1)
            shared.setdefault(part, {})[inner] = (sent[name].astype(np.float64) + change).astype(np.float32)
        asked = next(iter(self.fold.requests.values())).arrays
        self.moved = {part: distance(arrays, asked[part]) for part, arrays in sorted(shared.items())}
        return {**self.fold.close(), **shared}

    @property
    def _path(self) -> Path:
        return self.hub.folder / FOLDER / f"{self.label}.json"

    def _sent(self) -> dict[str, np.ndarray]:
        """Give what all sites started from, by "PART/NAME"."""
        asked = next(iter(self.fold.requests.values())).arrays
        return {f"{part}/{name}": a for part in self.fold.phase.averaged for name, a in asked[part].items()}


def _terms(hub: Hub) -> Terms:
    sites = [site for site in hub.sites if hub.trains(site)]
    keys = {}
    for site in sites:
        path = hub.folder / "sites" / f"{site}.pub"
        try:
            keys[site] = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"secure sums need the key of each site, and {path} cannot be read") from error
    try:
        return Terms(hub.plan.run, keys, hub.experiment.sums)
    except DataError as error:
        raise FederationError(str(error)) from error


@dataclass(frozen=True)
class _Step:
    """One exchange of the set-up."""

    words: Callable[[Setup, str], object]  # for a site
    done: Callable[[Setup], bool]
    add: Callable[[Setup, str, Any], Setup]  # what a site said


def _agreed(setup: Setup, site: str, said: object) -> Setup:
    return replace(setup, agreed=(*setup.agreed, site))


_STEPS = (
    _Step(
        lambda setup, _: {"terms": json.loads(setup.terms.to_json())},
        lambda setup: bool(setup.boxes),
        lambda setup, _, said: summing.add_announcement(setup, messages.from_json(Announcement, said)),
    ),
    _Step(
        lambda setup, _: {"announcements": [messages.to_json(one) for one in setup.announced.values()]},
        lambda setup: bool(setup.boxes),
        lambda setup, site, said: summing.add_boxes(setup, site, dict(said)),
    ),
    _Step(
        lambda setup, site: {"boxes": setup.boxes_for(site)},
        lambda setup: bool(setup.confirmed),
        lambda setup, _, said: summing.add_confirmation(setup, messages.from_json(Confirmation, said)),
    ),
    _Step(
        lambda setup, _: {"confirmations": [messages.to_json(one) for one in setup.confirmed.values()]},
        lambda setup: bool(setup.agreed),
        _agreed,
    ),
)


def _exchange(hub: Hub, number: int, step: _Step, setup: Setup) -> Setup:
    """Ask the sites that are in it so far for one step of the set-up."""
    sites = (
        sorted(setup.terms.sites),
        sorted(setup.announced),
        list(setup.participants),
        sorted(setup.confirmed),
    )[number - 1]
    found = setup

    def take(reply: SiteReply) -> str:
        nonlocal found
        if code := hub.fault(reply):
            return code
        try:
            found = step.add(found, reply.site, json.loads(reply.arrays["sums"]["said"].tobytes()))
        except (FederationError, ValueError, TypeError, KeyError, RecursionError):
            return CODE
        return ""

    requests = {site: _request(hub, "keys", number, site, step.words(setup, site)) for site in sites}
    hub.members.collect(requests, take, least=setup.terms.threshold)
    return found


def _unmask(hub: Hub, setup: Setup, masked: MaskedSum) -> np.ndarray:
    """Ask the sites in a sum for shares until it takes no more of them, and take the masks off."""
    reveals: list[Reveal] = []

    def take(reply: SiteReply) -> str:
        if code := hub.fault(reply):
            return code
        try:
            reveals.append(messages.from_json(Reveal, json.loads(reply.arrays["sums"]["said"].tobytes())))
        except (ValueError, TypeError, KeyError, RecursionError):
            return CODE
        return ""

    number = hub.experiment.sums.index(masked.label) + 1
    words = {"survivors": list(masked.sites)}
    requests = {site: _request(hub, "unmask", number, site, words) for site in masked.sites}
    needed = setup.terms.threshold
    if len(requests) < needed:
        lost = sorted(set(setup.terms.sites) - set(masked.sites))
        raise FederationError(
            f"the sum of {masked.label} has {len(requests)} sites, and takes {needed} ({', '.join(lost)} did not "
            "answer): nothing of it can be seen"
        )
    hub.members.collect(requests, take, quorum=needed / len(requests), least=needed)
    return summing.unmask(setup, masked, reveals)


def _request(hub: Hub, phase: str, number: int, site: str, words: object) -> PhaseRequest:
    said = np.frombuffer(json.dumps(words).encode(), np.uint8)
    return hub.request(phase_of(phase).name, number, site, {"sums": {"said": said}})
