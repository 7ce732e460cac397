"""Write the page of a run again, also while the run goes on.

python -m train.report runs/whisper-base-mr
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve.errors import ShrotaError
from train.report.results import write_report


def main(run_dir: Annotated[Path, typer.Argument(help="Directory of a run, finished or not.")]) -> None:
    """Write the page of a run to RUN_DIR/report/index.html.

    Example: python -m train.report runs/whisper-base-mr
    """
    try:
        typer.echo(str(write_report(run_dir)))
    except ShrotaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
