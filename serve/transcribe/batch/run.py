"""Transcribe a corpus, from the listing to the quarantine; the same for this process and for Ray's workers.

recordings -> plan -> shards that are not done -> step -> results -> quarantine
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache

from filelock import FileLock, Timeout

from serve.config.progress import AudioBar, audio_bar
from serve.errors import ConfigError, StorageError
from serve.transcribe.batch.listing import Found, find_recordings
from serve.transcribe.batch.output import Output, RunRecord
from serve.transcribe.batch.plan import Shard, plan_shards
from serve.transcribe.batch.step import SHARDS_AT_ONCE, Report, Step, Work
from serve.transcribe.batch.stores import LocalStore

Runner = Callable[[Work, Sequence[Shard]], Generator[Report, None, None]]
"""Does shards, and yields a report for each once it is done."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run came to."""

    n_files: int
    """Files of all plans, so of earlier runs too."""
    n_quarantined: int
    n_missing: int
    """Files that have neither a result nor a place in the quarantine."""
    audio_s: float
    """Sound that this run transcribed."""
    elapsed_s: float


def transcribe_corpus(where: str, work: Work, run: Runner, *, shard_s: float, retries: bool) -> Summary:
    """Transcribe what has no result yet.

    Args:
        where: The recordings; see `serve.transcribe.batch.listing`.
        run: `run_here`, or Ray's.
        shard_s: Seconds of sound in a shard, about.
        retries: Whether files in quarantine are tried again.

    Raises:
        ConfigError: There are no recordings, or the output belongs to another model or other options.
        ShrotaError: The work cannot go on; what is done stays.
    """
    started = time.monotonic()
    output = Output(work.output, work.format)
    with _alone(output):
        base, artifact = work.model
        output.require_same(
            RunRecord(
                format=work.format,
                options=work.options,
                base_fingerprint=base,
                artifact_sha256=artifact,
                quantization=work.settings.quantization,
            )
        )
        found = find_recordings(where)
        named = _nameable(found)
        n_nameless = len(found) - len(named)
        shards = _planned(named, output, shard_s, retries)
        done = output.done()
        missing = [shard for shard in shards if shard.name not in done]
        if done:
            n_done = sum(shard.n_files for shard in shards if shard.name in done)
            print(f"{n_done} of the files are done already", file=sys.stderr)
        audio_s = 0.0
        try:
            if missing:
                with audio_bar("transcribing", sum(shard.expected_s for shard in missing)) as bar:
                    _run(run, work, missing, bar)
                    audio_s = bar.done_s
        finally:
            n_quarantined = output.write_quarantine()
            if isinstance(output.store, LocalStore):
                output.store.sweep()
        done = output.done()
    return Summary(
        n_files=len({path for shard in shards for path in shard.paths}) + n_nameless,
        n_quarantined=n_quarantined,
        n_missing=sum(shard.n_files for shard in shards if shard.name not in done) + n_nameless,
        audio_s=audio_s,
        elapsed_s=time.monotonic() - started,
    )


def run_here(work: Work, shards: Sequence[Shard]) -> Generator[Report, None, None]:
    """Do shards in this process."""
    step = Step(work)
    threads = ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard")
    waiting, running = list(shards)[::-1], set[Future[Report]]()
    try:
        while waiting or running:
            while waiting and len(running) < SHARDS_AT_ONCE:
                running.add(threads.submit(step.run, waiting.pop()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        step.close()


def _run(run: Runner, work: Work, shards: Sequence[Shard], bar: AudioBar) -> None:
    """Do shards, and show how far they are."""
    expected_s = {shard.name: shard.expected_s for shard in shards}
    n_left, n_quarantined = sum(shard.n_files for shard in shards), 0
    bar.note(f"{n_left} files to go")
    with closing(run(work, shards)) as reports:  # so that a break ends the workers
        for report in reports:
            n_left -= report.n_files
            n_quarantined += report.n_quarantined
            bar.expect(report.audio_s - expected_s[report.shard])
            bar.advance(report.audio_s)
            bar.note(f"{n_left} files to go" + (f", {n_quarantined} in quarantine" if n_quarantined else ""))


def _nameable(found: Sequence[Found]) -> list[Found]:
    """Return the recordings that plans and rows can name, and tell which they cannot."""
    named = []
    for each in found:
        try:
            each.path.encode()
        except UnicodeEncodeError:  # a row is JSON
            print(f"error: {each.path}: its name is not UTF-8, so no result can name it", file=sys.stderr)
        else:
            named.append(each)
    return named


def _planned(found: Sequence[Found], output: Output, shard_s: float, retries: bool) -> list[Shard]:
    """Return the shards of all plans, after a further one for recordings that no plan has."""
    plans = output.plans()
    shards = [shard for plan in plans for shard in plan]
    stamps = {name.path: name.stamp for each in shards for content in each.contents for name in content.names}
    if n_changed := sum(stamps.get(each.path, each.stamp) != each.stamp for each in found):
        print(
            f"warning: {n_changed} recordings have changed since they were planned; they keep their results."
            " Another --output transcribes them anew",
            file=sys.stderr,
        )
    again = set(output.quarantined()) if retries else set()
    new = [each for each in found if each.path not in stamps or each.path in again]
    if not new:
        return shards

    @cache
    def hashes(shard: str) -> dict[str, str]:
        return {row.path: row.sha256 for row in output.rows(shard)}

    planned = plan_shards(new, len(plans), shards, lambda shard, path: hashes(shard).get(path), shard_s)
    output.add_plan(len(plans), planned)
    return [*shards, *planned]


@contextmanager
def _alone(output: Output) -> Iterator[None]:
    """Keep other runs of this machine from the same output.

    Raises:
        ConfigError: Another one is there.
    """
    if not isinstance(output.store, LocalStore):
        yield
        return
    try:
        output.store.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(output.store.directory / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigError([f"{output.where}: another run writes here"]) from error
    except OSError as error:
        raise StorageError(f"{output.where} cannot be written: {error.strerror or error}") from error
