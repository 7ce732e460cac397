"""Progress bars with rate and time left, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
from rich.text import Text

Advance = Callable[..., None]


class RateColumn(ProgressColumn):
    """Units a second, over the last stretch of work."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Return the rate of a task, or a dash before its first steps."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.1f} {self.unit}/s" if rate else f"- {self.unit}/s", style="cyan")


@contextmanager
def progress_bar(title: str, total: int | None, unit: str, *, shown: bool = True) -> Iterator[Advance]:
    """Show a bar while the block runs; call the yielded function as `advance(n=1, note="loss 0.5")`.

    A `total` of None is work whose end is not known: no time left is shown.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        RateColumn(unit),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Away from a terminal there is no line to redraw: the bar is printed once, at the end.
    progress = Progress(
        *columns,
        console=console,
        refresh_per_second=4,
        speed_estimate_period=60,
        disable=not shown,
        # Lines printed to a terminal appear above the bar; those for a file or a pipe must reach it.
        redirect_stdout=sys.stdout.isatty(),
    )
    with progress:
        task = progress.add_task(title, total=total, note="")

        def advance(n: int = 1, note: str | None = None) -> None:
            progress.advance(task, n)
            if note is not None:
                progress.update(task, note=note)

        yield advance
