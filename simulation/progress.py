"""What a person sees while a run works: one display for the whole run, the same on all three engines.

A run is planned as stages with a number of work units each; `simulation.estimate` turns what is done into the time that
is left. The hub and the sites may run in other processes, so they report in files (`events.jsonl`, `progress.json`),
and `watch` feeds a display from those.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from client.display import moves, on_stderr
from simulation.estimate import Estimate
from sst_models.wire.files import write_json

POLL = 0.5  # seconds between two looks at the files of hub and sites
ROUND = ("round.started", "round.finished")
TELL_EVERY = 1.0  # seconds between two words to whoever else shows the run
LINE_EVERY = 30.0  # seconds between two lines of a stage where there is no terminal


class Progress(Protocol):
    """What `simulate` tells a display."""

    def plan(self, stages: Mapping[str, float]) -> None:
        """Name all stages of the run in their order, with the work units of each: the base of the time left."""

    def stage(self, name: str, total: float) -> None:
        """Begin a stage of `total` work units; the one before it is finished."""

    def advance(self, done: float, **shown: object) -> None:
        """Say that `done` units of the stage are done so far (not: since the last call), and what to show with it."""

    def note(self, text: str) -> None:
        """Leave one line that stays."""


class Silent:
    """Shows nothing."""

    def plan(self, stages: Mapping[str, float]) -> None:
        """Ignore it."""

    def stage(self, name: str, total: float) -> None:
        """Ignore it."""

    def advance(self, done: float, **shown: object) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""


class RichProgress:
    """The display of a run: on a terminal one live line below what is finished, elsewhere plain lines, few of them.

    A context manager. A stage that an exception leaves is not reported as done.
    """

    def __init__(
        self,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        told: Path | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """Show on `console`, by default stderr, or where it is `quiet` nothing but notes; `clock` gives seconds.

        Where somebody else shows it, too, `told` is the file that has `stage`, `share` and `left` for them.
        """
        self._told, self._told_at = told, -TELL_EVERY
        self._console = console or on_stderr()
        self._quiet = quiet
        self._live = moves(self._console) and not quiet
        self._clock = clock
        self._lock = threading.RLock()  # `watch` reports from its own thread
        self._estimate = Estimate()
        self._name, self._began, self._said = "", 0.0, 0.0
        self._shown: dict[str, object] = {}
        columns = (BarColumn(24), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, console=self._console, transient=True, refresh_per_second=4)
        self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Finish the last stage, unless an exception ended it, and stop drawing."""
        with self._lock:
            if kind is None:
                self._close_stage()
        if self._live:
            self._bar.stop()

    def plan(self, stages: Mapping[str, float]) -> None:
        """See `Progress`."""
        with self._lock:
            self._estimate.plan(stages)

    def stage(self, name: str, total: float) -> None:
        """See `Progress`."""
        with self._lock:
            self._close_stage()
            self._name, self._began, self._shown = name, self._clock(), {}
            self._said = self._began
            self._estimate.begin(name, total, self._began)
            self._draw()

    def advance(self, done: float, **shown: object) -> None:
        """See `Progress`."""
        with self._lock:
            self._estimate.advance(done, self._clock())
            self._shown |= shown
            self._draw()

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def _say(self, *words: str) -> None:
        if not self._quiet:
            self.note(_join(f"{self._estimate.share:4.0%}", *words))

    def _close_stage(self) -> None:
        if self._name:
            now = self._clock()
            self._estimate.finish(now)
            self._say(f"{self._name} done", f"in {duration(now - self._began)}")
            self._name = ""

    def _draw(self) -> None:
        now, left = self._clock(), self._estimate.left
        if self._told is not None and now - self._told_at >= TELL_EVERY:
            self._told_at = now
            self._tell(self._told)
        said = "" if left is None else f"about {duration(left)} left"
        words = _join(said, self._name, *describe(self._shown))
        if self._live:
            self._bar.update(self._task, completed=self._estimate.share, description=escape(words))
        elif now - self._said >= LINE_EVERY:
            self._said = now
            self._say(words)

    def _tell(self, path: Path) -> None:
        stage = _join(self._name, *describe(self._shown))
        values = {"stage": stage, "share": self._estimate.share, "left": self._estimate.between}
        with suppress(OSError):  # a full disk; the next one may be written
            write_json(values, path)


def describe(shown: Mapping[str, object]) -> list[str]:
    """Word what a stage shows: "round 2/4", "site oasis", "loss 0.1234"; empty values are left out."""
    words = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in shown.items()}
    return [f"{key} {word}" for key, word in words.items() if word]


def duration(seconds: float) -> str:
    """Word a duration, coarser the longer it is: "42 s", "3 min 20 s", "1 h 05 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _join(*words: str) -> str:
    return "  ".join(word for word in words if word)


@dataclass(frozen=True)
class PlannedPhase:
    """One phase that a hub is going to run, and the name and work units of its stage on the display."""

    phase: str
    rounds: int
    units: float
    name: str
    at_hub: bool = False  # the hub trains, and its `progress.json` says how far it is


@contextmanager
def watch(
    hub: Path, states: Mapping[str, Path], progress: Progress, plan: Sequence[PlannedPhase]
) -> Iterator["Watcher"]:
    """Feed `progress` from the files of a federation while it runs, wherever its hub and sites run.

    Args:
        hub: the hub's folder; its `events.jsonl` has a line for each round that starts or is finished.
        states: site -> state folder; its `progress.json` says where the site is in its round.
        progress: the display.
        plan: the phases in their order.
    """
    watcher = Watcher(hub, states, progress, plan)
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(POLL):
            watcher.look()

    thread = threading.Thread(target=work, name="watch", daemon=True)
    watcher.look()  # at once, so that what an earlier run finished is not counted as speed
    thread.start()
    try:
        yield watcher
    finally:
        stop.set()
        thread.join()
        watcher.look()


class Watcher:
    """Reads the files of one federation and tells a display what is new in them."""

    def __init__(self, hub: Path, states: Mapping[str, Path], progress: Progress, plan: Sequence[PlannedPhase]) -> None:
        """See `watch`."""
        self._hub, self._states = hub, states
        self._offset = 0  # bytes of the events that have been read
        self._progress = progress
        self._plan = {planned.phase: planned for planned in plan}
        self._finished: dict[str, set[int]] = {planned.phase: set() for planned in plan}
        self._phase, self._round = "", 0

    def look(self) -> None:
        """Read what hub and sites have written since the last look, and report it."""
        for event in self._new_events():
            self._take(event)
        planned = self._plan.get(self._phase)
        if planned is not None:
            workers = {"hub": self._hub} if planned.at_hub else self._states
            said = {name: read_json(folder / "progress.json") for name, folder in workers.items()}
            here = {name: words for name, words in said.items() if self._is_here(words)}
            self._report(planned, sum(map(_share, here.values())) / max(1, len(workers)), _furthest(here))

    def _new_events(self) -> Iterator[Mapping[str, Any]]:
        try:
            with (self._hub / "events.jsonl").open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:  # the hub has not begun
            return
        whole = text[: text.rfind(b"\n") + 1]  # its last line may still be half written
        self._offset += len(whole)
        for line in whole.splitlines():
            event = _parse(line)
            if event.get("event") in ROUND and event.get("phase") in self._plan and "round" in event:
                yield event

    def _take(self, event: Mapping[str, Any]) -> None:
        planned = self._plan[event["phase"]]
        if planned.phase != self._phase:
            self._phase = planned.phase
            self._progress.stage(planned.name, planned.units)
        self._round = int(event["round"])
        if event["event"] == "round.finished":
            self._finished[self._phase].add(self._round)
        self._report(planned, 0.0, {})

    def _is_here(self, said: Mapping[str, Any]) -> bool:
        """Tell whether a worker's words are about the round that the hub waits for."""
        same = said.get("phase") == self._phase and said.get("round") == self._round
        return same and self._round not in self._finished[self._phase]

    def _report(self, planned: PlannedPhase, within: float, shown: Mapping[str, object]) -> None:
        finished = len(self._finished[planned.phase])
        done = planned.units * min(1.0, (finished + within) / max(1, planned.rounds))
        self._progress.advance(done, round=f"{self._round}/{planned.rounds}", **shown)


def _share(said: Mapping[str, Any]) -> float:
    """Share of its steps that a worker has done, 0 to 1; 0 where its words make no sense."""
    step, steps = said.get("step"), said.get("steps")
    return min(1.0, step / steps) if isinstance(step, int) and isinstance(steps, int) and steps > 0 else 0.0


def _furthest(said: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """Choose the site to show: of those still at work, the one that has got furthest."""
    shares = {site: _share(words) for site, words in said.items()}
    at_work = {site: share for site, share in shares.items() if share < 1.0} or shares
    if not at_work:
        return {}
    site = max(at_work, key=at_work.__getitem__)
    loss = said[site].get("loss")
    return {"site": said[site].get("site", site)} | ({"loss": float(loss)} if isinstance(loss, int | float) else {})


def read_json(path: Path) -> Mapping[str, Any]:
    """Read an object from a JSON file that another process may be writing; an empty one if there is none to read."""
    try:
        return _parse(path.read_bytes())
    except OSError:
        return {}


def _parse(text: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
