"""What people see while work goes on: bars on a terminal, plain lines elsewhere; all of it on stderr.

On a terminal a view of the whole may stand below the bars (`live`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 15.0  # at most one line in that time where there is no terminal


class Progress:
    """Reports to one console.

    Args:
        console: Default: stderr.
        views: Whether there is room for views of the whole, if it is a terminal.
    """

    def __init__(self, console: Console | None = None, *, views: bool = True) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.shows_views = views and self.console.is_terminal
        self._bars: RichProgress | None = None

    def say(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, markup=False)

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Bar]:
        """Show the progress of one piece of work of `total` units."""
        if not self.console.is_terminal:
            bar: Bar = Bar(self, what, total, unit)
            yield bar
            bar.close()
        elif self._bars is not None:
            shown = _TerminalBar(self, what, total, unit, self._bars)
            try:
                yield shown
            finally:
                shown.remove()
            shown.close()
        else:
            with _bars(self.console) as rich:
                yield _TerminalBar(self, what, total, unit, rich)

    @contextmanager
    def over(self, view: Callable[[], RenderableType]) -> Iterator[None]:
        """Show the bars over a view that changes; bars that end leave a line.

        The view is asked for twice a second, while nothing else can be printed.
        """
        bars = _bars(self.console)

        def whole() -> RenderableType:
            return Group(bars, view())

        with Live(
            get_renderable=whole,
            console=self.console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
        ):
            self._bars = bars
            try:
                yield
            finally:
                self._bars = None


class Bar:
    """Progress as plain lines: not more often than every few seconds, and one at the end."""

    def __init__(self, progress: Progress, what: str, total: int, unit: str) -> None:
        self._progress, self._what, self._total, self._unit = progress, what, total, unit
        self._began = self._said = time.monotonic()
        self._done = 0.0

    def update(self, done: float, note: str = "") -> None:
        """State how much is done, and anything worth saying about it."""
        self._done = done
        if done < self._total and time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            self._progress.say(
                f"{self._what}: {done:g}/{self._total} {self._unit}{'  ' + note if note else ''}"
            )

    def advance(self, note: str = "") -> None:
        """One more unit is done."""
        self.update(self._done + 1, note)

    def close(self) -> None:
        """Say how long it took."""
        seconds = time.monotonic() - self._began
        self._progress.say(f"{self._what}: {self._done:g}/{self._total} {self._unit} in {seconds:.1f} s")


def _bars(console: Console) -> RichProgress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    notes = (TextColumn("{task.fields[unit]}"), TextColumn("{task.fields[note]}"))
    return RichProgress(
        *columns, notes[0], TimeElapsedColumn(), TimeRemainingColumn(), notes[1], console=console
    )


class _TerminalBar(Bar):
    def __init__(self, progress: Progress, what: str, total: int, unit: str, rich: RichProgress) -> None:
        super().__init__(progress, what, total, unit)
        self._rich = rich
        self._task = rich.add_task(what, total=total, unit=unit, note="")

    def remove(self) -> None:
        """Take it off the terminal."""
        self._rich.remove_task(self._task)

    def update(self, done: float, note: str = "") -> None:
        self._done = done
        self._rich.update(self._task, completed=done, note=note)
