"""Score an artifact, or a base model alone: test set -> scores, and a row per utterance.

Evaluation uses the serving pipeline: its audio decoding, speech detection, windows, features and engine.
Every clip is decoded in its own language and scored by that language's profile. Scores of each kind of voice
and of each language accompany those of the whole. A result is a plain dictionary, ready for JSON; `results`
are {test set: {"base" | "tuned": result}}, test sets with people first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from serve.audio.samples import Samples
from serve.config.progress import progress_bar
from serve.options import NO_ADAPTER, TranscriptionOptions
from serve.pipeline import Pipeline
from serve.service.loading import load_pipeline
from train.config import TrainConfig
from train.data.filters import DropLog, Reason
from train.data.manifest import Clip, load_samples
from train.data.normalise import VERSION
from train.data.records import VOICE_KINDS
from train.errors import DataError
from train.evaluate.scoring import Comparison, WordErrors, compare, score, score_utterances
from train.evaluate.tables import score_table, voices_note
from train.examples.corpus import EvaluationSet

REPORTED_PROFILES = ("raw", "marathi")
"""Default profiles. The last one also scores single utterances."""
_CLIPS_AT_ONCE = 32

Results = dict[str, dict[str, dict[str, Any]]]


def transcribe_clips(
    pipeline: Pipeline, clips: Sequence[Clip], options: TranscriptionOptions, title: str, log: DropLog
) -> list[str | None]:
    """Return the text of each clip, in order; None where a clip cannot be decoded, which `log` counts.

    A clip's own language overrides that of the options.

    Raises:
        DataError: A clip cannot be decoded, and the log is strict.
    """
    texts: list[str | None] = [None] * len(clips)
    by_length = sorted(range(len(clips)), key=lambda index: clips[index].duration_s)
    with progress_bar(title, len(clips), "clips") as advance:
        for start in range(0, len(clips), _CLIPS_AT_ONCE):
            chosen = by_length[start : start + _CLIPS_AT_ONCE]
            waves: dict[int, Samples] = {}
            for index in chosen:
                try:
                    waves[index] = load_samples(clips[index])
                except DataError as error:
                    origin = clips[index].origin
                    log.drop(Reason.UNDECODABLE, origin, str(error).removeprefix(f"{origin}: "))
            each = [replace(options, language=clips[index].language or options.language) for index in waves]
            transcripts = pipeline.transcribe_many(list(waves.values()), each) if waves else []
            for index, transcript in zip(waves, transcripts, strict=True):
                texts[index] = transcript.text
            advance(len(chosen))
    return texts


def evaluate_clips(
    pipeline: Pipeline,
    test: EvaluationSet,
    options: TranscriptionOptions,
    *,
    title: str,
    profiles: Sequence[str] = REPORTED_PROFILES,
    seed: int = 0,
    max_clips: int = 0,
) -> dict[str, Any]:
    """Return scores by profile and group, speed, counts of dropped rows, and a row per utterance.

    Groups and utterances are scored by the last profile.

    Raises:
        DataError: A clip cannot be decoded and the test set is strict, or no clip can be decoded.
    """
    clips = test.clips[:max_clips] if max_clips else test.clips
    started = time.perf_counter()
    heard = zip(clips, transcribe_clips(pipeline, clips, options, title, test.log), strict=True)
    elapsed_s = time.perf_counter() - started
    scored = [(clip, text) for clip, text in heard if text is not None]
    if not scored:
        raise DataError(f"{test.name}: no clip can be decoded")
    clips, texts = [clip for clip, _ in scored], [text for _, text in scored]
    audio_s = sum(clip.duration_s for clip in clips)
    return {
        "test_set": test.name,
        "left_out": test.log.counts,
        "normaliser_version": VERSION,
        "profile": profiles[-1],
        "audio_s": round(audio_s, 1),
        "times_real_time": round(audio_s / elapsed_s, 2),
        **group_scores(clips, texts, profiles, seed=seed),
        "utterances": utterance_rows(clips, texts, profiles[-1]),
    }


def group_scores(
    clips: Sequence[Clip], texts: Sequence[str], profiles: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Return the scores of the whole, of each kind of voice and of each language.

    Returns:
        `scores`: {profile: score} of the whole; `by_kind` and `by_language`: {name: score} by the last
        profile, with seconds of audio, people first.
    """

    def scored(profile: str, chosen: Sequence[int]) -> dict[str, Any]:
        found = score(
            [clips[index].text for index in chosen],
            [texts[index] for index in chosen],
            profile,
            languages=[clips[index].language for index in chosen],
            seed=seed,
        )
        return found.as_dict() | {"audio_s": round(sum(clips[index].duration_s for index in chosen), 1)}

    def scored_by(names: Sequence[str], order: Iterable[str]) -> dict[str, Any]:
        places = {name: [i for i, own in enumerate(names) if own == name] for name in order}
        return {name: scored(profiles[-1], chosen) for name, chosen in places.items() if chosen}

    languages = [clip.language or "unknown" for clip in clips]
    return {
        "scores": {profile: scored(profile, range(len(clips))) for profile in profiles},
        "by_kind": scored_by([clip.kind for clip in clips], VOICE_KINDS),
        "by_language": scored_by(languages, dict.fromkeys(languages)),
    }


def utterance_rows(clips: Sequence[Clip], texts: Sequence[str], profile: str) -> list[dict[str, Any]]:
    """Return a plain row for each clip, with its errors by a profile; rates are fractions."""
    scores = score_utterances(
        [clip.text for clip in clips], texts, profile, languages=[clip.language for clip in clips]
    )
    return [
        {
            "origin": clip.origin,
            "voice": clip.voice,
            "kind": clip.kind,
            "language": clip.language,
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
    """Return how the tuned model differs from the base on one test set; None if only one was scored."""
    if not {"base", "tuned"} <= models.keys():
        return None
    return compare(word_errors(models["base"]), word_errors(models["tuned"]), seed=seed)


def evaluate_models(
    pipeline: Pipeline,
    tests: Sequence[EvaluationSet],
    options: TranscriptionOptions,
    *,
    against_base: bool,
    profiles: Sequence[str] = REPORTED_PROFILES,
    seed: int = 0,
    max_clips: int = 0,
) -> Results:
    """Score the served model on each test set and, with `against_base`, the base model alone."""
    tuned = pipeline.engine.has_adapter
    labels: list[tuple[str, str | None]] = [("tuned" if tuned else "base", options.adapter)]
    if against_base and tuned:
        labels.insert(0, ("base", NO_ADAPTER))
    results: Results = {}
    for test in sorted(tests, key=_kind_rank):
        models = results.setdefault(test.name, {})
        for label, adapter in labels:
            models[label] = evaluate_clips(
                pipeline,
                test,
                replace(options, adapter=adapter),
                title=f"{test.name}, {label}",
                profiles=profiles,
                seed=seed,
                max_clips=max_clips,
            )
        if comparison := compare_with_base(models, seed=seed):
            models["tuned"]["against_base"] = {k: round(v, 5) for k, v in asdict(comparison).items()}
    return results


def evaluate_artifact(
    artifact_dir: Path, config: TrainConfig, tests: Sequence[EvaluationSet], console: Console
) -> Results:
    """Score the exported artifact, and the base model if configured, on the configuration's test sets."""
    if not tests:
        return {}
    pipeline = load_pipeline(
        artifact_dir, quantization=config.quantization, n_threads=config.n_threads or os.cpu_count() or 1
    )
    try:
        results = evaluate_models(
            pipeline,
            tests,
            TranscriptionOptions(language=config.language, task=config.task),
            against_base=config.evaluate_base,
            profiles=tuple(dict.fromkeys(("raw", config.profile))),
            max_clips=config.max_eval_clips,
        )
    finally:
        pipeline.engine.close()
    console.print(score_table(results))
    console.print(voices_note(results))
    report_left_out(tests, console)
    return results


def _kind_rank(test: EvaluationSet) -> int:
    """Return the sort key of a test set; sets with people come first."""
    return min(VOICE_KINDS.index(clip.kind) for clip in test.clips)


def report_left_out(tests: Sequence[EvaluationSet], console: Console) -> None:
    """Print the rows of each test set that were not scored."""
    for test in tests:
        test.log.report(console, title=f"{test.name}: {len(test.log)} rows not scored")
