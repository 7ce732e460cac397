"""Speak a Marathi corpus: `shrota data`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.config.command_line import Command, exit_with, flags_of
from serve.config.reader import keys_of, read_or_raise
from serve.config.sources import flag_layer, flag_names
from train.data.synthesis.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class Corpus(Sizes):
    """How large a corpus is, and where it goes."""

    output_dir: Path
    """Directory for clips and manifests."""
    seed: int = 0
    """Fixes text, split, voices and delivery."""


def read_corpus(flags: Mapping[str, Any]) -> Corpus:
    """Return what flags ask for.

    Raises:
        ConfigError: Lists every fault.
    """
    return read_or_raise(Corpus, flag_layer(flags), flag_names(keys_of(Corpus)))


def build(wanted: Corpus) -> int:
    """Speak the corpus, say how many clips each split has, and return the exit status."""
    from train.data.synthesis.build import build_corpus

    for split, count in sorted(build_corpus(wanted.output_dir, wanted, wanted.seed).items()):
        print(f"{split}: {count} clips -> {wanted.output_dir / f'{split}.jsonl'}")
    return 0


command = Command(
    "data",
    read=read_corpus,
    run=build,
    about="Build a synthetic Marathi corpus, with some Hindi, from installed text and voices.\n\nA build"
    " that was stopped resumes when the same command is given again. A size of 0 leaves a kind out.",
    examples="""\
shrota data --output-dir data/mr
shrota data --output-dir data/tiny --everyday 40 --catalogue 0 --exchanged 0 --kokoro 20 --hindi 0
""",
    flags=flags_of(Corpus),
    needs="train",
)


if __name__ == "__main__":
    exit_with(command)
