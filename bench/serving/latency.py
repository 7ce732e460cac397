"""Measure waiting times: beside a long recording, after an upload, and at the start of the service."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator

import httpx

from bench.serving.children import Service, service
from bench.serving.figures import Figures, percentiles
from bench.serving.recordings import Recording, join_clips, short_clips
from bench.serving.setup import Setup
from serve.config.progress import progress_bar

CLIP_S = 2.5
BREATH_S = 0.5
"""Pause between the clips sent beside a recording."""
PIECE_BYTES = 1 << 16


def measure_beside(setup: Setup) -> Figures:
    """Send clips of 2 s alone, then while a recording of half an hour is transcribed."""
    recording = join_clips(setup, setup.plan.beside_s)
    clips = short_clips(setup, setup.plan.beside_clips, longest_s=CLIP_S)
    clips = [clips[number % len(clips)] for number in range(setup.plan.beside_clips)]
    with service(setup) as running, progress_bar("beside a recording", 2 * len(clips), "clips") as advance:

        def send_all() -> list[float]:
            latencies_s = []
            for clip in clips:
                time.sleep(BREATH_S)
                started = time.perf_counter()
                running.post(clip)
                latencies_s.append(time.perf_counter() - started)
                advance()
            return latencies_s

        running.post(clips[0])
        alone_s = send_all()
        with _LongRequest(running, recording) as other:
            beside_s = send_all()
            overlapped = other.is_running
    return {
        "clip_s": round(statistics.mean(clip.duration_s for clip in clips), 2),
        "recording_s": round(recording.duration_s, 1),
        "alone_s": percentiles(alone_s),
        "beside_s": percentiles(beside_s),
        "beside_max_s": round(max(beside_s), 3),
        "ratio_of_medians": round(statistics.median(beside_s) / statistics.median(alone_s), 2),
        "recording_outlasted_clips": overlapped,
    }


class _LongRequest:
    """Keep a recording in transcription while the block runs, from its first segment on."""

    def __init__(self, running: Service, recording: Recording) -> None:
        self.is_running = False
        self._service, self._recording = running, recording
        self._begun, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> _LongRequest:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            with self._service.stream(self._recording.path.read_bytes()) as events:
                for event in events:
                    if event["type"] == "segment":
                        self.is_running = True
                        self._begun.set()
                    if self._leave.is_set():
                        return
        finally:
            self.is_running = False
            self._begun.set()


def measure_upload(setup: Setup) -> Figures:
    """Upload an hour of speech and wait for its first segment."""
    recording = join_clips(setup, setup.plan.upload_s)
    size_bytes = recording.path.stat().st_size
    sent_at: list[float] = []

    def pieces() -> Iterator[bytes]:
        with recording.path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
        sent_at.append(time.perf_counter())

    with service(setup) as running:
        (clip,) = short_clips(setup, 1)
        running.post(clip)
        started = time.perf_counter()
        with running.stream(pieces(), **{"content-length": str(size_bytes)}) as events:
            first_s = next(time.perf_counter() for event in events if event["type"] == "segment")
    return {
        "recording_s": round(recording.duration_s, 1),
        "upload_bytes": size_bytes,
        "upload_s": round(sent_at[0] - started, 3),
        "first_segment_after_upload_s": round(first_s - sent_at[0], 3),
    }


def measure_start(setup: Setup) -> Figures:
    """Measure the time from the start of the service, base model cached, to 200 from /ping."""
    ready_s = []
    with progress_bar("starts of the service", setup.plan.starts, "starts") as advance:
        for _ in range(setup.plan.starts):
            with service(setup) as running:
                ready_s.append(running.ready_s)
                assert running.client.get("/ping").status_code == httpx.codes.OK
            advance()
    return {"ready_s": round(statistics.median(ready_s), 2), "runs_s": [round(s, 2) for s in ready_s]}
