"""Measure how well an artifact, or a base model alone, hears: manifest -> scores and a row per utterance.

What is scored is what is served: the same decoding of audio, speech detection, windows, features and engine.
A result is a plain dictionary, ready for JSON; `results` are {test set: {"base" | "tuned": result}}.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from serve.loading import load_pipeline
from serve.options import NO_ADAPTER, TranscriptionOptions
from serve.pipeline import Pipeline
from train.config import TrainConfig
from train.data.manifest import Clip, load_samples, read_manifest
from train.normalise import VERSION
from train.progress import progress_bar
from train.scoring import Comparison, WordErrors, compare, score, score_utterances
from train.tables import score_table

REPORTED_PROFILES = ("raw", "marathi")
"""Profiles scored where none is named. The last one scores single utterances too."""
_CLIPS_AT_ONCE = 32

Results = dict[str, dict[str, dict[str, Any]]]


def transcribe_clips(
    pipeline: Pipeline, clips: Sequence[Clip], options: TranscriptionOptions, title: str
) -> list[str]:
    """Return the text of each clip, in order.

    Raises:
        DataError: a clip cannot be decoded.
    """
    texts = [""] * len(clips)
    by_length = sorted(range(len(clips)), key=lambda index: clips[index].duration_s)
    with progress_bar(title, len(clips), "clips") as advance:
        for start in range(0, len(clips), _CLIPS_AT_ONCE):
            chosen = by_length[start : start + _CLIPS_AT_ONCE]
            transcripts = pipeline.transcribe_many([load_samples(clips[index]) for index in chosen], options)
            for index, transcript in zip(chosen, transcripts, strict=True):
                texts[index] = transcript.text
            advance(len(chosen))
    return texts


def evaluate_manifest(
    pipeline: Pipeline,
    manifest: Path,
    options: TranscriptionOptions,
    *,
    title: str,
    profiles: Sequence[str] = REPORTED_PROFILES,
    seed: int = 0,
    max_clips: int = 0,
) -> dict[str, Any]:
    """Return scores under every profile, speed, and a row per utterance, scored under the last profile."""
    clips = read_manifest(manifest)
    clips = clips[:max_clips] if max_clips else clips
    started = time.perf_counter()
    texts = transcribe_clips(pipeline, clips, options, title)
    elapsed_s = time.perf_counter() - started
    references = [clip.text for clip in clips]
    audio_s = sum(clip.duration_s for clip in clips)
    return {
        "manifest": manifest.name,
        "normaliser_version": VERSION,
        "profile": profiles[-1],
        "audio_s": round(audio_s, 1),
        "times_real_time": round(audio_s / elapsed_s, 2),
        "scores": {profile: score(references, texts, profile, seed=seed).as_dict() for profile in profiles},
        "utterances": utterance_rows(clips, texts, profiles[-1]),
    }


def utterance_rows(clips: Sequence[Clip], texts: Sequence[str], profile: str) -> list[dict[str, Any]]:
    """Return one plain row for each clip, with its errors under a profile; rates are fractions."""
    scores = score_utterances([clip.text for clip in clips], texts, profile)
    return [
        {
            "origin": clip.origin,
            "voice": clip.voice,
            "duration_s": round(clip.duration_s, 3),
            "reference": clip.text,
            "hypothesis": text,
            **{key: round(v, 5) if isinstance(v, float) else v for key, v in asdict(scored).items()},
        }
        for clip, text, scored in zip(clips, texts, scores, strict=True)
    ]


def word_errors(result: dict[str, Any]) -> WordErrors:
    """Return (n_utterances, 4) hits, substitutions, deletions and insertions of a result's utterances."""
    names = ("hits", "substitutions", "deletions", "insertions")
    return np.array([[row[name] for name in names] for row in result["utterances"]])


def compare_with_base(models: dict[str, dict[str, Any]], *, seed: int = 0) -> Comparison | None:
    """Return how the tuned model differs from the base on one test set; None where only one was scored."""
    if not {"base", "tuned"} <= models.keys():
        return None
    return compare(word_errors(models["base"]), word_errors(models["tuned"]), seed=seed)


def evaluate_models(
    pipeline: Pipeline,
    manifests: Sequence[Path],
    options: TranscriptionOptions,
    *,
    against_base: bool,
    profiles: Sequence[str] = REPORTED_PROFILES,
    seed: int = 0,
    max_clips: int = 0,
) -> Results:
    """Score what the pipeline serves on each manifest, and on request the base model alone beside it."""
    tuned = pipeline.engine.has_adapter
    labels: list[tuple[str, str | None]] = [("tuned" if tuned else "base", options.adapter)]
    if against_base and tuned:
        labels.insert(0, ("base", NO_ADAPTER))
    results: Results = {}
    for manifest in manifests:
        models = results.setdefault(manifest.stem, {})
        for label, adapter in labels:
            models[label] = evaluate_manifest(
                pipeline,
                manifest,
                TranscriptionOptions(language=options.language, task=options.task, adapter=adapter),
                title=f"{manifest.stem}, {label}",
                profiles=profiles,
                seed=seed,
                max_clips=max_clips,
            )
        if comparison := compare_with_base(models, seed=seed):
            models["tuned"]["against_base"] = {k: round(v, 5) for k, v in asdict(comparison).items()}
    return results


def evaluate_artifact(artifact_dir: Path, config: TrainConfig, console: Console) -> Results:
    """Score the exported artifact on the configuration's test manifests, with the base model beside it."""
    if not config.test_manifests:
        return {}
    pipeline = load_pipeline(
        artifact_dir, quantization=config.quantization, n_threads=config.n_threads or os.cpu_count() or 1
    )
    try:
        results = evaluate_models(
            pipeline,
            config.test_manifests,
            TranscriptionOptions(language=config.language, task=config.task),
            against_base=config.evaluate_base,
            profiles=tuple(dict.fromkeys(("raw", config.profile))),
            max_clips=config.max_eval_clips,
        )
    finally:
        pipeline.engine.close()
    console.print(score_table(results))
    return results
