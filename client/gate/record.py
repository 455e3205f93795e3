"""What a site was asked in a run: each phase and round once, each segmenter once, and not more than its policy allows.

A phase and round is bound to the first request that passed every check. The same content may come again, as a hub does
after a lost reply; anything else under that name is refused. The record lies in the gate's folder and is written
before the work begins.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.gate.policy import Policy
from configs.errors import RefusalError
from sst_models.wire.exchange import PhaseRequest
from sst_models.wire.files import write_json
from sst_models.wire.payload import digest

ASKED, TIMES = "asked.json", "requests.json"

DAY = 86_400.0
"""Seconds."""


@dataclass
class Record:
    """What one run asked of this site so far."""

    folder: Path  # of the run, in the gate's
    asked: dict[str, str] = field(default_factory=dict)  # "phase round" -> digest of the request's content
    segmenters: list[str] = field(default_factory=list)  # the digests that the hub announced, in its order
    tested: list[str] = field(default_factory=list)  # those of them that were tested

    @classmethod
    def of(cls, folder: Path) -> "Record":
        """Read the record of a run.

        Raises:
            RefusalError: it is damaged.
        """
        try:
            kept = json.loads((folder / ASKED).read_text(encoding="utf-8"))
            return cls(folder, dict(kept["asked"]), list(kept["segmenters"]), list(kept["tested"]))
        except OSError:
            return cls(folder)
        except (ValueError, KeyError, TypeError) as error:
            raise RefusalError("the record of what this run asked is damaged: the site takes part no more") from error

    def known(self, request: PhaseRequest, key: str) -> bool:
        """Say whether a request was bound before; `key` is the digest of its content.

        Raises:
            RefusalError: another request was, under the same phase and round.
        """
        bound = self.asked.get(_name(request))
        if bound not in (None, key):
            raise RefusalError(f"another request for {_name(request)} was taken before; each is answered once")
        return bound is not None

    def bind(self, request: PhaseRequest, key: str) -> None:
        """Bind a phase and round to a request, and a segmenter to its one test.

        Raises:
            RefusalError: its segmenter was not announced, was tested already, or the announcement changed.
            OSError: the disk is full.
        """
        if request.phase == "evaluate":
            self._bind_segmenter(request)
        self.asked[_name(request)] = key
        write_json({"asked": self.asked, "segmenters": self.segmenters, "tested": self.tested}, self.folder / ASKED)

    def _bind_segmenter(self, request: PhaseRequest) -> None:
        announced = str(request.settings.get("segmenters", "")).split()
        if self.segmenters and announced != self.segmenters:
            raise RefusalError("the hub announces other segmenters than it did at the first test")
        name = digest(request.arrays["segmenter"])
        if name not in announced:
            raise RefusalError("the segmenter to be tested was not announced")
        if name in self.tested:
            raise RefusalError("this segmenter was tested already; each is tested once")
        self.segmenters = announced
        self.tested.append(name)


def check_announced(request: PhaseRequest, policy: Policy) -> None:
    """See that a hub does not have more segmenters tested than the policy allows.

    Raises:
        RefusalError: it announces too many.
    """
    count = len(str(request.settings.get("segmenters", "")).split())
    if request.phase == "evaluate" and count > policy.most_segmenters:
        raise RefusalError(f"{count} segmenters are to be tested; the policy allows {policy.most_segmenters}")


def spend(gate: Path, policy: Policy, now: float | None = None) -> None:
    """Count one more request that costs work.

    Raises:
        RefusalError: the day's requests are used up.
    """
    now = time.time() if now is None else now
    path = gate / TIMES
    today = [moment for moment in _times(path) if moment > now - DAY]
    if len(today) >= policy.most_requests:
        raise RefusalError(f"{len(today)} requests in a day; the policy allows {policy.most_requests}")
    write_json([*today, now], path)


def _times(path: Path) -> Sequence[float]:
    try:
        return [float(moment) for moment in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise RefusalError(f"the count of the day's requests, {path}, is damaged: remove it") from error


def _name(request: PhaseRequest) -> str:
    return f"{request.phase} {request.round}" + (" too late" if request.settings.get("late") else "")
