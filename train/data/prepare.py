"""Prepare a source of speech for training: decode and resample once, in parallel, into shards.

    python -m train.data.prepare commonvoice:cv-corpus-17.0/mr --output-dir shards/mr --held-out mr/test.jsonl
    python -m train.data.prepare fleurs --language mr --split validation --output-dir shards/fleurs-valid
    python -m train.data.prepare data/mr/train.jsonl --output-dir shards/mr --upload s3://bucket/shards/mr
    python -m train.data.prepare --verify shards/mr

A preparation that is stopped goes on where it was when the same command is given again, and ends with the
same bytes. Training reads the result as `--train_data shards:DIR`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve.engine.languages import language_code
from train.data.filters import MAX_CLIP_S, MIN_CLIP_S, DropLog, Filters, read_drops
from train.data.preparation import DEFAULT_SHARD_BYTES, Preparation, prepare_source
from train.data.shards import DROPPED, Header, verify_shards
from train.data.sources import read_held_out
from train.data.specs import SourceSpec, parse_spec
from train.data.upload import upload_shards
from train.errors import DataError, TrainError

EXAMPLES = """
Examples:

\b
  python -m train.data.prepare commonvoice:cv-corpus-17.0/mr --output-dir shards/mr
  python -m train.data.prepare kathbath --language mr --output-dir shards/kathbath
  python -m train.data.prepare folder:own --output-dir shards/own --held-out data/mr/test-everyday.jsonl
  python -m train.data.prepare data/mr/train.jsonl --output-dir shards/mr --upload s3://bucket/mr
  python -m train.data.prepare --verify shards/mr

\b
Sources: FILE.jsonl, commonvoice:DIR, folder:DIR, hf:REPO[:CONFIG], shards:DIR, channel:NAME,
  fleurs, indicvoices, kathbath, openslr64, common_voice_11, common_voice_17
"""


def summarise(header: Header, output_dir: Path, console: Console) -> None:
    """Print clips, hours and what was left out."""
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


def main(
    source: Annotated[str | None, typer.Argument(help="Name of the source; see above.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Directory for the shards.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Splits joined by +, such as train+validation; the source's own.")
    ] = None,
    language: Annotated[str, typer.Option(help="Language code, such as mr.")] = "mr",
    workers: Annotated[int, typer.Option(help="Clips decoded at a time; 0: all cores.")] = 0,
    shard_mb: Annotated[float, typer.Option(help="Size of a shard in megabytes.")] = DEFAULT_SHARD_BYTES
    / 1e6,
    upload: Annotated[
        str | None, typer.Option(help="Copy the shards here afterwards, such as s3://bucket/prefix.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="End at the first bad row instead of leaving it out.")] = False,
    held_out: Annotated[
        list[str] | None,
        typer.Option(help="Source whose sentences and voices are left out; may be given several times."),
    ] = None,
    min_s: Annotated[float, typer.Option(help="Shortest clip, in seconds.")] = MIN_CLIP_S,
    max_s: Annotated[float, typer.Option(help="Longest clip, in seconds.")] = MAX_CLIP_S,
    any_script: Annotated[
        bool, typer.Option(help="Keep texts that are not in the script of the language.")
    ] = False,
    verify: Annotated[
        Path | None, typer.Option(help="Instead of all this, check the checksums of these shards.")
    ] = None,
) -> None:
    """Decode a source once, in parallel and resumably, into checksummed tar shards that training reads."""
    console = Console(stderr=True)
    try:
        if verify:
            header = verify_shards(verify)
            console.print(f"{verify} is whole: {header.clips} clips in {len(header.shards)} shards")
            return
        if source is None or output_dir is None:
            raise typer.BadParameter("a source and --output-dir are needed, or --verify DIR")
        if shard_mb <= 0 or workers < 0:
            raise typer.BadParameter("--shard-mb is positive, --workers is not negative")
        code = language_code(language)
        if code is None:
            raise DataError(f"'{language}' is no language of Whisper; write a code such as mr or hi")
        spec: SourceSpec = parse_spec(source)
        if split:
            spec = dataclasses.replace(spec, split=split)
        preparation = Preparation(
            spec=spec,
            language=code,
            filters=Filters(
                language=None if any_script else spec.language or code,
                min_duration_s=min_s,
                max_duration_s=max_s,
                held_out=read_held_out(held_out or [], "test", code),
            ),
            shard_bytes=round(shard_mb * 1e6),
            workers=workers or os.cpu_count() or 1,
            strict=strict if spec.strict is None else spec.strict,
        )
        summarise(prepare_source(preparation, output_dir), output_dir, console)
        if upload:
            console.print(f"{upload_shards(output_dir, upload)} files copied to {upload}")
    except TrainError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


main.__doc__ = f"{main.__doc__}\n{EXAMPLES}"

if __name__ == "__main__":
    typer.run(main)
