"""Choose transcripts to train on: `shrota select`, also `python -m train.pseudo_labels`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.config.command_line import Command, exit_with, flags_of
from serve.config.reader import keys_of, read_or_raise
from serve.config.sources import flag_layer
from serve.errors import ConfigError
from train.config import TrainConfig
from train.data.records import language_faults, row_language
from train.pseudo_labels.selection import Criteria

if TYPE_CHECKING:
    from rich.console import Console

    from train.data.filters import HeldOut
    from train.pseudo_labels.selection import Selection


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which transcripts, and what they must meet."""

    outputs: tuple[Path, ...]
    """One output of shrota batch, or two of the same recordings, which must agree."""
    output: Path
    """Manifest to write."""
    keep: Criteria = field(default_factory=Criteria)
    language: str = TrainConfig.language
    """Language code of transcripts that name none."""
    held_out: tuple[str, ...] = ()
    """Source whose sentences must not be trained on; may be given several times."""
    json: Path | None = None
    """File for the counts."""

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ConfigError: Lists every fault.
        """
        faults = language_faults(self.language)
        if len(self.outputs) not in (1, 2):
            faults.append(f"one output or two are compared, not {len(self.outputs)}")
        if faults:
            raise ConfigError(faults)


def read_wanted(flags: Mapping[str, Any]) -> Wanted:
    """Read flags.

    Raises:
        ConfigError: Lists every fault.
    """
    return read_or_raise(Wanted, flag_layer(flags), {"outputs": "an output of shrota batch"})


def select_rows(wanted: Wanted) -> int:
    """Write the manifest, print what was chosen, and return the exit status: 1 if nothing was."""
    from rich.console import Console

    from serve.model.durable_write import write_whole
    from train.data.sources import read_held_out

    language = row_language(wanted.language) or TrainConfig.language
    held_out = read_held_out(wanted.held_out, "test", language)
    wanted.output.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    selection = choose_into(wanted.output, wanted.outputs, wanted.keep, language, held_out, console)
    if wanted.json:
        counts = json.dumps(selection.as_dict(), ensure_ascii=False, indent=1) + "\n"
        write_whole(wanted.json, counts.encode())
    return 0 if selection.kept else 1


def choose_into(
    manifest: Path,
    outputs: Sequence[Path],
    keep: Criteria,
    language: str,
    held_out: HeldOut,
    console: Console,
) -> Selection:
    """Write a manifest of what one output is sure of, or two agree on, and print counts and reasons.

    Rows that were left out are listed beside the manifest.
    """
    from serve.model.durable_write import write_whole
    from train.pseudo_labels.rows import read_rows
    from train.pseudo_labels.selection import select

    first, second = (*map(read_rows, outputs), None)[:2]
    assert first is not None
    selection = select(first, second, keep, language, held_out)
    write_whole(manifest, selection.manifest().encode())
    counts = selection.as_dict()
    selection.log.report(console, manifest.with_suffix(".left-out.jsonl"))
    console.print(
        f"{manifest}: {counts['kept']} of {counts['segments']} segments,"
        f" {counts['kept_s']:.0f} of {counts['seconds']:.0f} s"
    )
    return selection


command = Command(
    "select",
    read=read_wanted,
    run=select_rows,
    about="""Choose transcripts of recordings that nobody has written down, to train on.

The input is the output of `shrota batch`: a folder, or a file of JSON lines. With two outputs of the same
recordings (by two adapters, two decoders, or of a changed sound), a segment is kept only where they agree.
The result is a manifest for training, with a part of a recording on each line.""",
    examples="""\
shrota select transcripts --output pseudo.jsonl --keep.min-logprob -0.3
shrota select by-one by-another --output pseudo.jsonl --keep.max-cer 0.05 --held-out test.jsonl
shrota train --config FILE --train-data 'people.jsonl,pseudo.jsonl?weight=0.5&label=pseudo'
""",
    flags=flags_of(Wanted, [name for name in keys_of(Wanted) if name != "outputs"], bare=True, repeated=True),
    words="outputs",
    many_words=True,
    needs="train",
)


if __name__ == "__main__":
    exit_with(command)
