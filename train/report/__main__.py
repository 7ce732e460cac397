"""Write the page of a run again, also while it goes on: `shrota report`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.config.command_line import Command, exit_with
from serve.config.reader import read_or_raise
from serve.config.sources import flag_layer


@dataclass(frozen=True, kw_only=True)
class Report:
    """The run to write the page of."""

    run_dir: Path
    """Directory of a run, finished or not."""


def read_report(flags: Mapping[str, Any]) -> Report:
    """Read flags.

    Raises:
        ConfigError: No directory is named.
    """
    return read_or_raise(Report, flag_layer(flags), {"run_dir": "the directory of a run"})


def report(wanted: Report) -> int:
    """Write the page, print its path, and return the exit status."""
    from train.report.results import write_report

    print(write_report(wanted.run_dir))
    return 0


command = Command(
    "report",
    read=read_report,
    run=report,
    about="Write the page of a run to RUN_DIR/report/index.html, also during the run.",
    examples="shrota report runs/whisper-base-mr",
    flags=[],
    words="run_dir",
    needs="train",
)


if __name__ == "__main__":
    exit_with(command)
