"""Check answers over HTTP: word errors on the test sets, a streamed recording, bad input."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from bench.serving.children import Service, service
from bench.serving.figures import Figures, times_real_time
from bench.serving.recordings import join_clips
from bench.serving.setup import CLIENTS, Setup
from serve.audio.samples import SAMPLE_RATE
from serve.config.progress import progress_bar
from train.data.manifest import Clip, load_samples, read_audio, read_manifest
from train.evaluate.evaluation import REPORTED_PROFILES, group_scores
from train.evaluate.scoring import score

STREAMED_S = 300.0


def measure_accuracy(setup: Setup) -> Figures:
    """Post the test sets, to the adapter and in part to the base model alone."""
    plan = setup.plan
    with service(setup) as running:
        return {
            manifest.stem: {
                "tuned": _post_manifest(running, manifest, None, plan.accuracy_clips),
                **(
                    {"base": _post_manifest(running, manifest, "none", plan.base_clips)}
                    if plan.base_clips
                    else {}
                ),
            }
            for manifest in setup.manifests
        }


def _post_manifest(running: Service, manifest: Path, adapter: str | None, max_clips: int) -> Figures:
    """Post clips of a manifest from eight clients, and score the answers."""
    clips = read_manifest(manifest)[: max_clips or None]
    parameters = {} if adapter is None else {"adapter": adapter}

    def post(clip: Clip) -> str:
        answer = running.client.post("/invocations", content=read_audio(clip), params=parameters)
        text: str = answer.raise_for_status().json()["text"]
        advance()
        return text

    with (
        progress_bar(f"{manifest.stem}, {adapter or 'tuned'}", len(clips), "clips") as advance,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        started = time.perf_counter()
        texts = list(pool.map(post, clips))
        seconds = time.perf_counter() - started
    audio_s = sum(clip.duration_s for clip in clips)
    return {
        "manifest": manifest.name,
        "audio_s": round(audio_s, 1),
        "times_real_time": times_real_time(audio_s, seconds),
        **group_scores(clips, texts, REPORTED_PROFILES),
    }


def measure_streaming(setup: Setup) -> Figures:
    """Post five minutes of speech for NDJSON, and note when each line comes."""
    recording = join_clips(setup, min(STREAMED_S, setup.plan.long_s))
    seen_s: dict[str, list[float]] = {}
    text: list[str] = []
    with service(setup) as running:
        body = recording.path.read_bytes()
        started = time.perf_counter()
        with running.stream(body) as events:
            for event in events:
                seen_s.setdefault(event["type"], []).append(time.perf_counter() - started)
                if event["type"] == "segment":
                    text.append(event["text"])
        whole_s = time.perf_counter() - started
    first_s = seen_s["segment"][0]
    return {
        "audio_s": round(recording.duration_s, 1),
        "segments": len(text),
        "first_segment_s": round(first_s, 2),
        "whole_answer_s": round(whole_s, 2),
        "first_segment_share": round(first_s / whole_s, 4),
        "times_real_time": times_real_time(recording.duration_s, whole_s),
        "scores": {
            profile: score([recording.text], [" ".join(text)], profile).as_dict()
            for profile in REPORTED_PROFILES
        },
    }


def measure_bad_input(setup: Setup) -> Figures:
    """Post bad input; after each, the next good request must succeed."""
    clip = read_manifest(setup.manifests[0])[0]
    samples = load_samples(clip)
    mp3, empty_wav = io.BytesIO(), io.BytesIO()
    soundfile.write(mp3, samples, SAMPLE_RATE, format="MP3")
    soundfile.write(empty_wav, np.zeros(0, np.float32), SAMPLE_RATE, format="WAV")
    bodies = {
        "text file": ("audio/wav", b"This is not audio.\n" * 50),
        "empty body": ("audio/wav", b""),
        "truncated MP3": ("audio/mpeg", mp3.getvalue()[: len(mp3.getvalue()) // 2 + 7]),
        "WAV without samples": ("audio/wav", empty_wav.getvalue()),
    }
    results: Figures = {}
    with service(setup) as running:
        for name, (content_type, body) in bodies.items():
            headers = {"content-type": content_type}
            bad = running.client.post("/invocations", content=body, headers=headers)
            good = running.client.post("/invocations", content=read_audio(clip))
            results[name] = {
                "status": bad.status_code,
                **bad.json()["error"],
                "next_request": good.status_code,
            }
    return results
