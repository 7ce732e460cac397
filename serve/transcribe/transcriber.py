"""Transcribe many files at a time, so that windows of equal length share batches.

Knows no command line; `serve.transcribe` uses it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import soundfile
import structlog

from serve.audio.container import MP3, sniff_container
from serve.audio.decode import AudioLimits, open_audio
from serve.config.progress import AudioBar
from serve.engine.scheduling.admission import Admission
from serve.engine.scheduling.fair_queue import BatchLimits
from serve.engine.scheduling.scheduler import Scheduler
from serve.engine.scheduling.ticket import Ticket
from serve.errors import PayloadTooLarge, ServiceError
from serve.model.durable_write import write_whole
from serve.options import TranscriptionOptions
from serve.pipeline import Pipeline
from serve.transcribe.files import Job, Problem
from serve.transcript.events import End, Event, Segment
from serve.transcript.formats import Format

FILES_AT_ONCE = 16
MAX_BYTES_AT_ONCE = 1 << 30
"""Total size of files that are open at a time; a larger file is transcribed alone."""

MAX_FILE_BYTES = 8 << 30
"""Largest file that is read; four hours of uncompressed stereo take half as much."""

USUAL_BYTES_PER_S = 16_000
"""Data rate for guessing the duration of a file whose header does not tell: 128 kbit/s."""

FEWEST_BYTES_PER_S = 500
"""A header that implies a lower data rate is not believed; the most efficient speech codecs need this
much."""

HEAD_BYTES = 4_096
"""Bytes read to recognise a container."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Measured:
    """A job, with its expected amount of work."""

    job: Job
    n_bytes: int
    expected_s: float
    """Estimated duration, for the order of work and the progress bar."""


class Transcriber:
    """A loaded pipeline, with the options of its transcripts."""

    def __init__(
        self,
        pipeline: Pipeline,
        options: TranscriptionOptions,
        *,
        audio_limits: AudioLimits,
        max_batch_windows: int | None,
        max_batch_s: float | None,
        files_at_once: int = FILES_AT_ONCE,
    ) -> None:
        """Start the engine's threads.

        Args:
            files_at_once: Most recordings that are transcribed at a time.

        Raises:
            UnsupportedOption: The served model does not support an option.
        """
        pipeline.resolve(options)
        self._pipeline = pipeline
        self._options = options
        self._limits = audio_limits
        # Latency does not matter offline, so batches may take any time.
        limits = BatchLimits(max_batch_windows, max_batch_s, target_s=math.inf)
        self._scheduler = Scheduler(
            pipeline.engine, admission=Admission(max_requests=files_at_once), limits=limits
        )

    def transcribe(self, path: Path) -> Iterator[Event]:
        """Yield the events of one file.

        Raises:
            ServiceError: The file is not usable, or the transcription broke off.
            OSError: The file cannot be read.
        """
        with self._scheduler.admit() as ticket:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise PayloadTooLarge(MAX_FILE_BYTES)
            yield from self._events(path.read_bytes(), ticket)

    def transcribe_bytes(self, data: bytes) -> Iterator[Event]:
        """Yield the events of one recording.

        Raises:
            ServiceError: The recording is not usable, or the transcription broke off.
        """
        with self._scheduler.admit() as ticket:
            yield from self._events(data, ticket)

    def _events(self, data: bytes, ticket: Ticket) -> Iterator[Event]:
        split, track = self._options.channels == "split", self._options.track
        with open_audio(data, self._limits, split=split, track=track) as recording:
            yield from self._pipeline.transcribe(recording, self._options, ticket)

    def write_all(
        self,
        jobs: Sequence[Measured],
        answer_format: Format,
        bar: AudioBar,
        *,
        on_written: Callable[[Job], None],
        on_problem: Callable[[Problem], None],
    ) -> None:
        """Transcribe files into files; a failure does not stop the others.

        Args:
            jobs: Done in order of length, so that similar lengths share batches.
            bar: Advanced by the seconds of audio done.
            on_written: Called with each finished job.
            on_problem: Called with each failure.
        """
        waiting = sorted(jobs, key=lambda measured: measured.expected_s, reverse=True)
        running: dict[Future[None], Measured] = {}
        workers = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="file")
        try:
            while waiting or running:
                while waiting and _has_room(waiting[-1], list(running.values())):
                    measured = waiting.pop()
                    running[workers.submit(self._write, measured, answer_format, bar)] = measured
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    job = running.pop(future).job
                    if (sentence := _fault(future)) is None:
                        on_written(job)
                    else:
                        on_problem(Problem(str(job.source), sentence))
                bar.note(f"{len(waiting) + len(running)} files to go")
        finally:
            workers.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Break off running work, and free the engine."""
        self._scheduler.close(timeout_s=1.0)

    def _write(self, measured: Measured, answer_format: Format, bar: AudioBar) -> None:
        encoder = answer_format.new_encoder()
        events = watched(self.transcribe(measured.job.source), bar, measured.expected_s)
        write_whole(measured.job.target, b"".join([encoder.encode(event) for event in events]))


def measure(job: Job) -> Measured:
    """Estimate a recording's duration.

    Raises:
        OSError: There is no such file.
    """
    n_bytes = job.source.stat().st_size
    return Measured(job, n_bytes, expected_s(job.source, n_bytes))


def expected_s(path: Path, n_bytes: int) -> float:
    """Estimate a recording's duration from its header and its size.

    Raises:
        OSError: There is no such file.
    """
    announced_s = n_bytes / USUAL_BYTES_PER_S
    with path.open("rb") as file:
        container = sniff_container(file.read(HEAD_BYTES))
    # An MP3 declares no length: libsndfile would read all of it, and print its errors.
    if container is not None and container.in_libsndfile and container is not MP3:
        with suppress(soundfile.SoundFileError):
            # It encodes names itself, and fails on those that are not UTF-8.
            announced_s = float(soundfile.info(os.fsencode(path)).duration)
    return min(announced_s, n_bytes / FEWEST_BYTES_PER_S)


def watched(events: Iterator[Event], bar: AudioBar, expected_s: float) -> Iterator[Event]:
    """Pass on the events of one recording, and advance the bar, which expects `expected_s` of it."""
    done_s = 0.0
    try:
        for event in events:
            if isinstance(event, Segment | End):
                at_s = event.end_s if isinstance(event, Segment) else event.transcript.duration_s
                if at_s > expected_s:
                    bar.expect(at_s - expected_s)
                    expected_s = at_s
                bar.advance(max(0.0, at_s - done_s))
                done_s = max(done_s, at_s)
            yield event
    finally:
        bar.expect(done_s - expected_s)  # the recording was shorter than expected, or ended early


def fault_of(error: Exception) -> str:
    """Return a sentence that tells a person why a file has no transcript."""
    if isinstance(error, ServiceError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}".lower()
    _log.error("file.failed", error=type(error).__name__, exc_info=error)
    return "the program failed on this file; the log has the reason"


def _fault(future: Future[None]) -> str | None:
    error = future.exception()
    if error is None:
        return None
    if not isinstance(error, Exception):
        raise error
    return fault_of(error)


def _has_room(candidate: Measured, running: Sequence[Measured]) -> bool:
    n_bytes = candidate.n_bytes + sum(measured.n_bytes for measured in running)
    return not running or (len(running) < FILES_AT_ONCE and n_bytes <= MAX_BYTES_AT_ONCE)
