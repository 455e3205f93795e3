"""What a person sees while a command goes through scans: which of how many, its name, and how long it will take.

All of it is on stderr: on a terminal one line that moves, elsewhere one plain line for each scan.
"""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from configs.shown import shown


def on_stderr() -> Console:
    """Give the console of stderr: a terminal only if it is one, whatever FORCE_COLOR says, as a log keeps all."""
    return Console(stderr=True, force_terminal=None if sys.stderr.isatty() else False)


def moves(console: Console) -> bool:
    """Whether a line can move on it: it is a terminal that can."""
    return console.is_terminal and not console.is_dumb_terminal


class Display:
    """A context manager, whose methods are the `begin` and `progress` of `client.api`.

    Args:
        what: the command.
        quiet: show nothing.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        console = on_stderr()
        self._what = what
        self._live = moves(console) and not quiet
        self._plain = not (self._live or quiet)
        name = _Name(table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        place = TextColumn("{task.fields[place]}")
        columns = (TextColumn(what), BarColumn(16), place, TimeRemainingColumn(compact=True), name)
        self._bar = Progress(*columns, console=console, transient=True, disable=not self._live, expand=True)
        self._task = self._bar.add_task(what, total=None, place="", name="getting ready")

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Stop, and leave nothing on a terminal."""
        self._bar.stop()

    def begin(self, number: int, of: int, name: str) -> None:
        """Show which scan is at work."""
        self._bar.update(self._task, total=of, place=f"{number}/{of}", name=shown(name))
        if self._plain:
            print(f"{self._what} {number}/{of}: {shown(name)}", file=sys.stderr, flush=True)

    def progress(self, done: int, of: int) -> None:
        """Show how many are done."""
        self._bar.update(self._task, completed=done, total=of)


class _Name(ProgressColumn):
    """The scan at work: as it is called, with no markup in it."""

    def render(self, task: Task) -> Text:
        """Give it in one line."""
        return Text(task.fields["name"], no_wrap=True, overflow="ellipsis")
