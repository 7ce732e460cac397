"""The step that is done again and again, here or by Ray's workers: a shard's recordings -> its result files.

    step = Step(work)                # loads the model
    report = step.run(shard)         # from several threads: one shard's last files meet the next one's first

Recordings of all running shards are transcribed at the same time, so that windows of one length share
batches. A shard that was begun twice and is not done has recordings that may have killed the worker: each is
then transcribed alone, in a process apart, and goes into quarantine if that process dies of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import msgspec

from serve.audio.decode import AudioLimits
from serve.config.settings import Settings
from serve.errors import ConfigError, NotReady, PayloadTooLarge, ServiceError, StorageError, let_go
from serve.model.artifact import MANIFEST, Told
from serve.model.base_model import base_fingerprint
from serve.model.digests import HASHES, described
from serve.options import TranscriptionOptions
from serve.pipeline import MAX_SIDE_BY_SIDE
from serve.service.loading import Served, find_served, load_served
from serve.service.memory import free_memory_bytes
from serve.transcribe.batch.apart import Apart, Died
from serve.transcribe.batch.output import Output
from serve.transcribe.batch.plan import Content, Known, Shard, content_hash, read_recording
from serve.transcribe.batch.rows import EngineFacts, Quarantined, ResultFormat, Row, row_of
from serve.transcribe.transcriber import MAX_BYTES_AT_ONCE, MAX_FILE_BYTES, Transcriber, fault_of
from serve.transcript.events import End

SHARDS_AT_ONCE = 2
"""Shards that a worker has at a time: the last recordings of one are too few to fill batches."""

BATCHES_AHEAD = 4
"""Recordings that are open at a time, in batches of each engine worker: one is decoded, and while others
become ready, the next one fills up."""

UNREADABLE = "unreadable_file"
"""Name of the error of a file that cannot be read."""

FAILED = "failed"
"""Name of the error of a file that the program failed on; the log has the reason."""

FATAL = "worker_died"
"""Name of the error of a file that a worker dies of."""

TIMES_TOGETHER = 2
"""How often a shard is begun with its recordings side by side; whatever killed the worker, further times are
careful."""

TIMES_ALONE = 2
"""How often a recording is tried alone; one death could come of another program that takes the memory."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every worker needs to know; travels to other machines."""

    settings: Settings
    options: TranscriptionOptions
    output: str
    format: ResultFormat
    model: tuple[str, str | None]
    """`model_hashes` of the run."""
    n_threads: int
    """CPU threads of a worker's engine."""
    n_workers: int = 1
    """Workers that share the memory of this machine."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a shard."""

    shard: str
    n_files: int
    n_quarantined: int
    audio_s: float
    """Sound that was transcribed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one recording, by its paths."""

    rows: Sequence[Row] = ()
    quarantined: Sequence[Quarantined] = ()
    audio_s: float = 0.0


class Step:
    """A loaded model with the output that it writes to. `run` may be called by `SHARDS_AT_ONCE` threads."""

    def __init__(self, work: Work) -> None:
        """Load the model.

        Raises:
            StartupError: It cannot be loaded, or is not the model of this run.
            UnsupportedOption: It does not support an option.
        """
        self._work, settings = work, work.settings
        served = find_model(settings)
        if model_hashes(served) != work.model:
            raise ConfigError(["the model on this machine is not the one that the run was started with"])
        pipeline = load_served(
            served,
            engine=settings.engine,
            quantization=settings.quantization,
            n_threads=work.n_threads,
            cache_dir=settings.cache_dir,
        )
        engine = pipeline.engine
        n_together = min(MAX_SIDE_BY_SIDE, BATCHES_AHEAD * engine.usual_batch.windows * engine.n_workers)
        self._transcriber = Transcriber(
            pipeline,
            work.options,
            audio_limits=AudioLimits(max_audio_s=settings.max_audio_s),
            max_batch_windows=settings.max_batch_windows,
            max_batch_s=settings.max_batch_s,
            files_at_once=n_together,
        )
        runtime = type(engine).__module__.split(".")[2]
        self._facts = EngineFacts(
            engine=f"{runtime} {version(runtime)}",
            quantization=settings.quantization,
            base_fingerprint=work.model[0],
            artifact_sha256=work.model[1],
        )
        self._output = Output(work.output, work.format)
        self._room = Room(min(MAX_BYTES_AT_ONCE, free_memory_bytes() // (4 * work.n_workers)))
        self._threads = ThreadPoolExecutor(n_together, thread_name_prefix="file")

    def run(self, shard: Shard) -> Report:
        """Transcribe a shard and write its results; one that is done already is left alone.

        Raises:
            StorageError: A storage of recordings or results does not answer.
            OSError: The results cannot be written.
        """
        if self._output.is_done(shard.name):  # by a worker that was killed before it could tell
            return Report(shard=shard.name, n_files=shard.n_files, n_quarantined=0, audio_s=0.0)
        if self._output.begin(shard.name) <= TIMES_TOGETHER:
            outcomes = list(self._threads.map(self.outcome, shard.contents))
        else:
            with Apart[Content, Outcome](partial(_outcomes_of, self._work)) as apart:
                outcomes = [_outcome_alone(apart, content) for content in shard.contents]
        quarantined = [each for outcome in outcomes for each in outcome.quarantined]
        self._output.write(shard.name, [row for outcome in outcomes for row in outcome.rows], quarantined)
        return Report(
            shard=shard.name,
            n_files=shard.n_files,
            n_quarantined=len(quarantined),
            audio_s=round(sum(outcome.audio_s for outcome in outcomes), 3),
        )

    def close(self) -> None:
        """Break off running work, and free the engine."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._transcriber.close()

    def outcome(self, content: Content) -> Outcome:
        """Return the rows of a recording under all its names, or why there are none.

        Raises:
            StorageError: A storage of recordings or results does not answer.
        """
        if content.known is not None and (row := self._row_of(content.known)) is not None:
            return Outcome(rows=[msgspec.structs.replace(row, path=name.path) for name in content.names])
        with self._room.take(content.n_bytes):
            return self._transcribed(content)

    def _row_of(self, known: Known) -> Row | None:
        return next((row for row in self._output.rows(known.shard) if row.path == known.path), None)

    def _transcribed(self, content: Content) -> Outcome:
        sha256, n_bytes = None, content.n_bytes
        try:
            if n_bytes > MAX_FILE_BYTES:
                raise PayloadTooLarge(MAX_FILE_BYTES)
            data = read_recording(content.names[0].path)
            sha256, n_bytes = content_hash(data), len(data)
            *_, end = self._transcriber.transcribe_bytes(data)
        except (NotReady, StorageError):  # nothing is wrong with the recording
            raise
        except Exception as error:
            code = error.code if isinstance(error, ServiceError) else FAILED if sha256 else UNREADABLE
            why = fault_of(error)
            let_go(error)  # its frames hold the recording
            return _without_result(content, code, why, sha256, n_bytes)
        assert isinstance(end, End), "a pipeline ends with its transcript"
        transcript = end.transcript
        return Outcome(
            rows=[row_of(name.path, sha256, n_bytes, transcript, self._facts) for name in content.names],
            audio_s=transcript.duration_s,
        )


def _without_result(content: Content, error: str, message: str, sha256: str | None, n_bytes: int) -> Outcome:
    return Outcome(
        quarantined=[
            Quarantined(path=name.path, sha256=sha256, n_bytes=n_bytes, error=error, message=message)
            for name in content.names
        ]
    )


def _outcomes_of(work: Work) -> Callable[[Content], Outcome]:
    """Load the model in a process apart."""
    return Step(work).outcome


def _outcome_alone(apart: Apart[Content, Outcome], content: Content) -> Outcome:
    how = ""
    for _ in range(TIMES_ALONE):
        try:
            return apart.ask(content)
        except Died as error:
            how = str(error)
    why = f"a worker that does nothing else dies of it each time: {how}"
    return _without_result(content, FATAL, why, None, content.n_bytes)


class Room:
    """Memory for the recordings that are open; one that is larger than all of it is open alone."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._changed = threading.Condition()

    @contextmanager
    def take(self, n_bytes: int) -> Iterator[None]:
        """Wait until there is room, and keep it while the block runs."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._taken_bytes or self._taken_bytes + n_bytes <= self._limit_bytes
            )
            self._taken_bytes += n_bytes
        try:
            yield
        finally:
            with self._changed:
                self._taken_bytes -= n_bytes
                self._changed.notify_all()


def find_model(settings: Settings) -> Served:
    """Find the model that the settings name.

    Raises:
        ArtifactError, BaseModelError: There is none.
    """
    told = Told(encoder_context=settings.encoder_context)
    return find_served(
        settings.model_dir,
        settings.base_model,
        cache_dir=settings.cache_dir,
        offline=settings.offline,
        told=told,
    )


def model_hashes(served: Served) -> tuple[str, str | None]:
    """Return the base model's fingerprint, and the hash of an artifact's manifest and adapter."""
    fingerprint = base_fingerprint(served.base_dir)
    if served.artifact is None:
        return fingerprint, None
    manifest = served.artifact.path / MANIFEST
    content = manifest.read_bytes() if manifest.is_file() else b""
    adapter = described(served.artifact.adapter_dir)[HASHES]
    return fingerprint, content_hash(content + msgspec.json.encode(adapter, order="sorted"))
