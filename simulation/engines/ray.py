"""Flower's simulation runtime on Ray: many sites share the cores of one machine.

Its SuperLink starts in an empty folder: the runtime imports from the SuperLink's folder first, so a package called
`client` there would run in place of the app's own (docs/flower.md, finding 5). A site knows only its number; the list
in SST_SITES says the rest.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from simulation.engines import SiteFolder
from simulation.engines.superlink import submit, superlink


def play(hub: Path, sites: Sequence[SiteFolder], work: Path) -> None:
    """Run the hub's experiment over the sites on Ray (see `run_federation`).

    Raises:
        FederationError: a process did not start, or the run failed.
    """
    # Ray's scratch has a short path of its own: its sockets do not work below a long one (107 characters).
    with (
        TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch,
        superlink(hub, sites, work, "--simulation", more={"RAY_TMPDIR": scratch}) as (processes, _),
    ):
        submit(processes, hub, ["--federation-config", _resources(len(sites))])


def _resources(sites: int) -> str:
    """Share the machine out: Ray starts as many sites at once as its resources allow."""
    import torch

    cores = max(1, len(os.sched_getaffinity(0)) // sites)
    config = f"num-supernodes={sites} client-resources-num-cpus={cores}"
    gpus = torch.cuda.device_count()
    return f"{config} client-resources-num-gpus={min(1.0, gpus / sites):.3f}" if gpus else config
