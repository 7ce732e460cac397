"""Score an artifact, or a base model alone, on a test set through the serving pipeline.

    python -m train.evaluate --model-dir DIR --manifest data/mr/test-everyday.jsonl
    python -m train.evaluate --model-dir DIR --manifest FILE.jsonl --json out.json --against-base
    python -m train.evaluate --base-model openai/whisper-base --manifest FILE.jsonl --language mr

What is scored is what is served: the same decoding of audio, speech detection, windows, features and engine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from serve.artifact import load_manifest
from serve.engine import Quantization
from serve.errors import ShrotaError
from serve.features import Samples
from serve.loading import load_pipeline
from serve.options import NO_ADAPTER, TranscriptionOptions
from serve.pipeline import Pipeline
from train.config import TrainConfig
from train.data.corpus import EvaluationSet, load_evaluation_set
from train.data.filters import DropLog, Reason
from train.data.manifest import Clip, load_samples
from train.errors import DataError
from train.normalise import VERSION
from train.progress import progress_bar
from train.scoring import score

REPORTED_PROFILES = ("raw", "marathi")
_CLIPS_AT_ONCE = 32


def transcribe_clips(
    pipeline: Pipeline, clips: Sequence[Clip], options: TranscriptionOptions, title: str, log: DropLog
) -> list[str | None]:
    """Return the text of each clip, in order; None where a clip cannot be decoded, which `log` counts.

    Raises:
        DataError: a clip cannot be decoded, and the log is strict.
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
            transcripts = pipeline.transcribe_many(list(waves.values()), options) if waves else []
            for index, transcript in zip(waves, transcripts, strict=True):
                texts[index] = transcript.text
            advance(len(chosen))
    return texts


def evaluate_clips(
    pipeline: Pipeline, test: EvaluationSet, options: TranscriptionOptions, *, title: str, max_clips: int = 0
) -> dict[str, Any]:
    """Return scores under every reported profile, speed, what was left out, and a row for each utterance.

    Raises:
        DataError: a clip cannot be decoded and the test set is strict, or none can be.
    """
    clips = test.clips[:max_clips] if max_clips else test.clips
    started = time.perf_counter()
    heard = zip(clips, transcribe_clips(pipeline, clips, options, title, test.log), strict=True)
    elapsed_s = time.perf_counter() - started
    scored = [(clip, text) for clip, text in heard if text is not None]
    if not scored:
        raise DataError(f"{test.name}: no clip can be decoded")
    clips, texts = [clip for clip, _ in scored], [text for _, text in scored]
    references = [clip.text for clip in clips]
    audio_s = sum(clip.duration_s for clip in clips)
    return {
        "test_set": test.name,
        "left_out": test.log.counts,
        "normaliser_version": VERSION,
        "audio_s": round(audio_s, 1),
        "times_real_time": round(audio_s / elapsed_s, 2),
        "scores": {profile: score(references, texts, profile).as_dict() for profile in REPORTED_PROFILES},
        "utterances": [
            {"origin": clip.origin, "voice": clip.voice, "reference": clip.text, "hypothesis": text}
            for clip, text in zip(clips, texts, strict=True)
        ],
    }


def evaluate_artifact(
    artifact_dir: Path, config: TrainConfig, tests: Sequence[EvaluationSet], console: Console
) -> dict[str, Any]:
    """Score the exported artifact on the configuration's test sets, with the base model beside it."""
    if not tests:
        return {}
    results: dict[str, Any] = {}
    pipeline = load_pipeline(
        artifact_dir, quantization=config.quantization, n_threads=_threads(config.n_threads)
    )
    try:
        for test in tests:
            for label, adapter in (("base", NO_ADAPTER), ("tuned", None)):
                if label == "base" and not config.evaluate_base:
                    continue
                options = TranscriptionOptions(language=config.language, task=config.task, adapter=adapter)
                results.setdefault(test.name, {})[label] = evaluate_clips(
                    pipeline,
                    test,
                    options,
                    title=f"{test.name}, {label}",
                    max_clips=config.max_eval_clips,
                )
    finally:
        pipeline.engine.close()
    console.print(score_table(results))
    report_left_out(tests, console)
    return results


def report_left_out(tests: Sequence[EvaluationSet], console: Console) -> None:
    """Print what each test set lacks: its scores are not those of the whole set."""
    for test in tests:
        test.log.report(console, title=f"{test.name}: {len(test.log)} rows not scored")


def score_table(results: dict[str, Any]) -> Table:
    """Return a table of {test set: {model: result}}, in per cent, that fits a terminal of 80 columns."""
    table = Table(title="per cent; lower is better, except script", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("test set", "model", "profile"):
        table.add_column(column, no_wrap=True)
    for column in ("WER", "95 % interval", "CER", "script"):
        table.add_column(column, justify="right", no_wrap=True)
    for test_set, models in results.items():
        for label, result in models.items():
            for profile, values in result["scores"].items():
                names = ("wer", "wer_low", "wer_high", "cer", "script_fidelity")
                wer, low, high, cer, script = (f"{100 * values[name]:.1f}" for name in names)
                table.add_row(test_set, label, profile, wer, f"{low} to {high}", cer, script)
    return table


def _threads(n_threads: int) -> int:
    return n_threads or os.cpu_count() or 1


def _language_of(model_dir: Path | None) -> str:
    """Return the language of an artifact; that of sources which name none."""
    if model_dir is not None and (model_dir / "manifest.json").is_file():
        return load_manifest(model_dir).language or TrainConfig.language
    return TrainConfig.language


def main(
    manifest: Annotated[
        list[str],
        typer.Option(help="FILE.jsonl or any other source, such as fleurs; may be given several times."),
    ],
    model_dir: Annotated[Path | None, typer.Option(help="Artifact, or base model directory.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Base model to score alone, or to put under the artifact.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language code; the artifact's own by default.")
    ] = None,
    against_base: Annotated[
        bool, typer.Option(help="Score the base model alone beside the artifact.")
    ] = False,
    quantization: Annotated[str, typer.Option(help="int8 (as served), int4 or none.")] = "int8",
    max_clips: Annotated[
        int, typer.Option(help="Score at most this many clips of each manifest; 0: all.")
    ] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option(help="Leave bad rows out and say how many, instead of ending at the first.")
    ] = False,
    prepare_dir: Annotated[
        Path, typer.Option(help="Where sources are decoded to that are no manifests or shards.")
    ] = Path("data/prepared"),
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write scores and every utterance here.")
    ] = None,
) -> None:
    """Score a model on manifests through the serving pipeline: WER, CER and what hides behind them.

    Example: python -m train.evaluate --model-dir DIR --manifest test.jsonl --json out.json
    """
    if quantization not in ("int8", "int4", "none"):
        raise typer.BadParameter("quantization is int8, int4 or none")
    chosen: Quantization = quantization  # type: ignore[assignment]
    results: dict[str, Any] = {}
    try:
        code = language or _language_of(model_dir)
        tests = [load_evaluation_set(text, code, prepare_dir, strict=not skip_bad) for text in manifest]
        pipeline = load_pipeline(model_dir, base_model, quantization=chosen, n_threads=_threads(threads))
        tuned = pipeline.engine.has_adapter
        labels: list[tuple[str, str | None]] = [("tuned" if tuned else "base", None)]
        if against_base and tuned:
            labels.insert(0, ("base", NO_ADAPTER))
        for test in tests:
            for label, adapter in labels:
                options = TranscriptionOptions(language=language, adapter=adapter)
                results.setdefault(test.name, {})[label] = evaluate_clips(
                    pipeline, test, options, title=f"{test.name}, {label}", max_clips=max_clips
                )
    except ShrotaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    console = Console()
    console.print(score_table(results))
    report_left_out(tests, console)
    if json_path:
        record = {
            "model_dir": str(model_dir),
            "base_model": base_model,
            "quantization": quantization,
            "results": results,
        }
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
