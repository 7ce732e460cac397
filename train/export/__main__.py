"""Make merged models of a finished artifact, or push it to the hub.

    python -m train.export model_artifacts/whisper-base-mr --format ct2-int8
    python -m train.export ARTIFACT_DIR --format transformers --output-dir DIR --push you/whisper-base-mr

A merged model lets a service start without merging, and serves engines that know no adapters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve.errors import ShrotaError
from serve.model.artifact import load_artifact
from train.config import ExportFormat
from train.export.hub import push_directory
from train.export.merged import export_merged


def main(
    artifact_dir: Annotated[Path, typer.Argument(help="Artifact whose adapter is merged or pushed.")],
    kind: Annotated[
        ExportFormat | None, typer.Option("--format", help="Merged model to write; without it none is.")
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(help="Where to; merged-FORMAT within the artifact by default, for the service."),
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="Repository on the Hugging Face hub for what was written.")
    ] = None,
    public: Annotated[bool, typer.Option(help="Let everybody see a repository that is made now.")] = False,
) -> None:
    """Merge an adapter into its base model, or push the adapter itself to the hub.

    Example: python -m train.export model_artifacts/whisper-base-mr --format ct2-int8
    """
    if kind is None and push is None:
        raise typer.BadParameter("name a --format, a repository to --push to, or both")
    if kind is None and output_dir is not None:
        raise typer.BadParameter("--output-dir needs a --format")
    try:
        written = export_merged(artifact_dir, kind, output_dir) if kind else load_artifact(artifact_dir).path
        typer.echo(push_directory(written, push, private=not public) if push else str(written))
    except ShrotaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
