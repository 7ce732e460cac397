"""Measure whether the service's memory grows with the length of a recording."""

from __future__ import annotations

import time

from bench.serving.children import MemoryWatch, service, tree_gib
from bench.serving.figures import Figures
from bench.serving.recordings import join_clips
from bench.serving.setup import Setup
from serve.config.progress import progress_bar


def measure_memory(setup: Setup) -> Figures:
    """Measure the memory of a new service with each recording; those that take too long are aborted."""
    figures: Figures = {}
    for duration_s in setup.plan.memory_s:
        recording = join_clips(setup, duration_s)
        body = recording.path.read_bytes()
        reached_s, whole = 0.0, False
        # Three hours of FLAC exceed the service's default limit of bodies.
        with service(setup, "--max-body-bytes", str(2 * len(body))) as running:
            idle_gib = tree_gib(running.pid)
            started = time.monotonic()
            title = f"memory, {duration_s / 60:.0f} minutes"
            with (
                MemoryWatch(running.pid) as watch,
                progress_bar(title, round(recording.duration_s), "s of audio") as advance,
                running.stream(body) as events,
            ):
                for event in events:
                    if event["type"] == "segment":
                        advance(round(event["end"]) - round(reached_s))
                        reached_s = event["end"]
                    whole = event["type"] == "end"
                    if time.monotonic() - started > setup.plan.memory_limit_s:
                        break
        figures[f"{duration_s:.0f} s"] = {
            "recording_s": round(recording.duration_s, 1),
            "body_gib": round(len(body) / 2**30, 3),
            "transcribed_s": round(reached_s, 1),
            "whole": whole,
            "idle_gib": round(idle_gib, 3),
            "peak_gib": round(watch.peak_gib, 3),
        }
    return figures
