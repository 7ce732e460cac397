"""Prepare a source of speech for training: decode and resample it once, in parallel, into shards.

`shrota prepare` is the command. Run again, it resumes an interrupted preparation and produces the same bytes.
Training reads the result as `--train-data shards:DIR`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.config.command_line import Command, flags_of
from serve.config.reader import keys_of, read_or_raise
from serve.config.sources import flag_layer
from serve.engine.languages import language_code
from serve.errors import ConfigError
from train.data.filters import MAX_CLIP_S, MIN_CLIP_S
from train.data.records import language_faults
from train.data.specs import parse_spec
from train.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from train.data.preparation import Preparation
    from train.data.shards import Header


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A source to prepare, or shards to verify."""

    source: str | None = None
    """Name of the source."""
    output_dir: Path | None = None
    """Directory for the shards."""
    split: str | None = None
    """Splits joined by +, such as train+validation; the source's own by default."""
    language: str = "mr"
    """Language code, such as mr."""
    workers: int = 0
    """Clips decoded at a time; 0 takes all cores."""
    shard_mb: float = 150.0
    """Size of a shard in megabytes."""
    upload: str | None = None
    """Address to copy the shards to afterwards, such as s3://bucket/prefix."""
    strict: bool = False
    """Stop at the first bad row instead of dropping it."""
    held_out: tuple[str, ...] = ()
    """Source whose sentences and voices must not be prepared; may be given several times."""
    min_s: float = MIN_CLIP_S
    """Shortest clip, in seconds."""
    max_s: float = MAX_CLIP_S
    """Longest clip, in seconds."""
    any_script: bool = False
    """Keep texts that are not in the language's script."""
    verify: Path | None = None
    """Check the checksums of these shards instead."""

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ConfigError: Lists every fault.
        """
        rules = (
            (
                self.verify is not None or (self.source is not None and self.output_dir is not None),
                "a source and --output-dir are needed, or --verify DIR",
            ),
            (self.shard_mb > 0, "--shard-mb is above 0"),
            (self.workers >= 0, "--workers is not negative"),
        )
        faults = [fault for holds, fault in rules if not holds] + language_faults(self.language)
        if self.source is not None:
            try:
                parse_spec(self.source)
            except DataError as error:
                faults.append(str(error))
        if faults:
            raise ConfigError(faults)


def read_wanted(flags: Mapping[str, Any]) -> Wanted:
    """Read flags.

    Raises:
        ConfigError: Lists every fault.
    """
    return read_or_raise(Wanted, flag_layer(flags))


def prepare(wanted: Wanted) -> int:
    """Prepare or verify, print a summary, and return the exit status."""
    from rich.console import Console

    from train.data.preparation import prepare_source
    from train.data.shards import verify_shards
    from train.data.upload import upload_shards

    console = Console(stderr=True)
    if wanted.verify:
        header = verify_shards(wanted.verify)
        console.print(f"{wanted.verify} is whole: {header.clips} clips in {len(header.shards)} shards")
        return 0
    assert wanted.output_dir is not None
    summarise(prepare_source(_preparation(wanted), wanted.output_dir), wanted.output_dir, console)
    if wanted.upload:
        console.print(f"{upload_shards(wanted.output_dir, wanted.upload)} files copied to {wanted.upload}")
    return 0


def _preparation(wanted: Wanted) -> Preparation:
    """Resolve what is wanted, reading the held-out sources.

    Raises:
        DataError: A held-out source cannot be read.
    """
    from train.data.filters import Filters
    from train.data.preparation import Preparation
    from train.data.sources import read_held_out

    assert wanted.source is not None
    code = language_code(wanted.language) or wanted.language
    spec = parse_spec(wanted.source)
    if wanted.split:
        spec = dataclasses.replace(spec, split=wanted.split)
    return Preparation(
        spec=spec,
        language=code,
        filters=Filters(
            language=None if wanted.any_script else spec.language or code,
            min_duration_s=wanted.min_s,
            max_duration_s=wanted.max_s,
            held_out=read_held_out(wanted.held_out, "test", code),
        ),
        shard_bytes=round(wanted.shard_mb * 1e6),
        workers=wanted.workers or os.cpu_count() or 1,
        strict=wanted.strict if spec.strict is None else spec.strict,
    )


def summarise(header: Header, output_dir: Path, console: Console) -> None:
    """Print the number of clips, their hours, and the dropped rows."""
    from train.data.filters import DropLog, read_drops
    from train.data.shards import DROPPED

    log = DropLog()
    if (output_dir / DROPPED).is_file():
        log.dropped = list(read_drops((output_dir / DROPPED).read_text(encoding="utf-8")))
    if log.dropped:
        console.print(log.table())
        console.print(f"all of them: {output_dir / DROPPED}")
    size_mb = sum(shard.size_bytes for shard in header.shards) / 1e6
    console.print(
        f"{header.clips} clips, {header.audio_s / 3600:.2f} h, {len(log)} rows left out:"
        f" {len(header.shards)} shards of {size_mb:.1f} MB in {output_dir}"
    )


command = Command(
    "prepare",
    read=read_wanted,
    run=prepare,
    about="""Decode a source once, in parallel and resumably, into checksummed tar shards that training reads.

Sources: FILE.jsonl, commonvoice:DIR, folder:DIR, hf:REPO[:CONFIG], shards:DIR, channel:NAME, fleurs,
indicvoices, kathbath, openslr64, common_voice_11, common_voice_17.""",
    examples="""\
shrota prepare commonvoice:cv-corpus-17.0/mr --output-dir shards/mr
shrota prepare kathbath --language mr --output-dir shards/kathbath
shrota prepare folder:own --output-dir shards/own --held-out data/mr/test-everyday.jsonl
shrota prepare data/mr/train.jsonl --output-dir shards/mr --upload s3://bucket/mr
shrota prepare --verify shards/mr
""",
    flags=flags_of(Wanted, [name for name in keys_of(Wanted) if name != "source"], bare=True, repeated=True),
    words="source",
    needs="train",
)
