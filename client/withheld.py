"""What a site learns and keeps: parts that its policy withholds stay in its folder, and go on being learnt there.

The hub then has no version of them, and sends its first one again; the site puts its own in that place.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from client.site import Site
from configs.phases import phase_of
from configs.schema import Experiment
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays


class Withheld:
    """The withheld parts of one run: a file for each part and round, `own/PART-PHASE-ROUND.safetensors`."""

    def __init__(self, site: Site, run: str, experiment: Experiment) -> None:
        """Look where the parts of a run lie."""
        self._folder, self._policy = site.folder(run) / "own", site.policy
        self._rounds = [(phase_of(name), n) for name, n in experiment.schedule if phase_of(name).message]

    def before(self, phase: str, number: int) -> dict[str, dict[str, np.ndarray]]:
        """Give the site's latest version of each part that is withheld and stands in a phase, from the rounds before.

        Raises:
            DataError: a file is damaged.
        """
        names = [(each.name, n) for each, n in self._rounds]
        here = names.index((phase, number))
        wanted = (*self._rounds[here][0].learns, *self._rounds[here][0].uses)
        return {part: found for part in wanted if (found := self._latest(part, here))}

    def last(self, part: str) -> Arrays | None:
        """Give the site's last version of a part, or None where it has none or withholds none.

        Raises:
            DataError: the file is damaged.
        """
        return self._latest(part, len(self._rounds)) or None

    def keep(self, phase: str, number: int, learnt: Mapping[str, Arrays]) -> None:
        """Keep what is withheld of what a round learnt."""
        for part, arrays in learnt.items():
            if self._policy.withholds(part):
                tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
                weights.save(tensors, self._file(part, phase, number))

    def _latest(self, part: str, before: int) -> dict[str, np.ndarray]:
        if not self._policy.withholds(part):
            return {}
        for phase, number in reversed(self._rounds[:before]):
            path = self._file(part, phase.name, number)
            if part in phase.learns and path.exists():
                return {name: tensor.numpy() for name, tensor in weights.load(path).items()}
        return {}

    def _file(self, part: str, phase: str, number: int) -> Path:
        return self._folder / f"{part}-{phase}-{number}.safetensors"
