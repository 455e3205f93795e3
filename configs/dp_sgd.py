"""How training hides people: what a site's gate asks of the app that trains, and what its budget counts.

Plain data. `sst_models.training.private` trains so, `client.gate.networks` decides how, `client.gate.budget` counts it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class DpSgd:
    """DP-SGD of one round: each person's gradient is shortened to one length, and noise is added to their sum."""

    multiplier: float  # standard deviation of the noise on a step's sum, in lengths that a gradient may have
    rate: float  # probability with which a person is part of a step
    steps: int
    words: str = ""  # that repeatable randomness begins with, at a simulated site; "": the operating system's
