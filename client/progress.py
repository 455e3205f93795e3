"""How far a site is with a request: one small file in its own state folder, for whoever looks at the site."""

import time

from client.site import Site
from sst_models.wire.exchange import PhaseRequest
from sst_models.wire.files import write_json

FILE = "progress.json"


class Progress:
    """Write `progress.json`, at most twice a second.

    Args:
        site: whose state folder to write to.
        request: what is being answered.
        steps: how many steps or scans there will be.
    """

    def __init__(self, site: Site, request: PhaseRequest, steps: int = 0) -> None:
        self.site, self.request, self.steps = site, request, steps
        self.written = 0.0

    def scans(self, done: int, of: int) -> None:
        """Tell that `done` of `of` scans are prepared."""
        self._write(done, of, None)

    def learnt(self, step: int, loss: float) -> None:
        """Tell that `step` steps are done, the last with this loss."""
        self._write(step, self.steps, loss)

    def _write(self, step: int, steps: int, loss: float | None) -> None:
        if time.monotonic() - self.written < 0.5 and step < steps:
            return
        self.written = time.monotonic()
        shown = {"phase": self.request.phase, "round": self.request.round, "site": self.site.name}
        write_json({**shown, "step": step, "steps": steps, "loss": loss}, self.site.state / FILE)
