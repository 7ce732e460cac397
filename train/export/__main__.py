"""Merge an adapter into its base model, or push either to the hub: `shrota export`.

A merged model lets a service start without merging, and serves engines without support for adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.config.command_line import Command, exit_with, flags_of
from serve.config.reader import read_or_raise
from serve.config.sources import flag_layer
from serve.errors import ConfigError
from train.config import ExportFormat


@dataclass(frozen=True, kw_only=True)
class Export:
    """What to merge or push, and where to."""

    artifact_dir: Path
    """Artifact with the adapter."""
    format: ExportFormat | None = None
    """Merged model to write; none by default."""
    output_dir: Path | None = None
    """Directory to write to; by default merged-FORMAT within the artifact, for the service."""
    push: str | None = None
    """Repository on the Hugging Face hub to push to."""
    public: bool = False
    """Make a new repository public."""

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ConfigError: Lists every fault.
        """
        faults = []
        if self.format is None and self.push is None:
            faults.append("name a --format, a repository to --push to, or both")
        if self.format is None and self.output_dir is not None:
            faults.append("--output-dir needs a --format")
        if faults:
            raise ConfigError(faults)


def read_export(flags: Mapping[str, Any]) -> Export:
    """Read flags.

    Raises:
        ConfigError: Lists every fault.
    """
    return read_or_raise(Export, flag_layer(flags), {"artifact_dir": "the directory of an artifact"})


def export(wanted: Export) -> int:
    """Merge, push, print the location of the result, and return the exit status."""
    from serve.model.artifact import load_artifact
    from train.export.hub import push_directory
    from train.export.merged import export_merged

    if wanted.format:
        written = export_merged(wanted.artifact_dir, wanted.format, wanted.output_dir)
    else:
        written = load_artifact(wanted.artifact_dir).path
    print(push_directory(written, wanted.push, private=not wanted.public) if wanted.push else written)
    return 0


command = Command(
    "export",
    read=read_export,
    run=export,
    about="Merge an adapter into its base model, or push the adapter itself to the hub.",
    examples="""\
shrota export model_artifacts/whisper-base-mr --format ct2-int8
shrota export ARTIFACT_DIR --format transformers --output-dir DIR --push you/whisper-base-mr
""",
    flags=flags_of(Export, ("format", "output_dir", "push", "public"), bare=True),
    words="artifact_dir",
    needs="train",
)


if __name__ == "__main__":
    exit_with(command)
