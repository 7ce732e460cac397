"""Progress bars with rate and remaining time, on standard error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

Advance = Callable[..., None]


class RateColumn(ProgressColumn):
    """Units per second, over the last minute."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.1f} {self.unit}/s" if rate else f"- {self.unit}/s", style="cyan")


class SecondsColumn(ProgressColumn):
    """Seconds of audio done and in total, as h:mm:ss."""

    def render(self, task: Task) -> Text:
        """Return both, such as 0:12:34/1:00:00."""
        done, total = (timedelta(seconds=round(seconds)) for seconds in (task.completed, task.total or 0))
        return Text(f"{done}/{total}", style="progress.download")


class RealTimeColumn(ProgressColumn):
    """Speed relative to real time, averaged since the start because recordings finish in leaps."""

    def render(self, task: Task) -> Text:
        speed = task.completed / task.elapsed if task.completed and task.elapsed else None
        return Text(f"{speed:.1f} x real time" if speed else "- x real time", style="cyan")


@contextmanager
def progress_bar(title: str, total: int | None, unit: str, *, shown: bool = True) -> Iterator[Advance]:
    """Show a bar while the block runs; call the yielded function as `advance(n=1, note="loss 0.5")`.

    With `total=None` the amount of work is unknown, and no remaining time is shown.
    """
    with _progress(MofNCompleteColumn(), RateColumn(unit), shown=shown) as progress:
        task = progress.add_task(title, total=total, note="")

        def advance(n: int = 1, note: str | None = None) -> None:
            progress.advance(task, n)
            if note is not None:
                progress.update(task, note=note)

        yield advance


class AudioBar:
    """A bar over seconds of audio, whose total may be corrected on the way. Thread-safe."""

    def __init__(self, progress: Progress, title: str, total_s: float) -> None:
        """Made by `audio_bar` only."""
        self._progress = progress
        self._task = progress.add_task(title, total=total_s, note="")
        self._total_s = total_s
        self.done_s = 0.0
        self._lock = threading.Lock()

    def advance(self, seconds: float) -> None:
        with self._lock:
            self.done_s += seconds
            self._progress.update(self._task, completed=self.done_s)

    def expect(self, more_s: float) -> None:
        """Correct the total by this many seconds."""
        with self._lock:
            self._total_s += more_s
            self._progress.update(self._task, total=self._total_s)

    def note(self, note: str) -> None:
        """Show a text beside the bar."""
        self._progress.update(self._task, note=note)


@contextmanager
def audio_bar(title: str, total_s: float, *, shown: bool = True) -> Iterator[AudioBar]:
    """Show a bar over seconds of audio while the block runs, with speed and remaining time."""
    unbroken = Column(no_wrap=True)
    columns = (SecondsColumn(unbroken), RealTimeColumn(unbroken.copy()))
    with _progress(*columns, shown=shown) as progress:
        yield AudioBar(progress, title, total_s)


def _progress(*columns: ProgressColumn, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        *columns,
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # Without a terminal there is no line to redraw: the bar is printed once, at the end.
        console=Console(stderr=True),
        refresh_per_second=4,
        speed_estimate_period=60,
        disable=not shown,
        # Lines printed to a terminal appear above the bar; lines for a file or pipe must not be redirected.
        redirect_stdout=sys.stdout.isatty(),
    )
