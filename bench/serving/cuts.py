"""Check pieces cut at random from a long recording: times in order and inside, streamed and whole equal."""

from __future__ import annotations

import io
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import soundfile

from bench.serving.children import Service, service
from bench.serving.figures import Figures
from bench.serving.recordings import join_clips, read_samples
from bench.serving.setup import CLIENTS, Setup
from serve.audio.samples import SAMPLE_RATE
from serve.config.progress import progress_bar

PIECE_S = (0.5, 12.0)
TOLERANCE_S = 1e-3
"""Times are written with three decimals."""


def measure_cuts(setup: Setup) -> Figures:
    """Post pieces with word times, whole and streamed; count what is out of order, outside, or different."""
    samples = read_samples(join_clips(setup, setup.plan.long_s).path)
    rng = np.random.default_rng(0)
    lengths_s = rng.uniform(*PIECE_S, setup.plan.cuts)
    starts_s = rng.uniform(0, len(samples) / SAMPLE_RATE - lengths_s)

    def check(place: tuple[float, float]) -> tuple[int, int, bool, bool]:
        start_s, length_s = place
        first = round(start_s * SAMPLE_RATE)
        piece = samples[first : first + round(length_s * SAMPLE_RATE)]
        body = io.BytesIO()
        soundfile.write(body, piece, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        whole = _post(running, body.getvalue())
        streamed = _streamed(running, body.getvalue())
        advance()
        times = _times(whole)
        return (
            len(whole["segments"]),
            len(times) - 2 * len(whole["segments"]),
            _are_sound(times, len(piece) / SAMPLE_RATE),
            streamed == whole["text"],
        )

    with (
        service(setup) as running,
        progress_bar("random cuts", setup.plan.cuts, "pieces") as advance,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        found = list(pool.map(check, zip(starts_s.tolist(), lengths_s.tolist(), strict=True)))
    return {
        "pieces": len(found),
        "audio_s": round(float(lengths_s.sum()), 1),
        "segments": sum(n_segments for n_segments, *_ in found),
        "words": sum(n_times for _, n_times, *_ in found) // 2,
        "times_out_of_order_or_outside": sum(not sound for *_, sound, _ in found),
        "streamed_text_differs": sum(not same for *_, same in found),
    }


def _post(running: Service, body: bytes) -> dict[str, Any]:
    answer = running.client.post("/invocations", content=body, params={"word_timestamps": "true"})
    whole: dict[str, Any] = answer.raise_for_status().json()
    return whole


def _streamed(running: Service, body: bytes) -> str:
    with running.stream(body) as events:
        return " ".join(event["text"] for event in events if event["type"] == "segment")


def _times(whole: dict[str, Any]) -> list[float]:
    """Return the times of an answer in the order in which they must not fall."""
    times: list[float] = []
    for segment in whole["segments"]:
        words = [(word["start"], word["end"]) for word in segment["words"]]
        times += [segment["start"], *itertools.chain.from_iterable(words), segment["end"]]
    return times


def _are_sound(times: list[float], duration_s: float) -> bool:
    rising = all(one <= other + TOLERANCE_S for one, other in itertools.pairwise(times))
    return rising and all(-TOLERANCE_S <= time_s <= duration_s + TOLERANCE_S for time_s in times)
