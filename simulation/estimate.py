"""The time that a run still takes, from how fast its work went in the last minutes.

A pure function of the times at which work was reported and of how much was reported. A machine's speed changes while it
runs, and a process may be stopped for a while, so that three things keep the shown time steady: a speed is averaged
over minutes, one report counts for little more than was expected of it, and no report changes a speed by more than
`MOST`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

FOUND_DONE = 1.0  # seconds: work reported this soon after a stage began was done by an earlier run
SAMPLE = 5.0  # seconds of work, at least, that are measured together: reports come in bursts
WARM = 10.0  # seconds of work before anything is said
RECENT = 600.0  # seconds over which the pace of the current stage is averaged
LONG = 1800.0  # seconds over which the pace of the whole run is averaged
TRUST = 30.0  # seconds for which the run's pace counts when a stage begins
MOST = 1.25  # by which factor one report may change a pace, and with it the time left
SURPRISE = 2.0  # a sample counts for at most this many times the work, or the time, that was expected of it ...
PAUSE = 30.0  # ... and these seconds: between rounds there is work that has no units


@dataclass
class Pace:
    """Seconds a unit of work, averaged over a window of time."""

    window: float  # seconds
    seconds: float = 0.0  # spent in the window
    units: float = 0.0  # done in the window

    @property
    def value(self) -> float | None:
        """Seconds a unit, or None before there was any work."""
        return self.seconds / self.units if self.units > 0.0 else None

    def add(self, seconds: float, units: float, *, most: float = math.inf) -> None:
        """Count `units` that took `seconds`; the pace changes by at most the factor `most`."""
        before, keep = self.value, math.exp(-seconds / self.window)
        self.seconds = self.seconds * keep + seconds
        self.units = self.units * keep + units
        if before is not None:
            low, high = before / most, before * most
            self.seconds = min(max(self.seconds, low * self.units), high * self.units)


@dataclass
class Estimate:
    """How much of the run is done, and how long the rest takes.

    All times are seconds of one clock. The pace of the current stage counts for what is left of it, the pace of the run
    for the stages to come; work that was found done when its stage began counts for neither.
    """

    units: dict[str, float] = field(default_factory=dict)  # stage -> planned work units
    done: dict[str, float] = field(default_factory=dict)  # stage -> work units done
    _planned: bool = False
    _name: str = ""
    _began: float = 0.0
    _since: float = 0.0  # when the sample began
    _fresh: float = 0.0  # units of the sample
    _worked: float = 0.0  # seconds of all samples
    _here: Pace = field(default_factory=lambda: Pace(RECENT))
    _run: Pace = field(default_factory=lambda: Pace(LONG))

    def plan(self, stages: Mapping[str, float]) -> None:
        """Name the stages to come and their work units: without them nothing tells how long the run takes."""
        if not self._planned:  # what was done before has units of another scale
            self.done.update(self.units)
            self._planned, self._name, self._fresh, self._worked = True, "", 0.0, 0.0
            self._here, self._run = Pace(RECENT), Pace(LONG)
        self.units.update(stages)

    def begin(self, name: str, total: float, now: float) -> None:
        """Start a stage and count the one before it as finished."""
        self.finish(now)
        self.units[name], self.done[name] = total, 0.0
        self._name, self._began, self._since = name, now, now
        pace = self._run.value
        self._here = Pace(RECENT, TRUST, TRUST / pace) if pace else Pace(RECENT)

    def advance(self, done: float, now: float) -> None:
        """Set how many units of the current stage are done; never goes back."""
        if not self._name:
            return
        done = max(self.done[self._name], min(done, self.units[self._name]))
        more, self.done[self._name] = done - self.done[self._name], done
        if now - self._began < FOUND_DONE:
            self._since = now
            return
        self._fresh += more
        if self._fresh > 0.0 and now - self._since >= SAMPLE:
            self._measure(now)

    def finish(self, now: float) -> None:
        """Count the current stage as done."""
        if self._name:
            self.advance(self.units[self._name], now)
            if self._fresh > 0.0 and now > self._since:
                self._measure(now)
            self._name, self._fresh = "", 0.0

    def _measure(self, now: float) -> None:
        seconds, units = now - self._since, self._fresh
        self._since, self._fresh = now, 0.0
        pace, warm = self._here.value, self._worked >= WARM
        if pace and warm:
            seconds = min(seconds, SURPRISE * units * pace + PAUSE)
            units = min(units, SURPRISE * seconds / pace)
        self._worked += seconds
        for each in (self._here, self._run):
            each.add(seconds, units, most=MOST if warm else math.inf)

    @property
    def share(self) -> float:
        """Share of the whole run that is done, 0 to 1."""
        return sum(self.done.values()) / (sum(self.units.values()) or 1.0)

    @property
    def left(self) -> float | None:
        """Seconds until the whole run is done, or None as long as nothing tells.

        Between two looks it grows by at most the factor `MOST`, and falls by at most that beside what was done.
        """
        run = self._run.value
        return None if run is None else self._left(run)

    @property
    def between(self) -> tuple[float, float] | None:
        """Least and most seconds until the whole run is done: later stages go on at the run's pace, or at this stage's.

        None as long as nothing tells.
        """
        here, run = self._here.value, self._run.value
        if run is None:
            return None
        least, most = (self._left(end((here or run, run))) for end in (min, max))
        return None if least is None or most is None else (least, most)

    def _left(self, later_pace: float) -> float | None:
        here, run = self._here.value, self._run.value
        if not self._planned or self._worked < WARM or run is None:
            return None
        rest_here = self.units[self._name] - self.done[self._name] if self._name else 0.0
        later = sum(self.units.values()) - sum(self.done.values()) - rest_here
        return rest_here * (here or run) + later * later_pace
