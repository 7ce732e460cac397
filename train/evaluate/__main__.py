"""Score an artifact, or a base model alone, on a test set through the serving pipeline.

    python -m train.evaluate --model-dir DIR --manifest data/mr/test-everyday.jsonl
    python -m train.evaluate --model-dir DIR --manifest FILE.jsonl --against-base --report DIR
    python -m train.evaluate --model-dir DIR --manifest A.jsonl --manifest 'B.jsonl?language=hi&kind=people'
    python -m train.evaluate --base-model openai/whisper-base --manifest FILE.jsonl --language mr

Test sets are named as `train.data.specs` says; the scores are those of the serving pipeline. A clip is
decoded in the language of its row, of its source, or of `--language`, the first of them that is said. The
JSON holds `summary`, flat rows with people first, and `results`, everything by test set and model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from serve.engine import EngineName, Quantization
from serve.errors import ShrotaError
from serve.model.artifact import load_manifest
from serve.options import TranscriptionOptions
from serve.service.loading import load_pipeline
from train.config import TrainConfig
from train.data.normalise import PROFILES
from train.evaluate.evaluation import REPORTED_PROFILES, evaluate_models, report_left_out
from train.evaluate.findings import draw_findings, findings_markdown
from train.evaluate.tables import comparison_rows, score_summary, score_table, voices_note
from train.examples.corpus import load_evaluation_set


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
        str | None,
        typer.Option(help="Language of clips whose row or source names none; the artifact's own by default."),
    ] = None,
    against_base: Annotated[
        bool, typer.Option(help="Score the base model alone beside the artifact.")
    ] = False,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Normaliser: {', '.join(PROFILES)}. May be given several times; the last one scores single"
            " utterances and groups. By default raw and marathi, which is indic for other languages."
        ),
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="Runtime; auto is ctranslate2, and transformers for int4.")
    ] = "auto",
    quantization: Annotated[Quantization, typer.Option(help="int8 as served, int4 or none.")] = "int8",
    max_clips: Annotated[
        int, typer.Option(help="Score at most this many clips of each manifest; 0: all.", min=0)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Fixes the draws of the bootstrap intervals.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.", min=0)] = 0,
    skip_bad: Annotated[
        bool, typer.Option(help="Leave bad rows out and say how many, instead of ending at the first.")
    ] = False,
    prepare_dir: Annotated[
        Path, typer.Option(help="Where sources are decoded to that are no manifests or shards.")
    ] = Path("data/prepared"),
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write scores and every utterance here.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write tables for people here.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Directory for all of it: tables, scores as JSON, pictures as PNG.")
    ] = None,
) -> None:
    """Score a model on manifests through the serving pipeline: WER, CER and what hides behind them.

    Example: python -m train.evaluate --model-dir DIR --manifest test.jsonl --json out.json
    """
    profiles = tuple(dict.fromkeys(profile or REPORTED_PROFILES))
    if unknown := [name for name in profiles if name not in PROFILES]:
        raise typer.BadParameter(f"'{unknown[0]}' is no profile; choose from {', '.join(PROFILES)}")
    try:
        code = language or _language_of(model_dir)
        tests = [load_evaluation_set(text, code, prepare_dir, strict=not skip_bad) for text in manifest]
        if len({test.name for test in tests}) < len(tests):
            raise typer.BadParameter("manifests must differ in their names: scores are listed by them")
        pipeline = load_pipeline(
            model_dir,
            base_model,
            engine=engine,
            quantization=quantization,
            n_threads=threads or os.cpu_count() or 1,
        )
        results = evaluate_models(
            pipeline,
            tests,
            TranscriptionOptions(language=code),
            against_base=against_base,
            profiles=profiles,
            seed=seed,
            max_clips=max_clips,
        )
    except ShrotaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    console = Console()
    console.print(score_table(results))
    console.print(voices_note(results))
    report_left_out(tests, console)
    for test_set, difference, clips in comparison_rows(results):
        console.print(
            f"{test_set}: WER of tuned minus base {difference}; better / worse / same clips: {clips}"
        )
    record = {
        "model_dir": str(model_dir) if model_dir else None,
        "base_model": base_model,
        "engine": engine,
        "quantization": quantization,
        "seed": seed,
        "summary": score_summary(results),
        "results": results,
    }
    if report:
        draw_findings(results, report, seed=seed)
    for path in (json_path, report and report / "evaluation.json"):
        if path:
            _write_json(record, path)
    for path in (markdown, report and report / "evaluation.md"):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(findings_markdown(results, seed=seed), encoding="utf-8")


def _write_json(record: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
