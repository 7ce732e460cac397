"""Transcribe a corpus: `shrota batch`.

Exit status: 0 if every file has a result or a place in the quarantine, 1 if the run could not go on (a
sentence on standard error says why), 2 for unknown words on the command line, 130 when interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from serve.config.command_line import INTERRUPTED, Command, exit_with, flags_of
from serve.config.reader import read_dataclass
from serve.config.settings import Settings, unknown_settings
from serve.config.sources import flag_layer
from serve.errors import ConfigError
from serve.options import TranscriptionOptions
from serve.transcribe.__main__ import engine_flags, read_options, read_settings
from serve.transcribe.batch.rows import ResultFormat

if TYPE_CHECKING:
    from serve.transcribe.batch.plan import Shard
    from serve.transcribe.batch.run import Runner
    from serve.transcribe.batch.step import Report, Work


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Which recordings to transcribe, where results go, and who does the work."""

    input: str
    """Recordings: a folder, a quoted pattern, a manifest of JSON lines with `audio`, or a URL such as
    s3://bucket/prefix."""
    output: str
    """Folder or URL of the results; a run that was stopped goes on there."""
    format: ResultFormat = "jsonl"
    """Format of the results."""
    local: bool = False
    """Transcribe in this process, without Ray."""
    address: str | None = None
    """Address of a Ray cluster, such as ray-head:6379; None starts Ray on this machine."""
    workers: int | None = None
    """Ray's workers on CPUs; None takes all cores."""
    gpu_workers: int = 0
    """Ray's workers with a GPU each."""
    worker_threads: int = 1
    """Cores of each worker on CPUs. Models wider than whisper-small are faster with four."""
    worker_memory_mib: int | None = None
    """Memory that Ray sets aside for each worker, so that a machine has no more of them than fit."""
    shard_s: float = 600.0
    """Seconds of sound whose results are stored as one file, which is also what a killed worker loses."""
    retry_quarantined: bool = False
    """Try files in quarantine again."""

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ConfigError: Lists all of them.
        """
        faults = [
            f"--{name.replace('_', '-')} must be a number above 0"
            for name in ("worker_threads", "worker_memory_mib", "shard_s")
            if (value := getattr(self, name)) is not None and value <= 0
        ]
        if (self.workers or 0) < 0 or self.gpu_workers < 0:
            faults.append("there cannot be fewer than 0 workers")
        if self.local and (self.address or self.workers is not None or self.gpu_workers):
            faults.append("--local has no workers of Ray: leave out --address, --workers and --gpu-workers")
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A checked command."""

    corpus: Corpus
    options: TranscriptionOptions
    settings: Settings


def read_batch(flags: Mapping[str, Any]) -> Batch:
    """Read flags, environment and settings file.

    Raises:
        ConfigError: Lists every fault.
    """
    faults: list[str] = []
    own = {each.name: flags[each.name] for each in fields(Corpus) if each.name in flags}
    corpus = read_dataclass(Corpus, flag_layer(own), faults, names={"input": "--input", "output": "--output"})
    options, settings = read_options(flags, faults), read_settings(flags, faults)
    if corpus is None or options is None or settings is None:
        raise ConfigError(faults)
    return Batch(corpus=corpus, options=options, settings=settings)


def run_batch(wanted: Batch) -> int:
    """Transcribe the corpus, and return the exit status."""
    from serve.config.logs import configure_logs
    from serve.transcribe.batch.run import transcribe_corpus
    from serve.transcribe.batch.step import Work, find_model, model_hashes

    configure_logs("error")
    for sentence in unknown_settings(os.environ):
        print(f"warning: {sentence}", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    corpus = wanted.corpus
    work = Work(
        settings=wanted.settings,
        options=wanted.options,
        output=corpus.output,
        format=corpus.format,
        model=model_hashes(find_model(wanted.settings)),
        n_threads=wanted.settings.n_threads,
    )
    try:
        summary = transcribe_corpus(
            corpus.input, work, _runner(corpus), shard_s=corpus.shard_s, retries=corpus.retry_quarantined
        )
    except KeyboardInterrupt:
        print("interrupted: what is done stays, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    n_results = summary.n_files - summary.n_quarantined - summary.n_missing
    speed = summary.audio_s / summary.elapsed_s
    print(
        f"{n_results} files have results, {summary.n_quarantined} are in quarantine, {summary.n_missing} have"
        f" neither: {summary.audio_s:.0f} s of audio at {speed:.1f} x real time",
        file=sys.stderr,
    )
    return 1 if summary.n_missing else 0


def _runner(corpus: Corpus) -> Runner:
    from serve.transcribe.batch.run import run_here

    if corpus.local:
        return run_here
    from serve.transcribe.batch.on_ray import Pools, run_on_ray

    mib = corpus.worker_memory_mib
    pools = Pools(
        n_workers=corpus.workers,
        n_gpu_workers=corpus.gpu_workers,
        worker_threads=corpus.worker_threads,
        worker_memory_bytes=None if mib is None else mib << 20,
        address=corpus.address,
    )

    def run(work: Work, shards: Sequence[Shard]) -> Generator[Report, None, None]:
        return run_on_ray(work, shards, pools)

    return run


command = Command(
    "batch",
    read=read_batch,
    run=run_batch,
    about="""Transcribe a corpus of many recordings.

Each file gets one row in OUTPUT/results, or a line in OUTPUT/quarantine.jsonl that says why it has none. The
same command goes on with a run that was stopped, and with recordings that came later. Ray's workers share the
work, on this machine or on a cluster; --local needs no Ray.""",
    examples="""\
shrota batch --input recordings/ --output transcripts --local
shrota batch --input 'calls/**/*.wav' --output transcripts --workers 8 --format parquet
shrota batch --input s3://bucket/calls --output s3://bucket/texts --address ray-head:6379 --gpu-workers 4
shrota batch --input corpus.jsonl --output transcripts --retry-quarantined --word-timestamps
""",
    flags=[*flags_of(Corpus, bare=True), *engine_flags()],
    leaves_at_once=True,
    needs="ray",
)


if __name__ == "__main__":
    exit_with(command)
