"""The weighted mean of the sites' parts, folded in reply by reply."""

from collections.abc import Mapping

import numpy as np

from configs.errors import FederationError
from sst_models.wire.exchange import Arrays


class RunningMean:
    """Mean of named arrays by weight; its memory does not grow with the number of replies.

    Sums are kept in float64, and one reply alone comes back bit for bit.

    Example:
        >>> mean = RunningMean()
        >>> mean.add({"w": np.array([0.0, 2.0], np.float32)}, 1)
        >>> mean.add({"w": np.array([4.0, 6.0], np.float32)}, 3)
        >>> mean.arrays()["w"].tolist()
        [3.0, 5.0]
    """

    def __init__(self) -> None:
        self._total = 0.0
        self._means: dict[str, np.ndarray] = {}
        self._types: dict[str, np.dtype] = {}

    def add(self, arrays: Arrays, weight: float) -> None:
        """Fold in one reply.

        Raises:
            FederationError: names or shapes differ from the first reply's, or the weight is not positive.
        """
        if weight <= 0:
            raise FederationError(f"a reply with the weight {weight} cannot enter a mean; the site has no scans")
        self._check(arrays)
        self._total += weight
        if not self._means:
            self._means = {name: array.astype(np.float64) for name, array in arrays.items()}
            self._types = {name: array.dtype for name, array in arrays.items()}
            return
        for name, array in arrays.items():
            self._means[name] += (array - self._means[name]) * (weight / self._total)

    def arrays(self) -> dict[str, np.ndarray]:
        """Give the mean so far, in the types that came in."""
        return {name: mean.astype(self._types[name]) for name, mean in sorted(self._means.items())}

    def _check(self, arrays: Mapping[str, np.ndarray]) -> None:
        if not self._means:
            return
        if set(arrays) != set(self._means):
            odd = sorted(set(arrays) ^ set(self._means))[0]
            raise FederationError(f"the sites' replies differ: '{odd}' is not in all; they need the same version")
        for name, array in arrays.items():
            if array.shape != self._means[name].shape:
                raise FederationError(f"the sites' replies differ in the shape of '{name}'; same preset everywhere?")
